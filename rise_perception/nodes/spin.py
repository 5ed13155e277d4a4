"""The main of every node: one executor, one thread, a clean end, and errors as one line."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future

from rise_perception.core.errors import RiseError
from rise_perception.nodes.diagnostics import WorkerDiedError


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
        _spin(executor, node, done)
        if done is not None:
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


def _spin(executor: SingleThreadedExecutor, node: Node, done: Future | None) -> None:
    """Spins. What a callback raises ends a node, except one with ``report_error``, which goes on."""
    report: Callable[[str], None] | None = getattr(node, "report_error", None)
    while True:
        try:
            if done is None:
                executor.spin()
            else:
                executor.spin_until_future_complete(done)
            return
        except (WorkerDiedError, ExternalShutdownException):
            raise
        except Exception as error:
            if report is None:
                raise
            node.get_logger().error(traceback.format_exc())
            report(f"internal error in a callback, its trace is in the log: {error!r}")


def run_with_worker(worker: str, create: Callable[[], Node], args: list[str] | None = None) -> int:
    """:func:`run` for a node that computes in a thread called ``worker``; ends also while it computes."""
    status = run(create, args)
    if any(thread.name == worker for thread in threading.enumerate()):
        # A network cannot be interrupted, and taking the interpreter down under it aborts the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def lower_priority(nice: int) -> None:
    """Give way to other processes, by 0 to 19.

    Linux weighs sessions before it weighs the processes within: a process that is a session of its own, as
    those that :class:`rise_perception.nodes.node_process.NodeProcess` starts, has to be lowered as such.
    """
    os.nice(nice)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # a kernel without autogroups
            Path("/proc/self/autogroup").write_text(str(nice))


async def pause(node: Node, seconds: float) -> None:
    """Wait inside a callback while the executor does other things."""
    over = Future()
    steady = Clock(clock_type=ClockType.STEADY_TIME)  # a simulation's clock may stand still
    timer = node.create_timer(seconds, lambda: over.done() or over.set_result(None), clock=steady)
    try:
        await over
    finally:
        node.destroy_timer(timer)
