"""ROS 2 message types without ROS: the standard ones and this package's own, for reading and writing bags."""

from __future__ import annotations

from functools import lru_cache

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from rise_perception.core import resources


@lru_cache(maxsize=1)
def typestore() -> Typestore:
    """The message types of ROS 2 Jazzy with ``rise_msgs`` added from its ``.msg`` files.

    The image, camera info and header types are the same in Humble, so its bags are read as well.
    The same object is returned each time, hence messages of one reader fit any writer.
    """
    store = get_typestore(Stores.ROS2_JAZZY)
    types = {}
    for path in sorted(resources.find("msg").glob("*.msg")):
        types.update(get_types_from_msg(path.read_text(encoding="utf-8"), f"rise_msgs/msg/{path.stem}"))
    store.register(types)
    return store
