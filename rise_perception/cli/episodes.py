"""`rise episodes`: what a store of episodes, or pictures taken between grasps, teaches; with pictures."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rise_perception.grasp_learning.capture.episode import Episode
    from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
    from rise_perception.grasp_learning.labelling.episode_labels import EpisodeLabels

SUMMARY = "what grasps teach: verdicts and pictures of an episode store, or of a folder of pictures"
EXAMPLES = """\
examples:
  rise episodes ~/.rise_perception/episodes --out out/episodes
  rise episodes ../shared/data/tote_removal --out out/removal
  rise episodes store_of_robot_2 --merge-into all_robots
  rise episodes ~/.rise_perception/episodes --sentences data/grasps

Of pictures, each is the scene after the grasp that followed the one before; what was grasped is not known.
Each picture shows before, after, what was predicted, and what follows: what was removed (red) and added
(blue), and in colour, outlined in green, what is a label now.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("source", type=Path, help="episode store, or folder of pictures")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write a picture of each episode there")
    parser.add_argument(
        "--merge-into", type=Path, metavar="STORE", help="copy the episodes into this store, each once"
    )
    parser.add_argument(
        "--sentences",
        type=Path,
        metavar="DIR",
        help="write what the grasps say about sentences, as data for `rise train` of a referring model",
    )
    parser.add_argument(
        "--catalogue", type=Path, metavar="F", help="with --sentences: JSON file of the names that were used"
    )
    parser.add_argument(
        "--model", default="auto", metavar="M", help="predicts on pictures: folder, name, or none (auto)"
    )


def run(args: argparse.Namespace) -> int:
    """List, draw and merge; 2 when an episode was damaged."""
    from rise_perception.data.images import write_image
    from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
    from rise_perception.grasp_learning.labelling.grasp_sentences import write_grasp_sentences
    from rise_perception.grasp_learning.labelling.pictures import draw_episode
    from rise_perception.language.catalogue import read_catalogue

    store = _store(args.source)
    counts: Counter[str] = Counter()
    for name, episode, labels in _of_store(store) if store else _of_pictures(args.source, args.model):
        counts[f"{labels.verdict.value}: {labels.cause.value}"] += 1
        print(f"{name}: {labels.verdict.value} ({labels.cause.value}): {labels.reason}")
        if args.out:
            write_image(args.out / f"{name}.jpg", draw_episode(episode, labels))
        if args.merge_into and not store:
            with EpisodeStore(args.merge_into, write=True) as target:
                target.add(episode, labels)
    if args.merge_into and store:
        with EpisodeStore(args.merge_into, write=True) as target:
            print(f"{args.merge_into}: {target.merge(store)} episodes are new")
    for verdict, count in sorted(counts.items()):
        print(f"{count:6} {verdict}")
    if args.sentences:
        names = read_catalogue(args.catalogue) if args.catalogue else None
        found = write_grasp_sentences(args.sentences, _of_store(store) if store else (), names)
        print(f"{args.sentences}: " + ", ".join(f"{count} {what}" for what, count in sorted(found.items())))
    damaged = store.damaged() if store else []
    for sentence in damaged:
        print(f"left out: {sentence}")
    return 2 if damaged else 0


def _store(source: Path) -> EpisodeStore | None:
    """The store at ``source``; None where there are pictures instead."""
    from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
    from rise_perception.grasp_learning.capture.recordings import has_pictures

    return None if has_pictures(source) else EpisodeStore(source)


def _of_store(store: EpisodeStore) -> Iterator[tuple[str, Episode, EpisodeLabels]]:
    for entry, episode, labels in store:
        yield entry.id, episode, labels


def _of_pictures(folder: Path, model: str) -> Iterator[tuple[str, Episode, EpisodeLabels]]:
    """Each picture and the next one as the two sides of a grasp."""
    from rise_perception.grasp_learning.capture.recordings import PictureGrasps, Predictor
    from rise_perception.grasp_learning.labelling.label_episode import label_episode

    predictor = None
    if model != "none":
        from rise_perception.inference.segmenter import Segmenter

        predictor = Predictor(Segmenter.load(model))
    for taken in PictureGrasps(folder).episodes(lambda: None):
        episode = taken if predictor is None else predictor.complete(taken)
        yield episode.grasp.grasp_id, episode, label_episode(episode)
