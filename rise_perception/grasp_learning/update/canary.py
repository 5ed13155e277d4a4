"""A version on trial: a share of the grasps is its, and they decide whether it serves.

Grasps come in cycles, and in each cycle one run of consecutive grasps, at a place that is drawn, is the
candidate's. Each of its grasps is compared with its share of the serving version's grasps of the trial, in
their order. The differences are bet on, once that the candidate is worse and once that it is not worse by a
margin. Where a bet's hypothesis is wrong its capital stays near one: the chance that it ever exceeds
1 / significance is at most the significance, however often one looks (Ville). That holds as far as the grasps
of both versions are alike in all but the version; the drawn places see to that in the mean.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from rise_perception.core.errors import ConfigError, DataError, require
from rise_perception.grasp_learning.capture.episode_store import Entry, EpisodeStore
from rise_perception.grasp_learning.update.outcomes import succeeded
from rise_perception.grasp_learning.update.probation import weights_of

#: Consecutive grasps of a candidate: changing the weights of a node takes seconds, or an engine's building.
TURN = 5
#: Cycles without any grasp that was made with the candidate, after which it is taken back.
MAX_MUTE = 3
#: Seconds without a grasp after which a turn ends: a candidate that finds nothing must not stop the robot.
LONGEST_WAIT = 60.0
#: What is bet: the capital is the mean of those of gamblers who stake these shares of theirs.
STAKES = np.linspace(0.05, 0.95, 10)
#: Grasps of a trial that are kept; it has ended long before.
MAX_GRASPS = 100_000
#: How a grasp is written down: serving version failed or succeeded, candidate likewise, neither of both.
SERVING, CANDIDATE, NEITHER = "sS", "cC", "-"


@dataclass(frozen=True)
class CanaryConfig:
    """How a candidate is tried.

    Attributes:
        fraction: share of the grasps that are the candidate's; 0: what passes the gate serves at once.
        margin: success that a candidate which is kept may at most cost, with the certainty of
            ``significance``; no trial of this length could show that it picks better.
        significance: chance to take back a candidate that is no worse, and to keep one that is worse by the
            margin.
    """

    fraction: float = 0.0
    margin: float = 0.1
    significance: float = 0.1

    def __post_init__(self) -> None:
        if not (self.fraction == 0 or 0.02 <= self.fraction <= 0.5):
            raise ConfigError(
                f"canary.fraction is {self.fraction}; it must lie between 0.02 and 0.5, or be 0 for none"
            )
        for name in ("margin", "significance"):
            if not 0 < getattr(self, name) <= 0.5:
                raise ConfigError(
                    f"canary.{name} is {getattr(self, name)}; it must lie above 0 and be at most 0.5"
                )

    @property
    def runs(self) -> int:
        """Runs of :data:`TURN` grasps in a cycle; one is the candidate's."""
        return round(1 / self.fraction)


@dataclass(frozen=True)
class Trial:
    """A trial under way; it is kept on disk.

    Attributes:
        version: of the candidate; empty without a trial.
        since: nanoseconds, stamp of the last grasp that is counted.
        grasps: a letter for each, of :data:`SERVING`, :data:`CANDIDATE` and :data:`NEITHER`.
    """

    version: str = ""
    since: int = 0
    grasps: str = ""

    def __post_init__(self) -> None:
        require(len(self.version) <= 200, "trial.version", self.version[:80], "a version's name")
        require(len(self.grasps) <= MAX_GRASPS, "trial.grasps", len(self.grasps), f"{MAX_GRASPS} at most")
        known = set(self.grasps) <= set(SERVING + CANDIDATE + NEITHER)
        require(known, "trial.grasps", self.grasps[:80], "the letters of grasps")

    def counted(self, stamp: int, letter: str) -> Trial:
        """With one more grasp."""
        return replace(self, since=stamp, grasps=(self.grasps + letter)[:MAX_GRASPS])

    def is_turn(self, config: CanaryConfig) -> bool:
        """Whether the candidate serves the next grasp."""
        cycle, place = divmod(len(self.grasps), config.runs * TURN)
        drawn = zlib.crc32(f"{self.version} {cycle}".encode()) % config.runs
        return place // TURN == drawn


class Decision(Enum):
    """What becomes of a candidate."""

    UNDECIDED = "undecided"
    KEEP = "keep"
    TAKE_BACK = "take back"


def decide(grasps: str, config: CanaryConfig) -> tuple[Decision, str]:
    """The end of a trial, with the figures; :attr:`Decision.UNDECIDED` while it goes on.

    Args:
        grasps: letters of a :class:`Trial`, in their order.
        config: how it is tried.
    """
    mine = np.array([letter == CANDIDATE[1] for letter in grasps if letter in CANDIDATE], np.float64)
    others = np.array([letter == SERVING[1] for letter in grasps if letter in SERVING], np.float64)
    share = config.runs - 1
    pairs = min(len(mine), len(others) // share)
    said = f"{mine.sum():.0f} of {len(mine)} grasps succeeded with it, {others.sum():.0f} of {len(others)}"
    said += " without"
    gain = (mine[:pairs] - others[: pairs * share].reshape(pairs, share).mean(1))[:, None]
    enough = math.log(1 / config.significance)
    worse = _capital(-gain) >= enough
    no_worse = _capital((gain + config.margin) / (1 + config.margin)) >= enough
    if worse.any() and not no_worse[: int(worse.argmax())].any():
        return Decision.TAKE_BACK, f"it picks worse: {said}"
    if no_worse.any():
        return Decision.KEEP, f"it picks no worse by {config.margin:g}: {said}"
    mute = len(grasps) - 1 - max(map(grasps.rfind, CANDIDATE))
    if mute >= MAX_MUTE * config.runs * TURN:
        return Decision.TAKE_BACK, f"none of the last {mute} grasps was made with it: {said}"
    return Decision.UNDECIDED, said


def _capital(won: np.ndarray) -> np.ndarray:
    """(N, 1), at least -1, what each bet brings for each unit -> (N,) logarithm of the capital after it."""
    each = np.log1p(STAKES * won).cumsum(0)
    return np.asarray(np.logaddexp.reduce(each, axis=1) - math.log(len(STAKES)))


def count_new(trial: Trial, serving: str, episodes: EpisodeStore, entries: Iterable[Entry]) -> Trial:
    """The trial with the grasps that came since it was counted.

    Args:
        trial: as it was.
        serving: version that the candidate is compared with.
        episodes: the store.
        entries: of it.
    """
    new = (entry for entry in entries if entry.stamp > trial.since)
    for entry in sorted(new, key=lambda entry: entry.stamp):
        letter = NEITHER
        try:
            episode, labels = episodes.read(entry)
        except DataError:  # damaged, or evicted a moment ago
            trial = trial.counted(entry.stamp, letter)
            continue
        success, weights = succeeded(episode.grasp, labels), weights_of(episode.model_version)
        for version, letters in ((serving, SERVING), (trial.version, CANDIDATE)):
            if success is not None and weights == weights_of(version):
                letter = letters[success]
        trial = trial.counted(entry.stamp, letter)
    return trial
