"""A node's parameters, once: the node declares them; YAML file and reference page are written from them.

Imports no ROS, so that the files can be written anywhere.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import yaml

from rise_perception.core.errors import RiseError

WIDTH = 116  # columns of a comment in YAML
TYPES = {bool: "bool", int: "int", float: "float", str: "string"}


class Change(Enum):
    """When a parameter may change."""

    START = "at start"
    CONFIGURE = "unconfigured"
    LIVE = "any time"


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        default: its type is the parameter's: bool, int, float or str.
        description: one sentence or two, shown by ``ros2 param describe``.
        between: lowest and highest value of a number.
        change: whether it may be set while the node runs.
        parse: of a text; raises :class:`RiseError` when it makes no sense.
    """

    default: bool | int | float | str
    description: str
    between: tuple[float, float] | None = None
    change: Change = Change.START
    parse: Callable[[str], object] | None = None

    def refusal(self, value: Any) -> str:
        """Why this cannot be the value; empty if it can. The type has been checked by ROS."""
        if isinstance(value, float) and not math.isfinite(value):
            return f"is {value}; it must be a finite number"
        if self.between is not None and not self.between[0] <= value <= self.between[1]:
            return f"is {value}; it must lie between {self.between[0]:g} and {self.between[1]:g}"
        if self.parse is not None:
            try:
                self.parse(value)
            except RiseError as error:
                return f"is {value!r}: {error}"
        return ""


@dataclass(frozen=True)
class ParameterTable:
    """All parameters of a node.

    Attributes:
        node: its name.
        groups: parameters by name, by the title of their group.
        note: what the YAML file says at its end.
    """

    node: str
    groups: Mapping[str, Mapping[str, Parameter]]
    note: str = ""

    def items(self) -> Iterator[tuple[str, Parameter]]:
        """Name and parameter, in order."""
        for group in self.groups.values():
            yield from group.items()

    def __getitem__(self, name: str) -> Parameter:
        return dict(self.items())[name]

    def __contains__(self, name: str) -> bool:
        return any(name in group for group in self.groups.values())

    def yaml(self) -> str:
        """The parameter file with all defaults."""
        lines = [
            f"# Parameters of {self.node} with their defaults; written by tools/write_parameters.py.",
            f"# {_changes(self)}",
            "",
            f"/**/{self.node}:",
            "  ros__parameters:",
        ]
        for title, group in self.groups.items():
            lines += [f"    # -- {title} --", ""]
            for name, parameter in group.items():
                limits = f" {_range(parameter)}." if parameter.between else ""
                live = " May change at any time." if parameter.change == Change.LIVE else ""
                text = f"{parameter.description}{limits}{live}"
                lines += textwrap.wrap(text, WIDTH, initial_indent="    # ", subsequent_indent="    # ")
                lines.append(f"    {name}: {_scalar(parameter.default)}")
            lines.append("")
        lines += [f"    # {line}".rstrip() for line in self.note.splitlines()]
        return "\n".join(lines).rstrip() + "\n"

    def markdown(self) -> str:
        """The node's part of the reference page."""
        lines = [f"## {self.node}", "", _changes(self)]
        for title, group in self.groups.items():
            lines += [
                "",
                f"### {title}",
                "",
                "| parameter | type | default | range | may change | |",
                "|---|---|---|---|---|---|",
            ]
            for name, parameter in group.items():
                default = f"`{_scalar(parameter.default)}`"
                cells = (
                    f"`{name}`",
                    TYPES[type(parameter.default)],
                    default,
                    _range(parameter),
                    parameter.change.value,
                )
                lines.append(f"| {' | '.join(cells)} | {parameter.description.replace('|', chr(92) + '|')} |")
        return "\n".join(lines) + "\n"


def _changes(table: ParameterTable) -> str:
    kinds = {parameter.change for _, parameter in table.items()}
    if Change.CONFIGURE in kinds:
        return "Read by configure: after cleanup they may be set, unless something else is said."
    return "Read once, when the node starts, unless something else is said."


def _range(parameter: Parameter) -> str:
    return (
        ""
        if parameter.between is None
        else f"{_scalar(parameter.between[0])} to {_scalar(parameter.between[1])}"
    )


def _scalar(value: object) -> str:
    """A value as YAML writes it on one line."""
    return yaml.safe_dump(value, width=10_000).removesuffix("...\n").strip()
