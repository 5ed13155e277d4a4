"""Files written atomically: a reader sees the old one or the whole new one; and files read within bounds."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rise_perception.core.errors import RiseError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the folder of ``path`` that replaces ``path`` when the block ends well.

    The folder is created when missing. The temporary name keeps the suffix of ``path``, so that
    writers which look at the suffix work. When the block raises, ``path`` keeps its old content and
    the temporary file is removed. The content reaches the disk before the name does, so that a
    robot that loses power keeps one whole version.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_UMASK)  # mkstemp makes files private; give the usual permissions
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """Write ``content`` to ``path`` atomically, as UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` to ``path`` atomically, as indented JSON; NaN and infinities raise ValueError."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def flush(path: str | Path) -> None:
    """Bring a file's content, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bounded(path: Path, most_bytes: int, error: type[RiseError], remedy: str) -> bytes:
    """The content of a regular file of at most ``most_bytes``.

    Raises:
        RiseError: of the class ``error``: it is missing, cannot be read, is larger, or is no file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not block
        with open(descriptor, "rb") as file:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode):
                raise error(f"{path} is no regular file; {remedy}")
            # It may grow meanwhile; and Python makes room for as many bytes as are asked for.
            content = file.read(min(state.st_size, most_bytes) + 1)
    except (OSError, ValueError) as problem:  # ValueError: a name with a NUL in it
        raise error(f"{path}: {getattr(problem, 'strerror', None) or problem}; {remedy}") from None
    if len(content) > most_bytes:
        raise error(f"{path} is larger than {most_bytes >> 10} KiB; {remedy}")
    return content


def _current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _current_umask()  # read once at import: changing it later, even briefly, is not thread safe
