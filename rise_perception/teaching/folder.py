"""The folder of a taught model: one writer at a time, one set of pictures for ever, and where it stands."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rise_perception.core.errors import DataError, ModelError
from rise_perception.core.files import write_json
from rise_perception.data.annotated import AnnotatedSet
from rise_perception.network.card import CARD, WEIGHTS
from rise_perception.training.trainer import CHECKPOINT

#: Below the model's folder: rounds, state and lock.
WORK = "teach"
STATE = "state.json"


@dataclass
class State:
    """How far the teaching is.

    Attributes:
        asked: what makes it this teaching and no other: checksum of the pictures, start, seed, ...
        seconds_per_step: measured on this machine; 0 before.
        precision: ``fp32`` or ``bf16``, whichever is faster here.
        steps: round -> its number of steps.
        rounds: names of the rounds that are done.
        done: the model is written.
    """

    asked: dict[str, Any]
    seconds_per_step: float = 0.0
    precision: str = "fp32"
    steps: dict[str, int] = field(default_factory=dict)
    rounds: list[str] = field(default_factory=list)
    done: bool = False

    def save(self, out: Path) -> None:
        """Write it atomically."""
        write_json(out / WORK / STATE, self.__dict__)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep the folder for this process.

    Raises:
        ModelError: another process teaches into it, or it cannot be written.
    """
    try:
        (out / WORK).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out / WORK / "lock", os.O_CREAT | os.O_RDWR, 0o666)
    except OSError as error:
        raise ModelError(f"{out} cannot be written ({error.strerror}); give another --out") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ModelError(
                f"another `rise teach` is writing to {out}; wait for it, or give another --out"
            ) from None
        yield
    finally:
        os.close(descriptor)


def refuse_foreign(out: Path) -> None:
    """Refuse a folder that holds a model or a run that was not taught.

    Raises:
        ModelError: it does; nothing was touched.
    """
    if (out / WORK / STATE).is_file():
        return
    foreign = [name for name in (CARD, WEIGHTS, CHECKPOINT) if (out / name).exists()]
    if foreign:
        raise ModelError(
            f"{out} holds another network ({foreign[0]}) that `rise teach` has not made; give another --out"
        )


def open_state(out: Path, asked: dict[str, Any]) -> State:
    """The state of this teaching, new or as a killed run left it.

    Raises:
        ModelError: the folder holds the teaching of something else, or its state is damaged.
    """
    path = out / WORK / STATE
    if not path.is_file():
        state = State(asked)
        state.save(out)
        return state
    try:
        state = State(**json.loads(path.read_bytes()))
    except (ValueError, TypeError, RecursionError):
        raise ModelError(f"{path} is damaged; remove {out}, or give another --out") from None
    different = [key for key in asked if state.asked.get(key) != asked[key]]
    if different:
        key = different[0]
        raise ModelError(
            f"{out} was taught with another {key} ({_short(state.asked.get(key))}, now "
            f"{_short(asked[key])}); remove it, or give another --out"
        )
    return state


def checksum(annotated: AnnotatedSet) -> str:
    """SHA-256 of pictures, depth and annotations; the order of the annotations does not matter.

    Raises:
        DataError: a picture cannot be read.
    """
    digest = hashlib.sha256(repr(annotated.classes).encode())
    for picture in annotated.pictures:
        objects = [(k, str(rle["counts"])) for k, rle in zip(picture.classes, picture.masks, strict=True)]
        digest.update(repr((picture.name, picture.size, objects, picture.ignored)).encode())
        for path in (picture.path, picture.depth):
            if path is not None:
                try:
                    digest.update(path.read_bytes())
                except OSError as error:
                    raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:12]}..."
