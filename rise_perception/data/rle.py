"""COCO's run-length masks, decoded where there is something: large pictures with small items stay cheap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_FIRST, _MORE, _SIGN = 48, 32, 16  # characters start at "0"; bit 5: the number goes on; bit 4: it is negative


def decode_runs(counts: str | bytes | Sequence[int], height: int, width: int) -> np.ndarray:
    """Decode runs that go down the columns: background first, then mask, then background, ...

    Args:
        counts: the runs, or COCO's compressed form of them.
        height, width: size of the mask.

    Returns:
        (height, width) bool.

    Raises:
        ValueError: ``counts`` is neither, a run is negative, or the runs do not fill the mask exactly.
    """
    runs = _uncompress(counts) if isinstance(counts, (str, bytes)) else np.array(counts)
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or not runs.size:
        raise ValueError("its runs are no list of whole numbers")
    runs = runs.astype(np.int64)
    if runs.min() < 0 or runs.max() > height * width or runs.sum() != height * width:
        raise ValueError(f"its runs do not fill {width}x{height} pixels")
    mask = np.zeros((height, width), bool)
    edges = np.cumsum(runs)
    starts, ends = edges[0:-1:2], edges[1::2]
    starts, ends = starts[starts < ends], ends[starts < ends]
    if starts.size:
        left, right = int(starts[0]) // height, int(ends[-1] - 1) // height + 1  # columns with mask
        top, bottom = int((starts % height).min()), int(((ends - 1) % height).max()) + 1
        if (starts // height != (ends - 1) // height).any():
            top, bottom = 0, height  # a run goes on in the next column
        lengths = np.empty(2 * starts.size + 1, np.int64)
        lengths[1::2] = ends - starts
        lengths[0], lengths[-1] = starts[0] - left * height, right * height - ends[-1]
        lengths[2:-1:2] = starts[1:] - ends[:-1]
        columns = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(right - left, height)
        mask[top:bottom, left:right] = columns[:, top:bottom].T
    return mask


def _uncompress(counts: str | bytes) -> np.ndarray:
    """The runs in COCO's text: base 32, low digits first, from the fourth run on less the run two before."""
    text = counts.encode("ascii") if isinstance(counts, str) else counts
    digits = np.frombuffer(text, np.uint8).astype(np.int64) - _FIRST
    if not digits.size or digits.min() < 0 or digits.max() >= 2 * _MORE or digits[-1] & _MORE:
        raise ValueError("its counts are no compressed runs")
    ends = np.flatnonzero(digits & _MORE == 0)
    starts = np.append(0, ends[:-1] + 1)
    sizes = ends - starts + 1
    if sizes.max() > 12:
        raise ValueError("its counts are no compressed runs")
    shift = 5 * (np.arange(len(digits)) - np.repeat(starts, sizes))
    runs = np.add.reduceat((digits & (_MORE - 1)) << shift, starts)
    runs -= np.where(digits[ends] & _SIGN, 1 << (5 * sizes), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
