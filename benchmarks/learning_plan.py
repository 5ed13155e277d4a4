"""The pieces of the learning benchmark: which method is trained at which share of labels with which seed."""

from __future__ import annotations

from dataclasses import dataclass

LABELS, SEEDS = (0.01, 0.1, 1.0), (0, 1, 2)
#: Methods at every share of labels.
MAIN = ("supervised", "rise")
#: The paper's Table 3, cumulative, and its Table 4, at one share of labels: the one where they matter most.
PARTS = ("none", "ps", "ps_ot", "self_supervision", "m2b", "rise")
SELECTORS = ("threshold", "quantile", "reversed", "rise")
ABLATION_LABELS = 0.01
METHODS = tuple(dict.fromkeys((*MAIN, *PARTS, *SELECTORS)))
#: What a row of the results must hold.
ROW = {
    "method": str,
    "labels": float,
    "seed": int,
    "ap": float,
    "ap50": float,
    "ap75": float,
    "iterations": int,
    "machine": str,
}


@dataclass(frozen=True)
class Piece:
    """One training and its evaluation.

    Attributes:
        method: name of a file among the benchmark's configurations.
        labels: share of the training images that is labelled.
        seed: of the split, the weights, the order and the augmentation.
    """

    method: str
    labels: float
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.method}_{self.labels:g}_seed{self.seed}"


def plan() -> list[Piece]:
    """All pieces, in the order in which they are worked on; what two tables share is there once."""
    main = [Piece(method, labels, seed) for seed in SEEDS for labels in LABELS for method in MAIN]
    ablations = [Piece(method, ABLATION_LABELS, seed) for seed in SEEDS for method in (*PARTS, *SELECTORS)]
    return list(dict.fromkeys((*main, *ablations)))
