"""Parameters with descriptors: every one says what it does, in which range, and whether it may change."""

from __future__ import annotations

from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node


def declare(
    node: Node,
    name: str,
    default: Any,
    description: str,
    *,
    between: tuple[float, float] | None = None,
    read_only: bool = True,
) -> Any:
    """Declares a parameter and returns its value.

    Args:
        node: the node.
        name: of the parameter.
        default: decides the type.
        description: one sentence, shown by ``ros2 param describe``.
        between: lowest and highest value of a number.
        read_only: structural parameters cannot be changed while the node runs.
    """
    descriptor = ParameterDescriptor(description=description, read_only=read_only)
    if between is not None and isinstance(default, float):
        limits = FloatingPointRange(from_value=float(between[0]), to_value=float(between[1]))
        descriptor.floating_point_range = [limits]
    elif between is not None:
        descriptor.integer_range = [
            IntegerRange(from_value=int(between[0]), to_value=int(between[1]), step=1)
        ]
    return node.declare_parameter(name, default, descriptor).value
