"""What an exported graph is made for: everything that is a constant in it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from rise_perception.core.errors import ConfigError
from rise_perception.core.letterbox import Letterbox

#: Names of the outputs; order and meaning are those of
#: :class:`rise_perception.inference.postprocess.DecodedQueries`.
OUTPUTS = ("probability", "classes", "boxes", "embeddings", "masks")
#: All metadata of an exported file is one JSON text under this key.
METADATA = "rise_perception"
#: The last is a precision of engines: it is made of the graph in FP32.
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
#: Where the letterbox and the normalisation of colour happen.
PREPROCESSING = ("outside", "inside")
#: TensorRT's limit on K of TopK.
MAX_INSTANCES = 3840


@dataclass(frozen=True)
class ExportSpec:
    """Shapes and precision of an exported graph.

    Attributes:
        size: height and width of the network's input, multiples of 8.
        image: height and width of the camera's images; their letterbox is a constant of the graph.
        topk: instances that come out, chosen before masks are drawn.
        precision: of convolutions and matrix products; norms, softmax and boxes are always FP32. In ``int8``,
            which only an engine can be in, matrix products are FP32, too.
        preprocessing: ``outside``: the graph takes the normalised input; ``inside``: it takes the camera's
            uint8 image.
        calibration: recording or folder of pictures that shows ``int8`` what values to expect; empty: the
            shipped recording.
    """

    size: tuple[int, int]
    image: tuple[int, int]
    topk: int = 100
    precision: str = "fp32"
    preprocessing: str = "outside"
    calibration: str = ""

    def __post_init__(self) -> None:
        checks = (
            ("precision", self.precision, self.precision in PRECISIONS, f"one of {PRECISIONS}"),
            (
                "preprocessing",
                self.preprocessing,
                self.preprocessing in PREPROCESSING,
                f"one of {PREPROCESSING}",
            ),
            ("topk", self.topk, 1 <= self.topk <= MAX_INSTANCES, f"between 1 and {MAX_INSTANCES}"),
            (
                "size",
                self.size,
                min(self.size) >= 32 and not any(s % 8 for s in self.size),
                "multiples of 8 from 32 on",
            ),
            ("image", self.image, min(self.image) >= 1, "at least one pixel high and wide"),
        )
        for name, value, fits, remedy in checks:
            if not fits:
                raise ConfigError(f"export {name} is {value!r}; it must be {remedy}")

    @property
    def graph(self) -> ExportSpec:
        """What the graph is made for that an engine is built from."""
        precision = "fp32" if self.precision == "int8" else self.precision
        return dataclasses.replace(self, precision=precision, calibration="")

    @property
    def letterbox(self) -> Letterbox:
        """How the camera's images lie in the network's input."""
        return Letterbox(self.image, self.size)

    @property
    def mask_size(self) -> tuple[int, int]:
        """Height and width of the masks that come out."""
        return math.ceil(self.size[0] / 4), math.ceil(self.size[1] / 4)
