"""Which messages of a bag make up a frame: those whose headers' stamps agree, whatever their order."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from rise_perception.core.errors import BagError
from rise_perception.data.bag_recovery import RawMessage

PATIENCE = 30  # messages a colour image may wait for its companions before it goes out without them


class Topics(NamedTuple):
    """Where a frame's parts come from."""

    color: str
    depth: str | None
    info: str | None
    truth: str | None


class Group(NamedTuple):
    """The undecoded messages of one frame, its stamp in nanoseconds, and the latest intrinsics."""

    stamp: int
    color: RawMessage
    depth: RawMessage | None
    info: RawMessage | None
    truth: RawMessage | None


def group_messages(messages: Iterator[RawMessage], topics: Topics, tolerance: int) -> Iterator[Group]:
    """Yield the messages of each colour image, in recording order.

    Args:
        messages: those of ``topics``, in recording order.
        topics: where the parts come from.
        tolerance: nanoseconds by which the stamps of a colour image and its depth or truth may differ.

    Raises:
        BagError: where ``messages`` does, after the last frame before it.
    """
    companions: dict[str, deque[tuple[int, RawMessage]]] = {
        topic: deque(maxlen=2 * PATIENCE) for topic in (topics.depth, topics.truth) if topic
    }
    pending: deque[tuple[int, RawMessage]] = deque()
    info: RawMessage | None = None
    last_stamp = 0

    def take(topic: str | None, stamp: int) -> RawMessage | None:
        queue = companions[topic] if topic else ()
        if not queue:
            return None
        nearest = min(queue, key=lambda entry: abs(entry[0] - stamp))
        if abs(nearest[0] - stamp) > tolerance:
            return None
        while queue[0] is not nearest:
            queue.popleft()
        return nearest[1]

    def release(wait: bool) -> Iterator[Group]:
        while pending:
            stamp, raw = pending[0]
            complete = all(any(entry[0] >= stamp for entry in queue) for queue in companions.values())
            if wait and not complete and len(pending) <= PATIENCE:
                return
            pending.popleft()
            yield Group(stamp, raw, take(topics.depth, stamp), info, take(topics.truth, stamp))

    damage: BagError | None = None
    try:
        for raw in messages:
            if raw.topic == topics.info:
                info = raw
                continue
            stamp = header_stamp(raw)
            if raw.topic != topics.color:
                companions[raw.topic].append((stamp, raw))
            else:
                if stamp < last_stamp:  # the clock jumped back: the past is complete
                    yield from release(wait=False)
                    for queue in companions.values():
                        fresh = [entry for entry in queue if entry[0] <= stamp + tolerance]
                        queue.clear()
                        queue.extend(fresh)
                last_stamp = stamp
                pending.append((stamp, raw))
            yield from release(wait=True)
    except BagError as error:
        damage = error
    yield from release(wait=False)
    if damage:
        raise damage


def header_stamp(raw: RawMessage) -> int:
    """Nanoseconds of the std_msgs/Header that begins a message, without decoding it; else its log time."""
    if len(raw.data) < 12:
        return raw.stamp
    order = "<iI" if raw.data[1] & 1 else ">iI"
    seconds, nanoseconds = struct.unpack_from(order, raw.data, 4)
    return seconds * 10**9 + nanoseconds or raw.stamp
