"""Service callbacks that answer also when they fail: a caller must not wait for ever, nor a node end."""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Callable
from typing import Any

from rise_perception.core.errors import RiseError


def answering(callback: Callable[..., Any]) -> Callable[..., Any]:
    """A method ``callback(node, request, response)``, a coroutine or not, whose errors become the answer.

    The response has ``success`` and ``message``. What is no :class:`RiseError` and no ``OSError`` is a bug of
    somebody's: the node's ``report_error(text)`` is told, and the trace goes to its log.
    """

    def failed(node: Any, response: Any, error: Exception) -> Any:
        response.success, response.message = False, str(error)
        if not isinstance(error, (RiseError, OSError)):
            response.message = f"internal error, its trace is in the log: {error!r}"
            node.get_logger().error(traceback.format_exc())
            node.report_error(response.message)
        return response

    if inspect.iscoroutinefunction(callback):

        @functools.wraps(callback)
        async def awaited(node: Any, request: Any, response: Any) -> Any:
            try:
                return await callback(node, request, response)
            except Exception as error:
                return failed(node, response, error)

        return awaited

    @functools.wraps(callback)
    def called(node: Any, request: Any, response: Any) -> Any:
        try:
            return callback(node, request, response)
        except Exception as error:
            return failed(node, response, error)

    return called
