"""Transitions that fail are told: rclpy swallows what they raise."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import TransitionCallbackReturn

from rise_perception.core.errors import RiseError

DONE = {
    "on_configure": "configured",
    "on_activate": "activated",
    "on_deactivate": "deactivated",
    "on_cleanup": "cleaned up",
    "on_shutdown": "shut down",
}
Transition = Callable[[Any, Any], TransitionCallbackReturn]


def reported(transition: Transition) -> Transition:
    """A transition callback whose errors reach the node's ``transition_failed(text)`` and make it fail.

    What is no :class:`RiseError` is a bug of somebody's: its trace goes to the log as well.
    """

    @functools.wraps(transition)
    def wrapped(node: Any, state: Any) -> TransitionCallbackReturn:
        name = DONE[transition.__name__]
        try:
            return transition(node, state)
        except RiseError as error:
            node.transition_failed(f"cannot be {name}: {error}")
        except Exception as error:
            node.get_logger().error(traceback.format_exc())
            node.transition_failed(f"cannot be {name}: internal error, its trace is in the log: {error!r}")
        return TransitionCallbackReturn.FAILURE

    return wrapped


def managers(node: Any) -> list[str]:
    """Names of the nodes that have a client of this node's ~/change_state: lifecycle managers."""
    service = node.resolve_service_name("~/change_state")
    found = []
    for name, namespace in node.get_node_names_and_namespaces():
        if (name, namespace) == (node.get_name(), node.get_namespace()):
            continue
        try:
            clients = node.get_client_names_and_types_by_node(name, namespace)
        except RuntimeError:  # it has gone meanwhile
            continue
        if service in [client for client, _ in clients]:
            found.append(f"{namespace.rstrip('/')}/{name}")
    return found
