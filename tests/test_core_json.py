"""The one reader of JSON files: bounded, typed, and nothing but RiseErrors leave it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from rise_perception.core.config import build_config
from rise_perception.core.errors import ConfigError, ModelError, RiseError
from rise_perception.core.json_files import DEEPEST, SMALL, parse_json, read_json, read_record


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    size: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Record:
    name: str
    number: int = 0
    share: float = 0.5
    colour: Colour = Colour.RED
    inner: Inner = Inner()
    perhaps: float | None = None
    counts: dict[str, int] = field(default_factory=dict)
    names: tuple[str, ...] = ()


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[" * 100_000, ["lists within lists"]),
        (b'{"a":' * 100_000, ["lists within lists"]),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), [f"more than {DEEPEST}"]),
        ('{"a": NaN}', ["NaN", "no valid JSON"]),
        ('{"a": [0, Infinity]}', ["Infinity"]),
        ('{"a": {"b": 1e999}}', ["a.b", "finite"]),
        ('{"a": [1, 1180591620717411303424]}', ["a[1]", "64 bits"]),
        ('{"a": ' + "9" * 5000 + "}", ["5000 digits"]),
        ('{"a": "\\ud800"}', ["a is", "no valid text"]),
        ('{"\\ud800": 1}', ["key", "no valid text"]),
        (b"\xff\xfe\xfa", ["no valid JSON"]),
        ("", ["no valid JSON"]),
        (b" " * (SMALL + 1), ["larger than 1024 KiB"]),
    ],
)
def test_what_cannot_be_worked_with_is_refused_and_named(
    tmp_path: Path, content: bytes | str, words: list[str]
) -> None:
    path = write(tmp_path / "card.json", content)
    with pytest.raises(ModelError) as error:
        read_json(path, error=ModelError, remedy="take another")
    for word in [str(path), "take another", *words]:
        assert word in str(error.value)
    assert len(str(error.value)) < 1000


def test_what_is_no_file_is_refused_and_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    for name in ("pipe.json", "folder.json", "nowhere.json", "nul\0.json"):
        with pytest.raises(ModelError, match=r"\.json"):
            read_json(tmp_path / name, error=ModelError)


def test_good_values_are_kept(tmp_path: Path) -> None:
    value = {"a": [1, -(2**63) + 1, 0.5, None, True, "\u00e4"], "b": {}}
    assert parse_json('{"a": [1, -9223372036854775807, 0.5, null, true, "\u00e4"], "b": {}}', "x") == value
    assert parse_json(b'\xef\xbb\xbf{"a": 1}', "x") == {"a": 1}
    record = read_record(write(tmp_path / "r.json", '{"name": "n", "colour": "blue", "perhaps": 2}'), Record)
    assert record == Record("n", colour=Colour.BLUE, perhaps=2.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": 7}, ["r.name is 7", "text"]),
        ({"name": None}, ["r.name is None"]),
        ({"number": "x"}, ["r.number is 'x'", "whole number"]),
        ({"number": True}, ["r.number is True"]),
        ({"number": 2**70}, ["r.number", "64 bits"]),
        ({"share": "half"}, ["r.share is 'half'", "a number"]),
        ({"share": float("nan")}, ["r.share", "finite"]),
        ({"share": 10**400}, ["r.share", "finite"]),
        ({"share": []}, ["r.share is []"]),
        ({"colour": "green"}, ["r.colour is 'green'", "red, blue"]),
        ({"inner": {"size": [1]}}, ["r.inner.size", "2 values"]),
        ({"inner": {"size": [1, "x"]}}, ["r.inner.size[1] is 'x'"]),
        ({"inner": 3}, ["r.inner is int"]),
        ({"perhaps": "no"}, ["r.perhaps is 'no'"]),
        ({"counts": {"a": 0.5}}, ["r.counts.a is 0.5"]),
        ({"counts": []}, ["r.counts", "a mapping"]),
        ({"names": "abc"}, ["r.names", "a list"]),
        ({"names": ["a", 1]}, ["r.names[1] is 1"]),
        ({"other": 1}, ["r.other", "not a known key"]),
        ({"x" * 5000: 1}, ["not a known key"]),
        ({"name": ["x" * 5000] * 5000}, ["r.name"]),
    ],
)
def test_every_field_has_a_type(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        build_config(Record, {"name": "n"} | changes, "r")
    for word in words:
        assert word in str(error.value)
    assert len(str(error.value)) < 600


def test_an_error_fits_every_message() -> None:
    """Names of files may be no text at all."""
    str(RiseError(os.fsdecode(b"\xff-abc") + " is odd")).encode()
