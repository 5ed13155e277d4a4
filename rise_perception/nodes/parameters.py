"""Parameters of a node from its table: declared with descriptors, checked when set, read when needed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.node import Node

from rise_perception.core.errors import ConfigError
from rise_perception.nodes.parameter_table import TYPES, Change, Parameter, ParameterTable


class Parameters:
    """The parameters of a node.

    Args:
        node: that declares them.
        table: of them.
        in_use: True while those that are read by configure must not change.

    Raises:
        ConfigError: a value that was given is of another type or out of its range.
    """

    def __init__(self, node: Node, table: ParameterTable, in_use: Callable[[], bool] = lambda: True) -> None:
        self._node, self._table, self._in_use = node, table, in_use
        for name, parameter in table.items():
            declare(node, name, parameter)
        node.add_on_set_parameters_callback(self._on_set)

    def __getitem__(self, name: str) -> Any:
        """The value now."""
        return self._node.get_parameter(name).value

    def read(self) -> SimpleNamespace:
        """All values now."""
        return SimpleNamespace(**{name: self[name] for name, _ in self._table.items()})

    def _on_set(self, changes: list[Any]) -> SetParametersResult:
        for change in changes:
            if change.name not in self._table:
                continue
            parameter = self._table[change.name]
            refusal = parameter.refusal(change.value)
            if not refusal and parameter.change == Change.CONFIGURE and self._in_use():
                refusal = "is read by configure: clean the node up, set it, and configure again"
            if refusal:
                return SetParametersResult(successful=False, reason=f"{change.name} {refusal}")
        return SetParametersResult(successful=True)


def declare(node: Node, name: str, parameter: Parameter) -> Any:
    """Declares one parameter and returns its value.

    Raises:
        ConfigError: the value that was given is of another type or out of its range.
    """
    descriptor = ParameterDescriptor(
        description=parameter.description, read_only=parameter.change == Change.START
    )
    kind = TYPES[type(parameter.default)]
    if parameter.between is not None:
        low, high = parameter.between
        if kind == "float":
            limits = FloatingPointRange(from_value=float(low), to_value=float(high))
            descriptor.floating_point_range = [limits]
        else:
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=1)]
    try:
        value = node.declare_parameter(name, parameter.default, descriptor).value
    except ParameterException as error:
        hint = f"{name} is a {kind} with the default {parameter.default!r}"
        if parameter.between is not None:
            hint += f", between {parameter.between[0]:g} and {parameter.between[1]:g}"
        raise ConfigError(f"parameter {name!r} has a value that cannot be taken ({error}); {hint}") from error
    if refusal := parameter.refusal(value):
        raise ConfigError(f"parameter {name!r} {refusal}")
    return value
