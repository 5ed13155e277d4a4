"""Typed records: dataclasses from what YAML and JSON files hold; whatever does not fit is named.

Nothing that a file says is trusted: kinds, lengths of lists, keys of mappings and the range of numbers are
checked before a class sees its fields. What a class itself demands of its fields it says in
``__post_init__``, with :func:`rise_perception.core.errors.require`.
"""

from __future__ import annotations

import dataclasses
import math
import reprlib
import types
import typing
from enum import Enum
from functools import cache
from typing import Any

from rise_perception.core.errors import ConfigError

#: Whole numbers fit 64 bits with a sign: what arrays, messages and clocks hold.
LARGEST = 2**63 - 1

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlong, _SHORT.maxlevel = 40, 3


def shown(value: object) -> str:
    """``value`` for a message: as it is where that is short, otherwise its beginning."""
    return _SHORT.repr(value)


def build_config(cls: type, values: Any, where: str) -> Any:
    """Make a dataclass from what a YAML file, a card or another JSON file holds.

    Fields may be bool, int, float, str, enumerations (by value), lists and tuples, mappings with text for
    keys, other dataclasses (as mappings, or made already), ``X | None``, and Any. Text is taken for a number
    where a number is wanted: YAML reads 1e-4 as text. Numbers are finite, and whole ones fit 64 bits.

    Args:
        cls: the dataclass.
        values: its fields.
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
            known = ", ".join(sorted(fields))
            raise ConfigError(f"{where}.{_name(key)} is not a known key; known keys are {known}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"{where}.{name} is missing; add it")
    kinds = _kinds(cls)
    return cls(**{key: typed(value, kinds[key], f"{where}.{key}") for key, value in values.items()})


def typed(value: Any, kind: Any, where: str) -> Any:
    """``value`` as a type annotation wants it.

    Args:
        value: out of a file.
        kind: see :func:`build_config` for those that are checked; others take the value as it is.
        where: what to call it in messages.

    Raises:
        ConfigError: it is of another kind, or a number that no array can hold.
    """
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _either(value, typing.get_args(kind), where)
    if origin in (tuple, list):
        return _listed(value, origin, typing.get_args(kind), where)
    if origin is dict:
        return _mapped(value, typing.get_args(kind), where)
    if not isinstance(kind, type):
        return value
    if dataclasses.is_dataclass(kind):
        return value if isinstance(value, kind) else build_config(kind, value, where)
    if issubclass(kind, Enum):
        return _member(value, kind, where)
    if kind is float:
        return _number(value, where)
    if kind in _NAMES:
        accepted = (list, tuple) if kind in (tuple, list) else (kind,)
        if type(value) not in accepted:
            raise ConfigError(f"{where} is {shown(value)}; it must be {_NAMES[kind]}")
        if kind is int and abs(value) > LARGEST:
            raise ConfigError(f"{where} is {shown(value)}; it must fit 64 bits")
        if kind in (tuple, list):
            return kind(value)
    return value


_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    str: "text",
    tuple: "a list",
    list: "a list",
    dict: "a mapping",
}


@cache
def _kinds(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _name(key: object) -> str:
    return key if isinstance(key, str) and len(key) <= 60 else shown(key)


def _number(value: Any, where: str) -> float:
    number = math.nan
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
    else:
        raise ConfigError(f"{where} is {shown(value)}; it must be a number")
    if not math.isfinite(number):
        raise ConfigError(f"{where} is {shown(value)}; it must be a number, and finite")
    return number


def _member(value: Any, kind: type[Enum], where: str) -> Enum:
    for member in kind:
        if type(member.value) is type(value) and member.value == value:
            return member
    known = ", ".join(str(member.value) for member in kind)
    raise ConfigError(f"{where} is {shown(value)}; it must be one of {known}")


def _either(value: Any, kinds: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    problem: ConfigError | None = None
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return typed(value, kind, where)
        except ConfigError as error:
            problem = error
    assert problem is not None
    raise problem


def _listed(value: Any, origin: type, kinds: tuple[Any, ...], where: str) -> Any:
    if type(value) not in (list, tuple):
        raise ConfigError(f"{where} is {shown(value)}; it must be a list")
    if origin is tuple and not (len(kinds) == 2 and kinds[1] is Ellipsis):
        if len(value) != len(kinds):
            raise ConfigError(f"{where} is {shown(value)}; it must be a list of {len(kinds)} values")
        return tuple(typed(value[i], kind, f"{where}[{i}]") for i, kind in enumerate(kinds))
    return origin(typed(value[i], kinds[0], f"{where}[{i}]") for i in range(len(value)))


def _mapped(value: Any, kinds: tuple[Any, ...], where: str) -> dict[Any, Any]:
    if type(value) is not dict:
        raise ConfigError(f"{where} is {shown(value)}; it must be a mapping")
    if kinds[1] is Any:
        return value
    return {key: typed(item, kinds[1], f"{where}.{_name(key)}") for key, item in value.items()}
