"""The engine cache: what it keeps, what it lets go, and which folder it does not trust."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from rise_perception.inference.engines.cache import CacheError, EngineCache

CONTENT = b"x" * 1000


def key(number: int) -> dict[str, object]:
    return {"number": number, "size": (2, 3)}


def kept(folder: Path) -> set[int]:
    fresh = EngineCache(folder)
    return {number for number in range(10) if fresh.path("engine", key(number)).is_file()}


def write(folder: Path, number: int, most: int = 10**9) -> EngineCache:
    cache = EngineCache(folder, most)
    path = cache.put("engine", key(number), CONTENT, {})
    os.utime(path, ns=(number, number))  # the higher the number, the later
    return cache


def test_what_was_not_used_for_longest_goes(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path, number)
    EngineCache(tmp_path).get("engine", key(0))
    write(tmp_path, 4, most=3000)
    assert kept(tmp_path) == {0, 3, 4}
    assert len(list(tmp_path.glob("*.json"))) == 3


def test_what_another_process_uses_stays(tmp_path: Path) -> None:
    written = write(tmp_path, 0)
    write(tmp_path, 1)
    write(tmp_path, 2)
    reader = EngineCache(tmp_path)
    assert reader.get("engine", key(1)) == CONTENT
    os.utime(reader.path("engine", key(1)), ns=(1, 1))
    write(tmp_path, 3, most=1000)
    assert kept(tmp_path) == {0, 1, 3}
    del written, reader
    write(tmp_path, 4, most=1000)
    assert kept(tmp_path) == {4}


def test_what_a_runtime_laid_beside_an_entry_counts_and_goes_with_it(tmp_path: Path) -> None:
    cache = write(tmp_path, 0)
    beside = cache.beside("engine", key(0))
    beside.mkdir()
    (beside / "own").write_bytes(CONTENT)
    del cache
    write(tmp_path, 1, most=2500)
    assert kept(tmp_path) == {1}
    assert not beside.exists()


def unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A folder that cannot be made, and the one that stands in."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").write_text("")
    return tmp_path / "file/engines", tmp_path / f"rise_perception-{os.getuid()}"


def test_the_folder_that_stands_in_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, fallback = unwritable(tmp_path, monkeypatch)
    cache = EngineCache(folder)
    assert cache.folder == fallback
    assert "cannot be written" in cache.dropped[0]
    assert fallback.stat().st_mode & 0o777 == 0o700
    cache.put("engine", key(0), CONTENT, {})
    assert EngineCache(folder).get("engine", key(0)) == CONTENT
    cache.drop("engine", key(0), "was a test")
    assert cache.get("engine", key(0)) is None


def test_no_engine_is_taken_from_a_folder_that_everybody_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / "shared"
    EngineCache(folder).put("engine", key(0), CONTENT, {})
    folder.chmod(0o1777)  # as /tmp
    cache = EngineCache(folder)
    assert cache.get("engine", key(0)) is None
    assert "shared can be written by everybody" in cache.dropped[0]
    folder.chmod(0o775)
    assert EngineCache(folder).get("engine", key(0)) == CONTENT


@pytest.mark.parametrize("how", ["open to others", "a link", "a file", "another's"])
def test_a_planted_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    folder, fallback = unwritable(tmp_path, monkeypatch)
    if how == "open to others":
        fallback.mkdir()
        fallback.chmod(0o777)
    elif how == "a link":
        (tmp_path / "planted").mkdir(mode=0o700)
        fallback.symlink_to(tmp_path / "planted")
    elif how == "a file":
        fallback.write_text("")
    else:
        fallback.mkdir(mode=0o700)
        owner = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: owner + 1)
        fallback.rename(tmp_path / f"rise_perception-{owner + 1}")
        fallback = tmp_path / f"rise_perception-{owner + 1}"
    with pytest.raises(CacheError, match=rf"{fallback}.*name a folder of yours"):
        EngineCache(folder)
