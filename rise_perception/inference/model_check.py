"""What a model has to show on stored frames before it serves in place of another."""

from __future__ import annotations

from rise_perception.core.errors import ModelError
from rise_perception.core.frame import Frame
from rise_perception.inference.engines.feeds import stored_frames
from rise_perception.inference.served_model import ServedModel

#: Frames of the shipped recording that are looked at.
COUNT = 2


def check_model(new: ServedModel, old: ServedModel) -> None:
    """See that a model computes finite numbers, and finds something where the one that serves does.

    The frames are those of the shipped recording, and the last one in which the serving model found
    something: a model of other objects may find nothing in the recording, and has to find them there.

    Raises:
        ModelError: some output is not finite, or the new model finds nothing in any of the frames and the
            old one does in one of them.
    """
    frames = stored_frames(old.card.network.image_size, COUNT)
    if old.last_found is not None:
        frames.append(old.last_found)
    if sum(_found(new, frame) for frame in frames) > 0:
        return
    if any(_found(old, frame) for frame in frames):
        raise ModelError(
            f"{new.card.version} finds nothing in {len(frames)} stored frames at score_threshold "
            f"{new.threshold:g}, and {old.card.version} does; train it again, or lower its threshold"
        )


def _found(model: ServedModel, frame: Frame) -> int:
    """How many instances a model finds."""
    count, finite = model.inspect(frame.image, frame.depth if model.uses_depth else None)
    if not finite:
        raise ModelError(
            f"{model.card.version} computes numbers that are not finite; its weights are damaged or diverged "
            "in training: restore them, or train it again"
        )
    return count
