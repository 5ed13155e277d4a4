"""JSON from disk: bounded in size and depth, finite in its numbers, and never an exception of Python's own.

Models, episodes and what the learner remembers may come from other machines, and disks fail. Whatever a file
holds, its reader gets a value that it can work with or an error that names file, field, value and remedy.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TypeVar

from rise_perception.core.config import LARGEST, build_config, shown
from rise_perception.core.errors import DataError, RiseError
from rise_perception.core.files import read_bounded

Record = TypeVar("Record")

#: Bytes of a file about one thing: a card, the active version, what is remembered.
SMALL = 1 << 20
#: Bytes of a data set's annotations; larger ones do not fit into a machine's memory once they are read.
ANNOTATIONS = 2 << 30
#: How deep lists and mappings may lie in each other. What walks through them does so recursively.
DEEPEST = 24
_LONGEST_NUMBER = 400  # digits; more than any float has
_REMEDY = "restore it from where it came, or remove it"


def read_json(
    path: str | Path,
    most_bytes: int = SMALL,
    error: type[RiseError] = DataError,
    remedy: str = _REMEDY,
    bulk: bool = False,
) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        most_bytes: a larger one is not read.
        error: what is raised.
        remedy: what to do about a file that is not as it should be.
        bulk: leave out the walk through all values (seconds for annotations), for a reader that checks every
            field which it takes, and takes none of unknown depth.

    Raises:
        RiseError: of the class ``error``: there is no such file, it is too large, no JSON, too deep, or
            holds a number that is not finite or does not fit 64 bits.
    """
    content = read_bounded(Path(path), most_bytes, error, remedy)
    return parse_json(content, str(path), error, remedy, bulk)


def read_record(
    path: str | Path,
    record: type[Record],
    most_bytes: int = SMALL,
    error: type[RiseError] = DataError,
    remedy: str = _REMEDY,
) -> Record:
    """Read a JSON file whose fields are those of a dataclass (:func:`.config.build_config`).

    Raises:
        RiseError: of the class ``error``: as :func:`read_json`, or a field is unknown, missing, of the wrong
            kind or out of range.
    """
    value = read_json(path, most_bytes, error, remedy)
    try:
        made: Record = build_config(record, value, Path(path).stem)
    except RiseError as problem:  # also of what the class demands of its fields
        raise error(f"{path}: {problem}; {remedy}") from None
    return made


def parse_json(
    content: bytes | str,
    where: str,
    error: type[RiseError] = DataError,
    remedy: str = _REMEDY,
    bulk: bool = False,
) -> Any:
    """A value from the text of a JSON file; see :func:`read_json`."""
    try:
        if isinstance(content, bytes):
            content = content.decode("utf-8-sig")
        if bulk:
            return json.loads(content, parse_constant=_refuse)
        value = json.loads(content, parse_constant=_refuse, parse_int=_whole)
    except RecursionError:
        raise error(f"{where} holds lists within lists beyond measure; {remedy}") from None
    except ValueError as problem:
        raise error(f"{where} is no valid JSON ({problem}); {remedy}") from None
    if problem_found := _objection(value):
        raise error(f"{where}: {problem_found}; {remedy}")
    return value


def _refuse(constant: str) -> float:
    raise ValueError(f"it holds {constant}, which is no JSON number")


def _whole(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise ValueError(f"it holds a number of {len(digits)} digits")
    return int(digits)


def _objection(value: Any) -> str:
    """What is wrong with a value; empty when nothing is. Not recursive: that is the point."""
    open_ends: list[tuple[Any, str, int]] = [(value, "", 0)]
    while open_ends:
        item, name, depth = open_ends.pop()
        called = name.lstrip(".") or "it"
        if isinstance(item, (dict, list)):
            if depth >= DEEPEST:
                return f"{called[:80]} lies more than {DEEPEST} lists or mappings deep"
            if isinstance(item, list):
                open_ends += [(part, f"{name}[{i}]", depth + 1) for i, part in enumerate(item)]
                continue
            for key, part in item.items():
                if not _is_text(key):
                    return f"a key of {called[:80]} is {shown(key)}, which is no valid text"
                open_ends.append((part, f"{name}.{key[:60]}", depth + 1))
        elif isinstance(item, str):
            if not _is_text(item):
                return f"{called[:80]} is {shown(item)}, which is no valid text"
        elif isinstance(item, float):
            if not math.isfinite(item):
                return f"{called[:80]} is a number beyond all that can be computed with; it must be finite"
        elif isinstance(item, int) and abs(item) > LARGEST:
            return f"{called[:80]} is {shown(item)}; it must fit 64 bits"
    return ""


def _is_text(value: str) -> bool:
    """False for halves of surrogate pairs, which can be written to no file and sent in no message."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
