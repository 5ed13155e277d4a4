"""Training configurations as YAML files: one that extends another, and one that holds many as rows.

A file with ``rows`` is a table of configurations that differ in a few settings each::

    extends: paper.yaml
    settings:
      resnet101: {network: {backbone: resnet101}}
    rows:
      table3/ps_ot: [resnet101, {data: {unlabelled: []}}]

A row is the file that the table extends, changed by the settings that it names and by its own mappings, in
their order. ``FILE.yaml:ROW`` names it wherever a configuration is asked for. Its name is that of the row,
and its folder ``runs/`` with the name, unless it says otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rise_perception.core import resources
from rise_perception.core.errors import ConfigError, RiseError

_SUFFIX = ".yaml"


def read_mapping(path: str | Path, extending: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a configuration file, or the row of a table, says, with all that it extends.

    Args:
        path: the file, or ``FILE.yaml:ROW``.
        extending: the configurations that name this one by ``extends``, outermost first.

    Raises:
        ConfigError: a file is missing or no YAML, the row or a setting of it is unknown, or a file extends
            itself.
    """
    file, row = _split(path)
    place = f"{file.resolve()}:{row}"
    if place in extending:
        raise ConfigError(f"configuration {file} extends itself; break the circle of `extends`")
    named = f" (named by `extends` in {extending[-1].rpartition(':')[0]})" if extending else ""
    raw = _load(file, named)
    parts: list[dict[str, Any]] = [raw]
    if "rows" in raw or row:
        parts = _row(file, raw, row)
    base = raw.pop("extends", None)
    merged: dict[str, Any] = {}
    if base is not None:
        merged = read_mapping(file.parent / str(base), (*extending, place))
    for part in parts:
        merged = _merged(merged, part)
    return merged


def table_rows(path: str | Path) -> tuple[str, ...]:
    """The names of a table's rows, in its order; none for a file that is no table.

    Raises:
        ConfigError: the file is missing or no YAML.
    """
    return tuple(map(str, _load(Path(path), "").get("rows", {})))


def _split(path: str | Path) -> tuple[Path, str]:
    """File and row, empty where none is named."""
    file, mark, row = str(path).partition(f"{_SUFFIX}:")
    return (Path(file + _SUFFIX), row) if mark else (Path(path), "")


def _row(file: Path, table: dict[str, Any], row: str) -> list[dict[str, Any]]:
    """The mappings that make a row."""
    rows, settings = table.get("rows"), table.get("settings", {})
    if not isinstance(rows, dict) or not isinstance(settings, dict):
        raise ConfigError(f"{file} has no rows; give the file alone, without {row!r}")
    if row not in rows:
        wrong = f"has no row {row!r}" if row else "is a table"
        raise ConfigError(f"{file} {wrong}; give {file}:ROW with one of {', '.join(map(str, rows))}")
    unknown = set(table) - {"extends", "rows", "settings"}
    if unknown:
        raise ConfigError(f"{file} is a table and has {min(unknown)!r}; put it into a setting or a row")
    name = row.replace("/", "_")
    parts: list[dict[str, Any]] = [{"name": name, "out": f"runs/{name}"}]
    for part in rows[row] or []:
        if not isinstance(part, dict) and part not in settings:
            raise ConfigError(
                f"{file}: row {row!r} names the setting {part!r}; known are {', '.join(settings)}"
            )
        parts.append(part if isinstance(part, dict) else settings[part])
    return parts


def _load(path: Path, named: str) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"configuration {path} does not exist{named}; {_shipped()}")
    try:
        raw = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {path} is no valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"configuration {path} is empty or no mapping; {_shipped()}")
    return raw


def _shipped() -> str:
    """Where the configurations of the package are, in a checkout or an installation."""
    try:
        return f"those that ship are in {resources.find('config') / 'train'}"
    except RiseError as error:
        return str(error)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = _merged(base[key], value) if both else value
    return result
