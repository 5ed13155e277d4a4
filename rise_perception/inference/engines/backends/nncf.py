"""INT8 convolutions for OpenVINO: NNCF's quantisation after training."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from rise_perception.inference.engines.runner import RuntimeUnavailableError

#: Quantised, or nothing to compute. Matrix products of the transformer and the mask head decide where boxes,
#: samples and edges lie: in INT8 they cost two points of mask IoU and save nothing.
_TYPES = {"Convolution", "Constant", "Parameter", "Result"}


def check_nncf() -> None:
    """Raises RuntimeUnavailableError unless NNCF is installed."""
    if importlib.util.find_spec("nncf") is None:
        raise RuntimeUnavailableError(
            "precision int8 needs the package 'nncf' to calibrate: pip install 'rise_perception[int8]'"
        )


def quantise(model: Any, samples: Sequence[dict[str, np.ndarray]]) -> Any:
    """An OpenVINO model with its convolutions in INT8.

    Args:
        model: openvino.Model in FP32.
        samples: inputs by name, of images like those that will come; ranges of values are taken from them.
    """
    # NNCF would report its use to its makers, from a robot too.
    os.environ.setdefault("NNCF_CI", "1")
    import nncf

    floats = {operation.get_type_name() for operation in model.get_ops()} - _TYPES
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # progress bars
            return nncf.quantize(
                model,
                nncf.Dataset(list(samples)),
                subset_size=len(samples),
                ignored_scope=nncf.IgnoredScope(types=sorted(floats), validate=False),
            )
    finally:
        logger.setLevel(level)
