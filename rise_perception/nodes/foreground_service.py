"""The service ~/capture_reference: what the camera sees now is the place without items."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from std_srvs.srv import Trigger

from rise_perception.core.errors import RiseError
from rise_perception.core.frame import Frame
from rise_perception.inference.scene_foreground import SceneForeground
from rise_perception.nodes.diagnostics import OK, WARN, Condition
from rise_perception.nodes.spin import pause

#: Frames of a capture, and seconds that are waited for them; a camera on a trigger may send fewer.
FRAMES, TIMEOUT, POLL_PERIOD = 5, 5.0, 0.02
#: Where captures go when no folder is named.
DEFAULT_FOLDER = "~/.rise_perception/reference"


class ForegroundService:
    """Serves the requests, and says what there is to say of the reference.

    Args:
        node: whose service it is.
        problem: gives why no frame can come now, empty if one can.
    """

    def __init__(self, node: Node, problem: Callable[[], str]) -> None:
        self._node, self._problem = node, problem
        self.scene = SceneForeground(Path(DEFAULT_FOLDER).expanduser())
        self._lock = threading.Lock()
        self._frames: list[Frame] = []
        self._since = 0.0
        self._waiting = False
        # A call that waits holds its callback group.
        group = ReentrantCallbackGroup()
        self._service = node.create_service(
            Trigger, "~/capture_reference", self._on_capture, callback_group=group
        )

    @property
    def waits(self) -> bool:
        """True while frames are collected."""
        return self._waiting

    def configure(self, folder: str, mode: str) -> None:
        """Take the parameters' values; a reference that cannot be read is told and costs nothing else."""
        self.scene = SceneForeground(Path(folder or DEFAULT_FOLDER).expanduser())
        self.scene.mode = mode
        if folder:
            self.scene.load()

    def offer(self, frame: Frame, arrival: float) -> None:
        """Takes a frame that arrived then (``time.monotonic()``); from the worker thread."""
        with self._lock:
            if self._waiting and arrival > self._since and len(self._frames) < FRAMES:
                self._frames.append(frame)

    async def _on_capture(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._waiting:
            response.message = "another reference is being captured; wait for it"
            return response
        with self._lock:
            self._frames, self._since = [], time.monotonic()
        self._waiting = True
        try:
            while len(self._frames) < FRAMES and time.monotonic() < self._since + TIMEOUT:
                if problem := self._problem():
                    response.message = problem
                    return response
                await pause(self._node, POLL_PERIOD)
            with self._lock:
                frames = list(self._frames)
            if not frames:
                response.message = f"no frame within {TIMEOUT:g} s: is the camera on?"
                return response
            said: list[tuple[bool, str]] = []
            # Large pictures take seconds to write, and the node has other things to do.
            threading.Thread(target=lambda: said.append(self._keep(frames)), daemon=True).start()
            while not said:
                await pause(self._node, POLL_PERIOD)
            response.success, response.message = said[0]
        finally:
            self._waiting = False
        return response

    def _keep(self, frames: list[Frame]) -> tuple[bool, str]:
        """Whether it worked out, and what to answer."""
        try:
            stored = self.scene.capture(frames)
        except (RiseError, OSError) as error:
            return False, f"the reference stays what it was: {error}"
        except Exception as error:  # whoever waits has to hear of it
            self._node.get_logger().error(traceback.format_exc())
            return False, f"internal error, its trace is in the log: {error!r}"
        depth = "" if stored.reference.depth is not None else ", without depth"
        return True, f"{stored.frames} frames{depth} are the reference now: {stored.folder}"

    def condition(self) -> Condition:
        """Fraction of foreground, age of the reference, and whether it fits."""
        scene = self.scene
        values = {"foreground": scene.mode, "reference": "none"}
        if scene.fraction is not None:
            values["foreground fraction"] = f"{scene.fraction:.1%}"
        if scene.stored is not None:
            values["reference"] = f"{scene.stored.folder} ({scene.stored.frames} frames)"
            values["reference age (s)"] = f"{scene.stored.age:.0f}"
        if scene.mismatch is not None:
            values["reference mismatch"] = f"{scene.mismatch:.1%}"
        if scene.mode != "auto" or not scene.problem:
            return OK, "", values
        remedy = "empty the place and call ~/capture_reference, or set foreground to network"
        return WARN, f"all instances count as foreground: {scene.problem}; {remedy}", values
