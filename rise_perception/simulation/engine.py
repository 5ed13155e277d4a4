"""MuJoCo, imported when it is first needed, with off-screen rendering chosen before the import."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import sys
from typing import Any

from rise_perception.core.errors import MissingDependencyError


def mujoco() -> Any:
    """The ``mujoco`` module.

    On Linux without a choice in MUJOCO_GL it renders through EGL, which needs no display.

    Raises:
        MissingDependencyError: MuJoCo or the OpenGL library behind it is not installed.
    """
    if sys.platform.startswith("linux"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    _load_triton()
    # One software-rendering thread a process: the generator runs one process a core.
    os.environ.setdefault("LP_NUM_THREADS", "1")
    try:
        import mujoco
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"the tote world needs MuJoCo, which is not installed ({error}); "
            "install it with: pip install 'mujoco>=3.2'"
        ) from error
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        raise no_opengl(error) from error
    return mujoco


@functools.cache
def _load_triton() -> None:
    """Load Triton, where it is installed, before OpenGL.

    PyTorch imports it when the first optimiser is made, and it has an LLVM of its own: with that of a
    software OpenGL in the process already, the import is a segmentation fault. The other way round both work.
    """
    if importlib.util.find_spec("triton") is not None:
        with contextlib.suppress(Exception):  # whoever wants it will say what is wrong with it
            importlib.import_module("triton")


def no_opengl(error: Exception) -> MissingDependencyError:
    """The error to raise when off-screen OpenGL fails with ``error``."""
    return MissingDependencyError(
        f"MuJoCo cannot render off screen with MUJOCO_GL={os.environ.get('MUJOCO_GL')} ({error}); "
        "on Debian and Ubuntu: apt-get install libegl1 libgl1-mesa-dri, and leave MUJOCO_GL unset"
    )
