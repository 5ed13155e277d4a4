"""Keeps the memory of one frame for the next one, and gives back what is larger than that."""

from __future__ import annotations

import ctypes
import sys

# From malloc.h of the GNU C library.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_MIB = 1 << 20


def keep_freed_memory(one_arena: bool = False) -> None:
    """Lets this process reuse freed arrays instead of returning them to the system.

    By default, the GNU C library asks the system for every array of more than a few hundred kilobytes
    and gives it back at once; touching fresh pages then costs more than the arithmetic on them: about a
    fifth of all that a frame costs besides its network. Elsewhere this does nothing.

    Args:
        one_arena: what one thread freed serves the others too. By default each thread keeps its own, so
            that a network that is tried in one thread takes its memory beside what the thread that
            serves has free. Holds for threads that are started later.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 32 * _MIB)
        mallopt(_TRIM_THRESHOLD, 256 * _MIB)
        mallopt(_TOP_PAD, 64 * _MIB)
        if one_arena:
            mallopt(_ARENA_MAX, 1)


def give_back_freed_memory() -> None:
    """Returns to the system what is freed, after something that took much and is not soon done again.

    With :func:`keep_freed_memory` it would stay with this process for ever. Elsewhere than with the GNU C
    library this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
