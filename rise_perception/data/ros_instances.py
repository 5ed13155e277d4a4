"""rise_msgs/InstanceArray back to instances, without ROS: works on any object with the message's fields."""

from __future__ import annotations

from typing import Any

import numpy as np

from rise_perception.core.instances import Instances
from rise_perception.data.ros_images import to_label_map


def to_instances(message: Any) -> Instances:
    """The instances that a rise_msgs/InstanceArray holds.

    ``class_names`` are those that occur in the message, sorted; ``classes`` index into them.

    Raises:
        ImageError: the label map contradicts itself.
    """
    rows = message.instances
    width = len(rows[0].embedding) if rows else 0
    names = tuple(sorted({row.class_name for row in rows})) or ("object",)
    boxes = [(r.bbox.x_offset, r.bbox.y_offset, r.bbox.width, r.bbox.height) for r in rows]
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return Instances(
        label_map=to_label_map(message.label_map),
        labels=np.array([row.label for row in rows], np.uint16),
        scores=np.array([row.score for row in rows], np.float32),
        classes=np.array([names.index(row.class_name) for row in rows], np.int64),
        boxes=corners,
        embeddings=np.array([row.embedding for row in rows], np.float32).reshape(len(rows), width),
        ids=np.array([row.id for row in rows], np.int64),
        class_names=names,
        # messages of earlier versions lack it
        pick_success=np.array([getattr(row, "pick_success", np.nan) for row in rows], np.float32),
    )
