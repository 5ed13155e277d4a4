"""The learning benchmark: what the parts of the method bring at few and at many labels.

It is made of pieces: one training and its evaluation on the test images. Any number of processes work on
one folder; each takes the next piece that is neither finished nor another's. A killed piece is taken up again
where its training stood.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.learning_plan import ROW, Piece
from benchmarks.shelf import write_part, write_shelf
from rise_perception.core.errors import ConfigError, DataError, RiseError
from rise_perception.core.files import write_json
from rise_perception.data.sources import open_images
from rise_perception.data.splits import draw_parts, write_split
from rise_perception.evaluation.coco import coco_scores
from rise_perception.inference.device import describe_device
from rise_perception.training.config import TrainConfig, read_train_config
from rise_perception.training.trainer import Trainer
from rise_perception.training.validation import predicted_pairs

#: The data set that the benchmark makes itself: so few images that 1 % of them (five) is really little.
TRAIN, TEST, VIEWS, SIZE, SEED = 500, 200, 4, (160, 120), 7


class LearningBenchmark:
    """The pieces in one folder.

    Args:
        out: the folder; finished and half-finished pieces in it are kept.
        data: a data set as ``rise scenes stills`` makes it; None: the benchmark makes its own below ``out``.
        configs: table of training configurations with a row for each method.
        device: where networks run.
        command: the command line, for the model cards.
        revision: git revision of the code, for the model cards.
        shelf: folder of real frames (:mod:`benchmarks.shelf`), for the pieces that want them.
    """

    def __init__(
        self,
        out: Path,
        data: Path | None,
        configs: Path,
        device: str,
        command: str,
        revision: str = "",
        shelf: Path | None = None,
    ) -> None:
        self.out, self.configs, self.device, self.shelf = out, configs, device, shelf
        self.data, self._makes_data = data or out / "data", data is None
        self.command, self.revision = command, revision
        #: Pieces that cannot be finished, and why.
        self.failed: dict[Piece, str] = {}

    def folder(self, piece: Piece) -> Path:
        """Where a piece's model and result lie."""
        return self.out / "runs" / piece.name

    def config(self, piece: Piece) -> TrainConfig:
        """What a piece trains."""
        config = read_train_config(f"{self.configs}:{piece.method}")
        split = str(self._split(piece))
        unlabelled = (split,) if config.data.unlabelled and piece.labels < 1 else ()
        teaching, steps = config.self_supervision, config.optimisation
        # The thresholds rise at the same fractions of a training, however long it is.
        every = max(1, round(teaching.threshold_every * piece.iterations / steps.iterations))
        return dataclasses.replace(
            config,
            name=piece.name,
            out=str(self.folder(piece)),
            data=dataclasses.replace(config.data, train=(split,), unlabelled=unlabelled, validation=""),
            network=dataclasses.replace(config.network, input=piece.input, architecture=piece.architecture),
            self_supervision=dataclasses.replace(teaching, threshold_every=every),
            optimisation=dataclasses.replace(steps, seed=piece.seed, iterations=piece.iterations),
        )

    def result(self, piece: Piece) -> dict[str, Any] | None:
        """The row of a finished piece; None when there is none, or only a damaged one."""
        try:
            row = json.loads((self.folder(piece) / "result.json").read_bytes())
            whole = all(type(row[key]) is kind for key, kind in ROW.items())
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return row if whole and Piece.of(row) == piece else None

    def rows(self, pieces: Sequence[Piece]) -> list[dict[str, Any]]:
        """The rows of those pieces that are finished."""
        return [row for piece in pieces if (row := self.result(piece)) is not None]

    def work(self, pieces: Sequence[Piece], workers: int = 2) -> Iterator[Piece]:
        """Finish pieces in their order, leaving those that other processes work on; yields each when done.

        A piece whose training fails is named, noted in ``failed``, and left.

        Args:
            pieces: what to do; finished ones are skipped.
            workers: processes that render the data set.

        Raises:
            ConfigError: a piece has begun with another configuration.
            DataError: ``data`` is no finished data set.
        """
        for piece in pieces:
            self._check(piece)
        if all(self.result(piece) for piece in pieces):
            return
        self._prepare(pieces, workers)
        while True:
            for piece in pieces:
                if piece in self.failed or self.result(piece):
                    continue
                with claim(self.folder(piece) / "lock") as mine:
                    if not mine or self.result(piece):
                        continue
                    self._announce(piece, pieces)
                    try:
                        self._run(piece)
                    except RiseError as error:
                        self.failed[piece] = str(error)
                        print(f"{piece.name} failed: {error}", file=sys.stderr)
                if piece not in self.failed:
                    yield piece
                break  # look from the first piece on: another process may have been killed
            else:
                return

    def _run(self, piece: Piece) -> None:
        config = self.config(piece)
        write_json(self.folder(piece) / "config.json", self._identity(piece))
        trainer = Trainer(config, self.command, self.device, self.revision)
        total, first = config.optimisation.iterations, trainer.iteration
        begun = time.perf_counter()
        trainer.run()
        spent = time.perf_counter() - begun
        scores = coco_scores(predicted_pairs(config.out, self._test(piece), self.device))
        if scores.ap is None:
            raise DataError(f"{self._test(piece)} has no object; give another data set by --data")
        row = {
            **dataclasses.asdict(piece),
            "ap": scores.ap,
            "ap50": scores.ap50,
            "ap75": scores.ap75,
            "split": "scenes",
            "machine": describe_device(self.device),
            # Of the whole training, from this process's share of it: a killed one leaves no time behind.
            "seconds": round(spent * total / (total - first), 1) if first < total else None,
            "config": f"{self.configs.name}:{piece.method}",
            "date": time.strftime("%Y-%m-%d"),
            "revision": self.revision,
        }
        write_json(self.folder(piece) / "result.json", row)

    def _check(self, piece: Piece) -> None:
        """Refuse to go on with a training that began with another configuration."""
        path = self.folder(piece) / "config.json"
        if not path.exists():
            return
        before, now = _flat(json.loads(path.read_bytes())), _flat(self._identity(piece))
        changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        if changed:
            raise ConfigError(
                f"{path.parent} was begun with another configuration ({', '.join(changed)}); give another "
                "folder for the benchmark, or remove this one to do the piece anew"
            )

    def _prepare(self, pieces: Sequence[Piece], workers: int) -> None:
        """Data sets and splits; one process makes them, the others wait for it."""
        with claim(self.out / "data.lock", wait=True):
            tote = [piece for piece in pieces if piece.data == "tote"]
            if tote:
                self._prepare_tote(tote, workers)
            shelf = [piece for piece in pieces if piece.data == "shelf"]
            if shelf:
                self._prepare_shelf(shelf)

    def _prepare_tote(self, pieces: Sequence[Piece], workers: int) -> None:
        if self._makes_data and not self._has_data():
            from rise_perception.simulation.dataset import Settings, write_dataset

            write_dataset(self.data, Settings(TRAIN, 0, TEST, *SIZE, VIEWS, SEED), workers)
        if not self._has_data():
            raise DataError(
                f"{self.data} has no train.json and test.json; finish it by `rise scenes stills`, or "
                "leave --data out: the benchmark then makes its own"
            )
        source = self.data / "train.json"
        keys, views = open_images(source).keys, self._settings().get("views", 1)
        for piece in pieces:
            write_split(self._split(piece), source, keys, piece.labels, piece.seed, views)

    def _prepare_shelf(self, pieces: Sequence[Piece]) -> None:
        """The frames, their splits, and the views without a label as test images."""
        if self.shelf is None:
            raise ConfigError("the shelf's pieces need the folder of its frames; give it by --shelf")
        source = self.out / "shelf" / "train.json"
        if not source.is_file():
            write_shelf(self.shelf, source.parent, SIZE[0])
        keys = open_images(source).keys
        for piece in pieces:
            write_split(self._split(piece), source, keys, piece.labels, piece.seed)
            write_part(source, self._test(piece), draw_parts(keys, piece.labels, piece.seed)[False])

    def _identity(self, piece: Piece) -> dict[str, Any]:
        """What decides a piece's outcome, as it comes out of a JSON file: no places, no means."""
        content = dataclasses.asdict(self.config(piece))
        data, steps = content["data"], content["optimisation"]
        data["unlabelled"], data["train"] = bool(data["unlabelled"]), self._images(piece)
        for section, key in ((content, "out"), (content, "notes"), (data, "workers"), (steps, "threads")):
            del section[key]
        del steps["save_every"]
        return json.loads(json.dumps(content))

    def _images(self, piece: Piece) -> str:
        """How the data set of a piece was made."""
        if piece.data == "shelf":
            return f"shelf, {SIZE[0]} pixels wide"
        made = self._settings()
        if not made:
            return f"`{self.data.name}`"
        made["size"] = f"{made.pop('width')}x{made.pop('height')}"
        return f"`rise scenes stills {' '.join(f'--{key} {value}' for key, value in made.items())} DIR`"

    def _settings(self) -> dict[str, Any]:
        """What the tote data set was made with; nothing where it does not say."""
        try:
            made = json.loads((self.data / "settings.json").read_bytes())
        except OSError:
            return {}
        return dict(made)

    def _has_data(self) -> bool:
        return all((self.data / f"{name}.json").is_file() for name in ("train", "test"))

    def _split(self, piece: Piece) -> Path:
        return self.out / "splits" / f"{piece.data}_{piece.labels:g}_seed{piece.seed}.json"

    def _test(self, piece: Piece) -> Path:
        if piece.data == "tote":
            return self.data / "test.json"
        return self.out / "shelf" / f"test_{piece.labels:g}_seed{piece.seed}.json"

    def _announce(self, piece: Piece, pieces: Sequence[Piece]) -> None:
        """Which piece comes, and how much work is left; a view costs what it cost in the finished pieces."""
        views = {p: _views(self.config(p)) for p in pieces}
        done = {p: row["seconds"] for p in pieces if (row := self.result(p)) is not None}
        timed = {p: seconds for p, seconds in done.items() if seconds}
        text = f"piece {len(done) + 1} of {len(pieces)}: {piece.name}"
        if timed:
            rate = sum(timed.values()) / sum(views[p] for p in timed)
            minutes = rate * sum(count for p, count in views.items() if p not in done) / 60
            text += f"; for one process about {minutes / 60:.1f} h are left"
        print(text, file=sys.stderr)


def _views(config: TrainConfig) -> int:
    steps = config.optimisation
    return steps.iterations * (steps.batch + (steps.unlabelled_batch if config.data.unlabelled else 0))


def _flat(content: dict[str, Any]) -> dict[str, Any]:
    """``section.key`` -> value."""
    return {
        f"{section}.{key}" if key else section: value
        for section, values in content.items()
        for key, value in (values if isinstance(values, dict) else {"": values}).items()
    }


@contextmanager
def claim(path: Path, wait: bool = False) -> Iterator[bool]:
    """Whether this process has the piece of work to itself; a killed process loses its claim at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        try:
            # A lock of the process: the loader's workers do not inherit it, as they would that of flock.
            fcntl.lockf(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            yield False
            return
        yield True  # closing the file gives the lock back
