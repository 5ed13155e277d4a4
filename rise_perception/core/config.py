"""Typed configuration: dataclasses from YAML files and cards; an unknown key is an error that names it."""

from __future__ import annotations

import dataclasses
from typing import Any

from rise_perception.core.errors import ConfigError


def build_config(cls: type, values: Any, where: str) -> Any:
    """Make a configuration dataclass from what a YAML file or a card holds.

    Args:
        cls: the dataclass.
        values: its fields; those that are dataclasses themselves already made.
        where: what to call ``values`` in messages.

    Raises:
        ConfigError: ``values`` is no mapping, has a key that ``cls`` does not know, lacks one that has no
            default, or holds a value of the wrong kind.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is {type(values).__name__}; it must be a mapping of keys to values")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise ConfigError(f"{where}.{key} is not a known key; known keys are {', '.join(sorted(fields))}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"{where}.{name} is missing; add it")
    return cls(
        **{key: _typed(value, str(fields[key].type), f"{where}.{key}") for key, value in values.items()}
    )


_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "bool": ((bool,), "true or false"),
    "int": ((int,), "a whole number"),
    "float": ((float,), "a number"),
    "str": ((str,), "text"),
    "tuple": ((list, tuple), "a list"),
    "dict": ((dict,), "a mapping"),
}


def _typed(value: Any, annotation: str, where: str) -> Any:
    """``value`` as the field's annotation wants it; a field of another kind takes it as it is."""
    kind, _, inner = annotation.partition("[")
    if kind not in _KINDS:
        return value
    if kind == "float" and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 5 as a whole number and 1e-4 as text
        except ValueError:
            pass
    types, name = _KINDS[kind]
    if type(value) not in types:
        raise ConfigError(f"{where} is {value!r}; it must be {name}")
    if kind == "tuple":
        element = inner.rstrip("]").split(",")[0]
        return tuple(_typed(value[i], element, f"{where}[{i}]") for i in range(len(value)))
    return value
