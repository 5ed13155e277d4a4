"""Errors that a user can act on: each names the thing, its value and the remedy."""

from __future__ import annotations


class RiseError(Exception):
    """Base of all errors that are the input's or the setup's fault, not a bug of the package.

    The command line prints the message without a traceback and exits with status 2; the nodes log
    it, count it in their diagnostics and keep serving. The text fits every file and message: names of files
    may hold bytes that are no text.
    """

    def __str__(self) -> str:
        return super().__str__().encode("utf-8", "backslashreplace").decode()


class ImageError(RiseError):
    """An image or a depth map that cannot be read, or whose layout contradicts itself."""


class BagError(RiseError):
    """A rosbag2 recording that is missing, damaged, or lacks the topic that was asked for."""


class DataError(RiseError):
    """A data set, annotation or label map that is missing, broken or empty."""


class ConfigError(RiseError):
    """A configuration with an unknown key, a value out of range, or a contradiction."""


def require(condition: bool, key: str, value: object, remedy: str) -> None:
    """Raise a :class:`ConfigError` that ``key`` must be what ``remedy`` says, unless ``condition`` holds."""
    if not condition:
        raise ConfigError(f"{key} is {value!r}; it must be {remedy}")


class ModelError(RiseError):
    """A model folder that is missing, damaged, or whose card does not fit its weights."""


class TransformError(RiseError):
    """A transform between two coordinate frames that is missing, stale, or none."""


class MissingDependencyError(RiseError):
    """An optional package is needed and not installed; the message says how to get it."""
