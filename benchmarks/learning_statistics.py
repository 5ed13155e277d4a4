"""What the rows of the learning benchmark say: means over seeds, differences and their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student_t

#: What tells the rows of one table from those of another; what earlier results lack, and had.
GROUP = {"data": "tote", "architecture": "rise", "input": "rgbd", "split": "views"}
#: What tells a row from all others.
IDENTITY = (*GROUP, "method", "labels", "seed", "iterations")
#: The method of which several lengths are trained, and the best one counts.
PEER = "supervised"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Group:
    """The rows of one table.

    Attributes:
        rows: results with equal :data:`GROUP`.
    """

    rows: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, rows: Sequence[dict[str, Any]], **where: str) -> Group:
        """Those of the rows that have these values; the usual ones where none is given."""
        wanted = GROUP | {"split": "scenes"} | where
        return cls(tuple(row for row in rows if all(row[name] == value for name, value in wanted.items())))

    @property
    def steps(self) -> int:
        """The steps of the longest trainings, which count; 0 without any."""
        return max((row["iterations"] for row in self.rows), default=0)

    def length(self, method: str, labels: float) -> int:
        """The steps of a method's rows that count: of the peer those with the best mean AP."""
        if method != PEER:
            return self.steps
        means: dict[int, float] = {}
        for steps in sorted({row["iterations"] for row in self.rows}):
            values = self._at(method, labels, "ap", steps)
            if values:
                means[steps] = float(np.mean(list(values.values())))
        return max(means, key=means.__getitem__, default=self.steps)

    def values(self, method: str, labels: float, figure: str = "ap") -> dict[int, float]:
        """Seed -> figure."""
        return self._at(method, labels, figure, self.length(method, labels))

    def differences(self, method: str, other: str, labels: float, figure: str = "ap") -> list[float]:
        """Method minus other, seed by seed: the split and the first weights are the same then."""
        upper, lower = (self.values(name, labels, figure) for name in (method, other))
        return [upper[seed] - lower[seed] for seed in upper if seed in lower]

    def _at(self, method: str, labels: float, figure: str, steps: int) -> dict[int, float]:
        wanted = (method, labels, steps)
        return {
            row["seed"]: row[figure]
            for row in self.rows
            if (row["method"], row["labels"], row["iterations"]) == wanted
        }


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Bounds of the mean at :data:`CONFIDENCE` by Student's t; None for less than two values."""
    if len(values) < 2:
        return None
    reach = student_t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    mean = float(np.mean(values))
    return mean - float(reach), mean + float(reach)


def verdict(values: Sequence[float]) -> str:
    """Whether a difference is one: ahead or behind when the interval leaves out zero, else a tie."""
    bounds = interval(values)
    if bounds is None:
        return "one seed" if values else "not measured"
    return "ahead" if bounds[0] > 0 else "behind" if bounds[1] < 0 else "tie"


def complete(row: dict[str, Any]) -> dict[str, Any]:
    """A row with what earlier results do not state."""
    return GROUP | row


def merged(before: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of an earlier file with those of now, which take the place of equal ones."""
    rows = {tuple(complete(row)[name] for name in IDENTITY): complete(row) for row in (*before, *now)}
    return list(rows.values())
