"""Labels on real frames: a red tote that is emptied item by item, in colour alone and without any event."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from rise_perception.core.regions import mask_iou
from rise_perception.grasp_learning.capture.episode import Episode
from rise_perception.grasp_learning.capture.recordings import PictureGrasps, Predictor
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.inference.segmenter import Segmenter

#: Outlines (x, y), drawn by eye, of what left after each of the pictures but the last.
TAKEN = (
    ((247, 294), (326, 294), (330, 438), (253, 440), (247, 330)),
    ((376, 302), (527, 297), (520, 410), (365, 464), (363, 448)),
    ((203, 267), (444, 274), (434, 478), (202, 473)),
    ((134, 338), (374, 343), (376, 376), (132, 374)),
    ((319, 309), (347, 280), (408, 250), (432, 278), (430, 293), (362, 328), (334, 330)),
    ((274, 255), (320, 264), (300, 336), (256, 327)),
    (
        (258, 224), (289, 246), (275, 272), (253, 307), (227, 317), (193, 302), (190, 285), (203, 265),
        (227, 233),
    ),
    ((347, 271), (388, 359), (262, 418), (222, 327)),
    ((350, 234), (448, 231), (458, 270), (471, 326), (468, 330), (414, 336), (360, 338), (356, 287)),
    ((347, 227), (390, 255), (430, 322), (366, 369), (330, 398), (251, 290)),
    ((473, 330), (500, 318), (526, 326), (528, 408), (494, 426), (480, 410)),
    (
        (385, 400), (414, 400), (440, 381), (480, 356), (495, 381), (507, 398), (499, 420), (497, 442),
        (458, 450), (388, 440),
    ),
    ((480, 253), (515, 287), (517, 293), (470, 367), (443, 418), (395, 380), (433, 327)),
)  # fmt: skip
#: A label that overlaps the item by no more than this is wrong; by no more than the next, it is a part.
WRONG, PART = 0.5, 0.7


@pytest.fixture(scope="module")
def overlaps(shared_data: Path) -> list[float | None]:
    """Of each grasp the intersection over union of its label with what left; None without a label."""
    source = PictureGrasps(shared_data / "tote_removal")
    predictor = Predictor(Segmenter.load("rise_small_rgb", "cpu"))
    return [
        _overlap(predictor.complete(e), t) for e, t in zip(source.episodes(lambda: None), TAKEN, strict=True)
    ]


def _overlap(episode: Episode, outline: tuple[tuple[int, int], ...]) -> float | None:
    masks = label_episode(episode).masks
    truth = np.zeros(episode.before.frame.image.shape[:2], np.uint8)
    cv2.fillPoly(truth, [np.array(outline)], 1)
    return min((mask_iou(mask, truth > 0) for mask in masks), default=None)


def test_no_label_is_wrong(overlaps: list[float | None]) -> None:
    assert [k for k, overlap in enumerate(overlaps) if overlap is not None and overlap <= WRONG] == []


def test_most_grasps_give_a_label(overlaps: list[float | None]) -> None:
    assert sum(overlap is not None and overlap > PART for overlap in overlaps) >= 9
