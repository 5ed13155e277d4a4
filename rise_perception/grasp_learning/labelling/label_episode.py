"""From the change to labels: what left, compared with what was predicted and with what the robot says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from rise_perception.core.regions import CONTAINER, category_name, mask_iou
from rise_perception.grasp_learning.capture.episode import Episode, Grasp, Observation, Outcome
from rise_perception.grasp_learning.labelling.change import Change, find_change, pieces
from rise_perception.grasp_learning.labelling.episode_labels import Cause, EpisodeLabels, Verdict
from rise_perception.grasp_learning.labelling.learned_labels import LEFT, learned_masks

if TYPE_CHECKING:
    from rise_perception.grasp_learning.segmenter.model import LoadedSegmenter

#: Corners of the picture that move further than this fraction of its diagonal: the camera is elsewhere.
FARTHEST = 0.025
#: Exposure may change by this factor, and this fraction of the picture may change.
EXPOSURE_RANGE, CHANGE_RANGE = 2.5, 0.4
#: Intersection over union from which a change and a prediction show the same item.
AGREEMENT = 0.7
#: Fraction of a region that has to lie in another one to count as inside; below the other value it only
#: touches.
INSIDE, TOUCHES = 0.8, 0.05
#: Fraction of the smaller of what left and the target that they share at least.
TOUCHED = 0.1
#: A prediction of which less than this changed was nudged or uncovered, and did not leave.
GONE = 0.6
#: Median evidence, in multiples of the limit of change, that contradicts a prediction.
CLEARLY = 2.0
#: Fraction of what left that has to lie farther away now, where there is depth.
OPENED = 0.75
#: Predictions that one item may have been split into.
MAX_PARTS = 3
#: Two halves of an item may be more convex than it is by so much (area over that of the convex hull), and lie
#: so many metres apart in the median. Of 18 items that were predicted in halves one is beyond, of 24 pairs of
#: neighbours that left together two are within.
LESS_CONVEX, SAME_HEIGHT = 0.1, 0.02
#: The part of a merged prediction that stayed has to be seen to have stayed, to this fraction.
SEEN_TO_STAY = 0.4
#: An item that is larger than this fraction of the picture is a tray, a shadow, or a mistake.
LARGEST = 0.3
#: Something that enters over the border with this fraction of the picture is the robot, or a person.
INTRUDER = 0.01


#: Outcomes after which something may have left, and causes that no network can talk out of.
ASKED = (Outcome.SUCCESS, Outcome.DOUBLE, Outcome.UNKNOWN)
FINAL = (
    Cause.CAMERA_MOVED,
    Cause.EXPOSURE_JUMP,
    Cause.CHANGE_EVERYWHERE,
    Cause.ROBOT_IN_VIEW,
    Cause.HIDDEN,
    Cause.TOO_LARGE,
)


def label_episode(episode: Episode) -> EpisodeLabels:
    """Analyse an episode: change, verdict, labels."""
    return label_compared(episode, find_change(episode.before, episode.after))


def label_compared(episode: Episode, change: Change) -> EpisodeLabels:
    """Verdict and labels of an episode whose change is known.

    The grasp segmenter is asked where something may have left, the frames can be compared, and both have
    depth: without it, it brings wrong labels as well. It gives a label where the analysis of the change has
    none, and the outline where both show the same item; where they disagree, or it is not sure, or its
    weights are not there, the analysis decides.
    """
    before, grasp = episode.before, episode.grasp
    analysed = label_change(change, before, grasp)
    if (
        before.frame.depth is None
        or episode.after.frame.depth is None
        or grasp.outcome not in ASKED
        or analysed.cause in FINAL
        or analysed.verdict in (Verdict.MOVED, Verdict.EMPTY)
        or (segmenter := _segmenter()) is None
    ):
        return analysed
    case = _Case(change, before, grasp)
    removal = segmenter(before, episode.after, change, case.aimed)
    masks = learned_masks(removal, case.predicted, list(analysed.masks))
    if any(max((mask_iou(own, mask) for mask in masks), default=0.0) < AGREEMENT for own in analysed.masks):
        return analysed  # the two disagree, or the network is not sure
    found = case.learned(masks)
    return analysed if found is None else _labels(found, change, before, removal.left > LEFT)


def _segmenter() -> LoadedSegmenter | None:
    """The grasp segmenter; None without its weights, or where there is no torch: robots need none."""
    try:
        from rise_perception.grasp_learning.segmenter.model import shipped_segmenter
    except ModuleNotFoundError:
        return None
    return shipped_segmenter()


def label_change(change: Change, before: Observation, grasp: Grasp) -> EpisodeLabels:
    """Reconcile what changed with the predictions in the frame before and with the reported outcome."""
    return _labels(_refuse(change) or _Case(change, before, grasp).decide(), change, before, change.removed)


def _labels(found: _Found, change: Change, before: Observation, left: np.ndarray) -> EpisodeLabels:
    """The labels of a verdict; ``left`` (H, W) bool is what its maker took for removed."""
    removed = change.removed | left
    masks = np.stack(found.masks) if found.masks else np.zeros((0, *change.removed.shape), bool)
    changed = removed | change.added
    edge = cv2.morphologyEx(changed.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    return EpisodeLabels(
        verdict=found.verdict,
        cause=found.cause,
        reason=found.reason,
        masks=masks,
        known=change.compared & (masks.any(axis=0) | ~changed) & ~edge,
        unmoved=_unmoved(change, before) if found.verdict != Verdict.REJECTED else np.zeros(0, np.uint16),
        to_after=change.motion.matrix,
        removed=removed,
        added=change.added,
    )


@dataclass(frozen=True)
class _Found:
    verdict: Verdict
    cause: Cause
    reason: str
    masks: tuple[np.ndarray, ...] = ()


def _rejected(cause: Cause, reason: str) -> _Found:
    return _Found(Verdict.REJECTED, cause, reason)


def _refuse(change: Change) -> _Found | None:
    """Reasons that make any comparison worthless."""
    height, width = change.removed.shape
    if change.motion.shift > FARTHEST * np.hypot(height, width):
        return _rejected(Cause.CAMERA_MOVED, f"the camera moved by {change.motion.shift:.0f} pixels")
    gain = change.exposure.gain
    if gain.max() > EXPOSURE_RANGE or gain.min() < 1 / EXPOSURE_RANGE:
        return _rejected(Cause.EXPOSURE_JUMP, f"exposure changed by a factor of {gain.mean():.2f}")
    if change.fraction > CHANGE_RANGE:
        return _rejected(Cause.CHANGE_EVERYWHERE, f"{change.fraction:.0%} of the picture changed")
    if change.compared.mean() < 0.3:
        return _rejected(
            Cause.ROBOT_IN_VIEW, f"the robot hides {1 - change.compared.mean():.0%} of the picture"
        )
    return None


def _unmoved(change: Change, before: Observation) -> np.ndarray:
    """Labels of predictions whose pixels are all seen again, unchanged."""
    if before.instances is None:
        return np.zeros(0, np.uint16)
    changed = cv2.dilate((change.removed | change.added | ~change.compared).astype(np.uint8), np.ones((3, 3)))
    kept = []
    for row in _items(before):
        mask = before.instances.mask(row)
        if mask.any() and changed[mask].mean() < 0.02:
            kept.append(before.instances.labels[row])
    return np.array(kept, np.uint16)


def _items(before: Observation) -> list[int]:
    """Rows of the predictions that are items and no containers."""
    found = before.instances
    if found is None:
        return []
    names = [category_name(name) for name in found.class_names]
    return [row for row in range(len(found)) if names[int(found.classes[row])] != CONTAINER]


class _Case:
    """One episode whose frames can be compared."""

    def __init__(self, change: Change, before: Observation, grasp: Grasp) -> None:
        self.change, self.grasp, self.depth = change, grasp, before.frame.depth
        self.removed = list(pieces(change.removed))
        self.added = list(pieces(change.added))
        found = before.instances
        rows = _items(before)
        self.predicted = [] if found is None else [found.mask(row) for row in rows]
        aimed = (
            [] if found is None else [k for k, row in enumerate(rows) if found.ids[row] == grasp.target_id]
        )
        self.target = aimed[0] if aimed and grasp.target_id >= 0 else None

    def decide(self) -> _Found:
        """The verdict."""
        outcome = self.grasp.outcome
        if not self.removed and not self.added:
            if outcome in (Outcome.SUCCESS, Outcome.DOUBLE):
                return _rejected(Cause.NOTHING_CHANGED, "nothing changed although success was reported")
            return _Found(Verdict.EMPTY, Cause.AS_REPORTED, "nothing changed")
        if (intruder := self._intruder()) is not None:
            return intruder
        if outcome in (Outcome.EMPTY, Outcome.DROPPED):
            return self._moved()
        if outcome == Outcome.UNKNOWN and self._landed():
            return self._explained() or self._moved()
        if not self.removed:
            return self._explained() or _rejected(Cause.AMBIGUOUS, "something appeared, and nothing left")
        if outcome == Outcome.DOUBLE:
            return self._double(Cause.AS_REPORTED, "two items left, as reported")
        found = self._single()
        return (self._explained() or found) if found.cause == Cause.AMBIGUOUS else found

    @property
    def aimed(self) -> np.ndarray | None:
        """(H, W) bool, the prediction that was grasped at; None where that is not known."""
        return None if self.target is None else self.predicted[self.target]

    def learned(self, masks: list[np.ndarray]) -> _Found | None:
        """The verdict where a network is sure of masks of what left; None where none is at the target."""
        aimed = self.aimed
        if aimed is not None and not any(
            (mask & aimed).sum() >= TOUCHED * min(mask.sum(), aimed.sum()) for mask in masks
        ):
            return None
        if not masks or any(self._is_cut(mask) for mask in masks):
            return None
        if len(masks) > 1 or self.grasp.outcome == Outcome.DOUBLE:
            reported = self.grasp.outcome == Outcome.DOUBLE
            cause = Cause.AS_REPORTED if reported else Cause.NOT_AS_REPORTED
            return _Found(Verdict.DOUBLE, cause, "several items left", tuple(masks))
        item = masks[0]
        row, overlap = self._best(item)
        if overlap >= AGREEMENT:
            return _Found(Verdict.CONFIRMED, Cause.AGREES, f"the mask agrees ({overlap:.2f})", (item,))
        size = int(item.sum())
        parts = [p for p in self.predicted if (p & item).sum() >= INSIDE * p.sum()]
        touched = [p for p in self.predicted if (p & item).sum() > TOUCHES * size]
        covered = float((item & np.any(touched, axis=0)).sum() / size) if touched else 0.0
        if covered < 1 - INSIDE:
            return _Found(Verdict.CORRECTED, Cause.MISSED, "an item left that was not predicted", (item,))
        if len(parts) > 1:
            reason = f"the item was predicted as {len(parts)}"
            return _Found(Verdict.CORRECTED, Cause.OVER_SEGMENTED, reason, (item,))
        if (self.predicted[row] & item).sum() >= INSIDE * size:
            reason = f"{size / self.predicted[row].sum():.0%} of the prediction left"
            return _Found(Verdict.CORRECTED, Cause.UNDER_SEGMENTED, reason, (item,))
        reason = f"the prediction covered {covered:.0%} of the item"
        return _Found(Verdict.CORRECTED, Cause.OUTLINE, reason, (item,))

    # -- the cases ---------------------------------------------------------------------------------

    def _intruder(self) -> _Found | None:
        """Something over the border that no prediction explains: the robot, or a person."""
        enough = INTRUDER * self.change.removed.size
        for piece, when in [*((p, "after") for p in self.added), *((p, "before") for p in self.removed)]:
            border = piece[0].sum() + piece[-1].sum() + piece[:, 0].sum() + piece[:, -1].sum()
            explained = max((float((piece & p).sum() / p.sum()) for p in self.predicted), default=0.0)
            if piece.sum() >= enough and border > 0.25 * np.sqrt(piece.sum()) and explained < 0.5:
                return _rejected(
                    Cause.ROBOT_IN_VIEW, f"something reaches into the picture in the frame {when}"
                )
        return None

    def _landed(self) -> bool:
        """True when something appeared that may be what left."""
        gone = sum(int(p.sum()) for p in self.removed)
        return sum(int(p.sum()) for p in self.added) > 0.3 * gone

    def _moved(self) -> _Found:
        """Nothing was to leave, so what changed has moved; where a prediction agrees, that is its mask."""
        masks = tuple(piece for piece in self.removed if self._best(piece)[1] >= AGREEMENT)
        reported = self.grasp.outcome in (Outcome.DROPPED, Outcome.UNKNOWN)
        cause = Cause.AS_REPORTED if reported else Cause.NOT_AS_REPORTED
        return _Found(Verdict.MOVED, cause, "an item changed its place", masks)

    def _double(self, cause: Cause, reason: str) -> _Found:
        """Several items left: a label for each that its prediction agrees with."""
        masks = [piece for piece in self.removed if self._best(piece)[1] >= AGREEMENT]
        if not masks and len(self.removed) == 1:  # side by side: one region, which two predictions may divide
            inside = [p for p in self.predicted if (p & self.removed[0]).sum() >= INSIDE * p.sum()]
            if len(inside) == 2 and mask_iou(inside[0] | inside[1], self.removed[0]) >= AGREEMENT:
                masks = [p & self.removed[0] for p in inside]
        return _Found(Verdict.DOUBLE, cause, reason, tuple(masks))

    def _single(self) -> _Found:
        """One item left: which pixels were it, and was it predicted so?"""
        item = self._item()
        if item is None:
            return _rejected(Cause.TARGET_STAYED, "what changed is not what was aimed at")
        if item.sum() > LARGEST * item.size:
            return _rejected(Cause.TOO_LARGE, f"what left is {item.mean():.0%} of the picture")
        if self._is_cut(item):
            return _rejected(Cause.HIDDEN, "the robot hides a part of what left")
        others = [p for p in self.removed if not (p & item).any() and self._best(p)[1] >= AGREEMENT]
        if others and not self.added:
            return self._double(Cause.NOT_AS_REPORTED, "two items left, and one was reported")
        item, trimmed = self._without_neighbours(item)
        row, overlap = self._best(item)
        if overlap >= AGREEMENT:
            return _Found(Verdict.CONFIRMED, Cause.AGREES, f"the mask agrees ({overlap:.2f})", (item,))
        if trimmed or self._added_beside(item):
            return _rejected(
                Cause.AMBIGUOUS, "neighbours moved, and no prediction says which part is the item"
            )
        if np.median(self.change.evidence[item]) < CLEARLY:
            return _rejected(Cause.AMBIGUOUS, "the change is faint, and no prediction agrees with it")
        return self._corrected(item, row)

    def _explained(self) -> _Found | None:
        """Without depth: the one prediction that is gone, where hardly anything else clearly changed."""
        changed = self.change.removed | self.change.added
        clear = changed & (self.change.evidence > CLEARLY)
        gone = [
            row
            for row, mask in enumerate(self.predicted)
            if (changed & mask).sum() >= GONE * mask.sum()
            and (
                np.median(self.change.evidence[mask]) >= CLEARLY
                or (changed & mask).sum() >= INSIDE * changed.sum()
            )
        ]
        if len(gone) != 1 or (self.target is not None and gone != [self.target]):
            return None
        mask = self.predicted[gone[0]]
        near = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        told = (mask & self.change.measured).sum() >= 0.3 * mask.sum()  # by depth, which found otherwise
        if told or (clear & ~near).sum() > (1 - INSIDE) * mask.sum() or self._is_cut(mask):
            return None
        return _Found(Verdict.CONFIRMED, Cause.AGREES, "one prediction is gone, and no other", (mask,))

    def _corrected(self, item: np.ndarray, row: int) -> _Found:
        """A clean change that no prediction agrees with: in which way was it predicted wrongly?"""
        size = int(item.sum())
        parts = [p for p in self.predicted if (p & item).sum() >= INSIDE * p.sum()]
        touched = [p for p in self.predicted if (p & item).sum() > TOUCHES * size]
        beyond = item & ~np.any(touched, axis=0) if touched else item
        if (beyond & self.change.shadow).sum() > 0.5 * max(
            1, int(beyond.sum())
        ) and beyond.sum() > TOUCHES * size:
            return _rejected(Cause.AMBIGUOUS, "it may be a shadow, and no prediction agrees with it")
        covered = float((item & np.any(touched, axis=0)).sum() / size) if touched else 0.0
        if covered < 1 - INSIDE:
            return _Found(Verdict.CORRECTED, Cause.MISSED, "an item left that was not predicted", (item,))
        if not all(self._opened_up(part) for part in [item, *parts]):
            return _rejected(
                Cause.AMBIGUOUS, "what changed did not all leave, and no prediction agrees with it"
            )
        if len(parts) > MAX_PARTS:
            return _rejected(
                Cause.AMBIGUOUS, f"{len(parts)} predictions changed: a pile that slid, not one item"
            )
        if len(parts) > 1 and len(parts) == len(touched):
            if any(np.median(self.change.evidence[part]) < CLEARLY for part in parts):
                return _rejected(Cause.AMBIGUOUS, "a part of what was predicted as several hardly differs")
            if not self._is_one_shape(item, parts):
                return _rejected(Cause.AMBIGUOUS, "what left is no simpler in shape than what was predicted")
            reason = f"the item was predicted as {len(parts)}"
            return _Found(Verdict.CORRECTED, Cause.OVER_SEGMENTED, reason, (item,))
        if len(parts) == 1 and len(touched) == 1:
            reason = f"the prediction covered {covered:.0%} of the item"
            return _Found(Verdict.CORRECTED, Cause.OUTLINE, reason, (item,))
        if len(touched) == 1 and covered >= INSIDE:
            rest = self.predicted[row] & ~item
            if (rest & self.change.same).sum() >= SEEN_TO_STAY * rest.sum():
                reason = f"{size / self.predicted[row].sum():.0%} of the prediction left, the rest stayed"
                return _Found(Verdict.CORRECTED, Cause.UNDER_SEGMENTED, reason, (item,))
            return _rejected(Cause.AMBIGUOUS, "a part of the prediction left, and the rest cannot be judged")
        return _rejected(Cause.AMBIGUOUS, "the change fits no prediction, and several touch it")

    def _is_one_shape(self, item: np.ndarray, parts: list[np.ndarray]) -> bool:
        """False when two items may have left in place of one that was predicted as several.

        Halves of an item are together about as convex as each alone, and about as high.
        """
        if _solidity(item) < float(np.mean([_solidity(part) for part in parts])) - LESS_CONVEX:
            return False
        if self.depth is None:
            return True
        heights = [self.depth[part & (self.depth > 0)] for part in parts]
        middles = [float(np.median(height)) for height in heights if len(height)]
        return not middles or max(middles) - min(middles) <= SAME_HEIGHT

    # -- pieces and predictions --------------------------------------------------------------------

    def _best(self, region: np.ndarray) -> tuple[int, float]:
        """The prediction that overlaps ``region`` most (-1: none), and how much."""
        overlaps = [mask_iou(region, p) for p in self.predicted]
        if not overlaps or max(overlaps) == 0:
            return -1, 0.0
        row = int(np.argmax(overlaps))
        return row, overlaps[row]

    def _item(self) -> np.ndarray | None:
        """What left: the piece at the target, with others in the same prediction (something lay across)."""
        if self.target is None:
            item = self.removed[0]
            row = self._best(item)[0]
        else:
            row = self.target
            aimed = self.predicted[row]
            item = max(self.removed, key=lambda piece: int((piece & aimed).sum()))
            if (item & aimed).sum() < TOUCHED * min(item.sum(), aimed.sum()):
                return None
        if row >= 0:
            for piece in self.removed:
                if (piece & self.predicted[row]).sum() >= INSIDE * piece.sum():
                    item = item | piece
        return item

    def _is_cut(self, item: np.ndarray) -> bool:
        """True when the item goes on where the robot is."""
        ring = (cv2.dilate(item.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0) & ~item
        return bool(ring.any()) and float((~self.change.compared[ring]).mean()) > 0.1

    def _without_neighbours(self, item: np.ndarray) -> tuple[np.ndarray, bool]:
        """``item`` without predictions that it only touches: they were nudged or uncovered."""
        kept = item.copy()
        for mask in self.predicted:
            shared = int((mask & item).sum())
            if TOUCHES * item.sum() < shared < GONE * mask.sum() and shared < 0.5 * item.sum():
                kept &= ~mask
        trimmed = bool((kept != item).any())
        largest = pieces(kept)
        return (largest[0], trimmed) if trimmed and len(largest) else (item, False)

    def _opened_up(self, region: np.ndarray) -> bool:
        """False when depth shows that most of a region still holds something: it moved, and did not leave."""
        measured = region & self.change.measured
        if measured.sum() < 0.3 * region.sum():
            return True
        return bool((measured & self.change.farther).sum() >= OPENED * measured.sum())

    def _added_beside(self, item: np.ndarray) -> bool:
        """True when something appeared next to the item: a neighbour slid, and the change is of both."""
        near = cv2.dilate(item.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        return any((p & near).any() and p.sum() > 0.1 * item.sum() for p in self.added)


def _solidity(mask: np.ndarray) -> float:
    """Area of a mask (H, W) bool over that of its convex hull, in whole pixels."""
    points = np.argwhere(mask)[:, ::-1].astype(np.int32)
    if not len(points):
        return 1.0
    hull = cv2.fillConvexPoly(np.zeros(mask.shape, np.uint8), cv2.convexHull(points), 1)
    return float(len(points) / max(1, int(hull.sum())))
