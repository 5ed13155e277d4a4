"""`rise refer`: a sentence in; the mask of the item that it means out, or why there is none."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rise_perception.cli.predict import load_segmenter
from rise_perception.core.errors import ConfigError

SUMMARY = "find the item that a sentence means: its mask, or none, several, not understood"
EXAMPLES = """\
examples:
  rise refer tote.png "the blue cup behind the box" --out out
  rise refer tote.png "the nearest can" --depth tote-depth.png --out out
  rise refer ask.jsonl --out answers.jsonl
  rise refer tote.png "the fizzy pop" --catalogue names.json --out out

For the picture NAME.png it writes into the folder OUT: NAME.refer.json (status found, none, ambiguous or
not_understood; score, id, box, mask as COCO RLE, candidates), NAME.refer.png (the picture with what was
found, or the candidates) and, when an item was found, NAME.mask.png (255 = the item).

Lines of ask.jsonl are {"image": "a.png", "depth": "a-depth.png", "sentence": "the red box"}; depth may be
left out, and relative paths start at the file's folder. The answers come in the order of the lines; a line
that cannot be answered gets an answer with an error, the others are done, and the exit status is 2.

A catalogue gives names of your own a meaning: {"fizzy pop": "red can", "tea": "green box"}. Priors beside the
grammar: none; file:F, answers of any model as JSON lines; transformers:FOLDER, a local zero-shot detector.
"""
FAILED = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "image", type=Path, metavar="IMAGE", help="image file, or a file of questions, .jsonl"
    )
    parser.add_argument("sentence", nargs="?", metavar="SENTENCE", help="with an image: what to find")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="OUT", help="folder; for questions the file of answers"
    )
    parser.add_argument("--depth", type=Path, metavar="FILE", help="depth image of IMAGE")
    parser.add_argument(
        "--depth-scale",
        type=float,
        metavar="METRES_PER_UNIT",
        help="what 1 means in a depth image, in metres (default: 0.001 for integers, 1 for floats)",
    )
    parser.add_argument(
        "--refer-model",
        default="auto",
        metavar="M",
        help="referring model: folder, name of a shipped one, or none for the grammar alone",
    )
    parser.add_argument(
        "--prior",
        default="grammar",
        metavar="P",
        help="grammar (default), none, file:F or transformers:FOLDER",
    )
    parser.add_argument("--catalogue", type=Path, metavar="FILE", help="JSON file of names of your own")
    parser.add_argument(
        "--model", default="auto", metavar="M", help="segmenter: folder or name (default: auto)"
    )
    parser.add_argument(
        "--device", default="auto", metavar="D", help="auto (default), cpu, cuda, cuda:1, ..."
    )
    parser.add_argument(
        "--score", type=float, metavar="S", help="leave out instances that score below (default: the model's)"
    )


def run(args: argparse.Namespace) -> int:
    """Answer one sentence, or a file of them."""
    asks = args.image.suffix == ".jsonl"
    if asks and (args.sentence is not None or args.depth is not None):
        raise ConfigError(f"{args.image} holds the sentences and names the depth; give nothing beside it")
    if not asks and args.sentence is None:
        raise ConfigError(f'no sentence: give one, as in: rise refer {args.image} "the red box" --out out')
    from rise_perception.inference.device import choose_device
    from rise_perception.language.catalogue import read_catalogue
    from rise_perception.referring.priors import make_prior
    from rise_perception.referring.referrer import Referrer

    catalogue = read_catalogue(args.catalogue) if args.catalogue else None
    prior = make_prior(args.prior)
    referrer = Referrer.load(args.refer_model, choose_device(args.device), prior, catalogue)
    return (_file if asks else _image)(args, referrer)


def _image(args: argparse.Namespace, referrer: Any) -> int:
    from rise_perception.core.files import write_json
    from rise_perception.data.images import read_depth, read_image, write_image
    from rise_perception.referring.pictures import draw_referral

    image = read_image(args.image)
    depth = read_depth(args.depth, args.depth_scale) if args.depth else None
    segmenter = load_segmenter(args, has_depth=depth is not None)
    view = referrer.look(image, depth, segmenter(image, depth), args.image.name)
    answer = referrer.answer(view, args.sentence)
    args.out.mkdir(parents=True, exist_ok=True)
    content = {
        "image": args.image.name,
        "sentence": args.sentence,
        **answer.as_json(view.instances),
        "model": referrer.version,
        "segmenter": segmenter.last_model,
    }
    stem = args.image.stem
    write_json(args.out / f"{stem}.refer.json", content)
    write_image(args.out / f"{stem}.refer.png", draw_referral(image, view.instances, answer, args.sentence))
    mask = args.out / f"{stem}.mask.png"
    if answer.index is not None:
        write_image(mask, answer.mask.astype("uint8") * 255)
    else:
        mask.unlink(missing_ok=True)  # that of an earlier sentence would be taken for this one's
    print(f"{answer.status.name.lower().replace('_', ' ')}: {answer.detail} ({answer.score:.2f})")
    return 0


def _file(args: argparse.Namespace, referrer: Any) -> int:
    from tqdm import tqdm

    from rise_perception.core.files import write_text
    from rise_perception.referring.asking import answer_asks, read_asks

    asks = read_asks(args.image)
    segmenter = load_segmenter(args, has_depth=any(ask.depth for ask in asks))
    with tqdm(total=len(asks), unit="sentence", dynamic_ncols=True) as bar:
        answers = list(answer_asks(asks, segmenter, referrer, args.depth_scale, bar.update))
    write_text(args.out, "".join(f"{json.dumps(answer, allow_nan=False)}\n" for answer in answers))
    counts: dict[str, int] = {}
    for answer in answers:
        name = answer["status"] or "error"
        counts[name] = counts.get(name, 0) + 1
    print(f"{args.out}: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    failed = [answer for answer in answers if answer["status"] is None]
    for answer in failed:
        print(f"rise: error: {args.image}, line {answer['line']}: {answer['error']}", file=sys.stderr)
    return FAILED if failed else 0
