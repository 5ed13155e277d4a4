"""The main of every node: one executor, one thread, a clean end, and errors as one line."""

from __future__ import annotations

import sys
from collections.abc import Callable

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future

from rise_perception.errors import RiseError


def run(create: Callable[[], Node], args: list[str] | None = None) -> int:
    """Creates a node and spins it until it is interrupted or its ``done`` future, if it has one, is set.

    Returns:
        the exit status: 0, or 2 after a :class:`RiseError`, which is printed.
    """
    rclpy.init(args=args)
    node = None
    try:
        node = create()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        done: Future | None = getattr(node, "done", None)
        if done is None:
            executor.spin()
        else:
            executor.spin_until_future_complete(done)
            done.result()  # raises what the node ended with
    except RiseError as error:
        print(f"rise: error: {error}", file=sys.stderr, flush=True)
        return 2
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0
