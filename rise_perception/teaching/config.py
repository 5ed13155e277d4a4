"""What `rise teach` is asked for, and how it teaches."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rise_perception.core.errors import require
from rise_perception.network.config import REPRESENTATIONS
from rise_perception.synthesis.collage import CollageConfig

#: Below so many pictures cross-validation evaluates; from there on, pictures that are held out.
CROSS_VALIDATED_BELOW = 12
#: Fraction of the pictures that are held out.
HELD_OUT = 0.25


@dataclass(frozen=True)
class Recipe:
    """How a round trains; the defaults are the recipe that docs/teach.md measured, as a whole.

    Attributes:
        learning_rate: of AdamW, at its highest; the backbone's is a tenth of it.
        batch: views in a step: two of each scene.
        average: decay of the moving average of the weights, which is evaluated and saved.
        real: fraction of the labelled scenes that are the annotated pictures themselves, with objects pasted
            on.
        rehearsal: fraction that are pictures of elsewhere, so that less is forgotten; the rest are collages.
        rehearsed: how many pictures of the tote worlds are rendered for that; 0 takes the shipped bag's.
        objects: most objects pasted on a picture.
        scale: range of the geometric scale factor.
        augmentation: strength of the colour augmentation.
        finish: fraction of the training, at its end by steps or by time, that sees the annotated pictures
            alone, rotated all round, at a tenth of the rate.
        decay_from: fraction of the training from which the rate falls linearly to zero.
        most_steps: steps after which a round ends, also where time is left.
        precision: ``fp32`` or ``bf16``; empty takes what is faster on this machine.
        image_size: height and width of the network's input; None is the start's.
        cross_fitted: M of a training picture comes from a network that has not learned it.
        spoiled, absent: fractions of the training pictures whose M is spoiled, and missing.
        collage: how collages are made.
    """

    learning_rate: float = 5e-4
    batch: int = 4
    average: float = 0.99
    real: float = 0.5
    rehearsal: float = 0.15
    rehearsed: int = 144
    objects: int = 4
    scale: tuple[float, float] = (0.8, 1.3)
    augmentation: float = 0.7
    finish: float = 0.0
    decay_from: float = 0.4
    most_steps: int = 3000
    precision: str = ""
    image_size: tuple[int, int] | None = None
    cross_fitted: bool = True
    spoiled: float = 0.3
    absent: float = 0.1
    collage: CollageConfig = field(default_factory=CollageConfig)

    def __post_init__(self) -> None:
        require(self.batch >= 2 and self.batch % 2 == 0, "recipe.batch", self.batch, "even, from 2 on")
        fractions = self.real + self.rehearsal
        require(
            self.real > 0 and fractions <= 1, "recipe.real + rehearsal", fractions, "above 0 and at most 1"
        )
        require(self.precision in ("", "fp32", "bf16"), "recipe.precision", self.precision, "fp32 or bf16")
        require(0 <= self.finish < 1, "recipe.finish", self.finish, "in [0, 1)")
        bad = self.spoiled + self.absent
        least = min(self.spoiled, self.absent)
        require(least >= 0 and bad <= 1, "recipe.spoiled + absent", bad, "each 0 or more, together at most 1")
        require(self.rehearsed >= 0, "recipe.rehearsed", self.rehearsed, "0 or more")
        require(self.most_steps >= 1, "recipe.most_steps", self.most_steps, "at least 1")


@dataclass(frozen=True)
class TeachConfig:
    """One call of `rise teach`.

    Attributes:
        source: the COCO export, or the folder of pictures with label maps.
        out: folder of the taught model.
        start: model folder or name of a shipped model; empty chooses the shipped one by whether there is
            depth.
        input: input representation, a key of :data:`rise_perception.network.config.REPRESENTATIONS`; empty
            is the start's.
        empty: folder of pictures without objects; None paints them out of the annotated ones.
        unlabelled: folder of further pictures, or a bag.
        region: picture that is white where the items lie; None is everywhere.
        minutes: time for all rounds.
        steps: steps of a round, instead of what the time allows; 0 goes by time.
        with_depth: use depth, if there is any.
        depth_scale: metres that 1 means in a depth map; None is the usual.
        seed: of split, order and augmentation.
        device: where the network runs.
        command: for the card and the page.
        recipe: how.
    """

    source: Path
    out: Path
    start: str = ""
    input: str = ""
    empty: Path | None = None
    unlabelled: Path | None = None
    region: Path | None = None
    minutes: float = 30.0
    steps: int = 0
    with_depth: bool = True
    depth_scale: float | None = None
    seed: int = 0
    device: str = "cpu"
    command: str = "rise teach"
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        known = ("", *REPRESENTATIONS)
        require(self.input in known, "--input", self.input, f"one of {', '.join(REPRESENTATIONS)}")
        require(self.minutes > 0, "--minutes", self.minutes, "above 0")
        require(self.steps >= 0, "--steps", self.steps, "0 or more")
        require(self.seed >= 0, "--seed", self.seed, "0 or more")
        if self.depth_scale is not None:
            require(self.depth_scale > 0, "--depth-scale", self.depth_scale, "above 0")


@dataclass(frozen=True)
class Round:
    """One training on some of the pictures.

    Attributes:
        name: also its folder's.
        teaches: indices of the pictures that are learned.
        held_out: indices of those that it is evaluated on; none where nothing is left for that.
        fraction: of the time.
        start: name of the round whose weights it goes on from; empty: the start model.
        keeps_best: keep the best of the states that were evaluated on the way, instead of the last.
    """

    name: str
    teaches: tuple[int, ...]
    held_out: tuple[int, ...]
    fraction: float
    start: str = ""
    keeps_best: bool = False


def plan_rounds(count: int, order: list[int]) -> list[Round]:
    """Which pictures teach and which are held out, round by round; the last round makes the model.

    One picture teaches and none is held out. Below :data:`CROSS_VALIDATED_BELOW` each half is held out from a
    model that learned the other; the last round learns all and goes on from the first. From there on a
    quarter is held out.

    Args:
        count: number of pictures.
        order: they are dealt out in this order, a permutation of them.
    """
    everything = tuple(range(count))
    if count == 1:
        return [Round("all", everything, (), 1.0)]
    if count < CROSS_VALIDATED_BELOW:
        first, second = tuple(sorted(order[::2])), tuple(sorted(order[1::2]))
        return [
            Round("first-half", first, second, 0.25),
            Round("second-half", second, first, 0.25),
            Round("all", everything, (), 0.5, start="first-half"),
        ]
    held = max(3, round(HELD_OUT * count))
    return [Round("held-out", tuple(sorted(order[held:])), tuple(sorted(order[:held])), 1.0, keeps_best=True)]
