"""Sentences to the segmentation node: the service ~/refer, and the topics ~/expression and ~/referred.

A call of ~/refer waits for the next frame, also where nobody else listens, and is answered about it. What is
said on ~/expression is answered for every frame from then on; an empty sentence ends that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rise_msgs.msg import Referral
from rise_msgs.srv import Refer
from sensor_msgs.msg import RegionOfInterest
from std_msgs.msg import String

from rise_perception.core.errors import RiseError
from rise_perception.language.catalogue import Catalogue, read_catalogue
from rise_perception.language.vocabulary import MAX_CHARACTERS
from rise_perception.nodes import messages, qos
from rise_perception.nodes.outputs import Result
from rise_perception.nodes.services import answering
from rise_perception.nodes.spin import pause
from rise_perception.referring.answer import Referral as Answer

if TYPE_CHECKING:  # torch, which a node that serves an exported file does without, comes with them
    from rise_perception.referring.referrer import Referrer, View

PATIENCE, POLL_PERIOD = 3.0, 0.01  # seconds that a call waits for a frame, and between two looks
MOST_WAITING = 16  # calls that wait at one time


@dataclass(frozen=True)
class ReferralSettings:
    """What sentences are answered with.

    Attributes:
        model: referring model: folder, name of a shipped one, auto, or none for the grammar alone.
        catalogue: JSON file of names, or empty.
        device: where crops and words are looked at.
    """

    model: str = "auto"
    catalogue: str = ""
    device: str = "cpu"


class ReferralServer:
    """Serves sentences; created with the node, given a model when the node is configured.

    Args:
        node: whose service and topics they are.
        is_active: False while no frame can come.
        report: takes errors for the diagnostics.
    """

    def __init__(
        self,
        node: Node,
        is_active: Callable[[], bool],
        report: Callable[[str], None],
    ) -> None:
        self._node, self._is_active, self._report = node, is_active, report
        self._lock = threading.Lock()
        self._referrer: Referrer | None = None
        self._refusal = "no model is loaded: the node is not configured"
        self._seen: Result | None = None
        self._view: View | None = None
        self._count = self._waiting = 0
        self._expression = ""
        self._target: int | None = None
        # A call that waits holds its callback group.
        group = ReentrantCallbackGroup()
        self._service = node.create_service(Refer, "~/refer", self._on_refer, callback_group=group)
        self._expressions = node.create_subscription(
            String, "~/expression", self._on_expression, qos.output()
        )
        self._answers = node.create_publisher(Referral, "~/referred", qos.output())

    def load(self, settings: ReferralSettings) -> None:
        """Load the model and the catalogue; a failure costs the sentences, not the masks."""
        self._referrer = None
        try:
            from rise_perception.inference.device import choose_device
            from rise_perception.referring.referrer import Referrer

            names: Catalogue | None = None
            if settings.catalogue:
                names = read_catalogue(Path(settings.catalogue).expanduser())
            self._referrer = Referrer.load(settings.model, choose_device(settings.device), catalogue=names)
            self._refusal = ""
        except ImportError as error:  # a lean image; whoever asks is told
            self._refusal = f"sentences need torch, which this installation does without: {error}"
        except RiseError as error:
            self._refusal = f"no referring model is loaded: {error}"
            self._report(f"sentences cannot be answered: {error}")

    def get_logger(self) -> Any:
        """The node's."""
        return self._node.get_logger()

    def report_error(self, text: str) -> None:
        """Say in the diagnostics that something went wrong."""
        self._report(text)

    @property
    def waits(self) -> bool:
        """True while a frame is wanted: a call waits, or somebody listens to the answers of a sentence."""
        listened = bool(self._expression) and self._answers.get_subscription_count() > 0
        return self._waiting > 0 or listened

    def forget(self) -> None:
        """What was seen is of no use any more: nobody looks at the camera."""
        with self._lock:
            self._seen = self._view = None

    def take_target(self) -> int | None:
        """Id of the instance that a call has made the target; None where there is no new one."""
        found, self._target = self._target, None
        return found

    def offer(self, result: Result) -> None:
        """Take a segmented frame, and answer the sentence of ~/expression; from the worker thread."""
        with self._lock:
            self._seen, self._view = result, None
            self._count += 1
        expression = self._expression
        if expression and self._answers.get_subscription_count() and self._referrer is not None:
            seen, answer = self._ask(expression)
            self._answers.publish(referral_message(seen, expression, answer))

    def _ask(self, sentence: str) -> tuple[Result, Answer]:
        """The answer about the newest frame; frame and view belong together."""
        with self._lock:
            assert self._referrer is not None
            assert self._seen is not None
            seen = self._seen
            if self._view is None:
                self._view = self._referrer.look(seen.frame.image, seen.frame.depth, seen.instances)
            return seen, self._referrer.answer(self._view, sentence)

    def _on_expression(self, message: String) -> None:
        # A sentence that is too long is answered as such; nothing longer is kept.
        self._expression = message.data[: MAX_CHARACTERS + 1].strip()

    @answering
    async def _on_refer(self, request: Refer.Request, response: Refer.Response) -> Refer.Response:
        response.referral = Referral(expression=request.sentence[: MAX_CHARACTERS + 1], id=-1)
        if self._referrer is None:
            response.message = self._refusal
            return response
        if self._waiting >= MOST_WAITING:
            response.message = f"{MOST_WAITING} calls wait for a frame already"
            return response
        end, begun = time.monotonic() + PATIENCE, self._count
        self._waiting += 1
        try:
            while self._count == begun or self._seen is None:
                if not self._is_active():
                    response.message = "the node is not active"
                    return response
                if time.monotonic() > end:
                    response.message = f"no frame came within {PATIENCE:g} s"
                    return response
                await pause(self._node, POLL_PERIOD)
        finally:
            self._waiting -= 1
        seen, answer = self._ask(request.sentence)
        response.referral = referral_message(seen, request.sentence, answer)
        response.success, response.message = True, answer.detail
        if request.set_target and response.referral.id >= 0:
            self._target = response.referral.id
        return response


def referral_message(seen: Result, sentence: str, answer: Answer) -> Referral:
    """An answer as a message."""
    instances = seen.instances
    message = Referral(
        header=seen.header,
        expression=sentence[: MAX_CHARACTERS + 1],
        status=int(answer.status),
        detail=answer.detail,
        id=-1,
        model_version=seen.model_version,
        candidates=[int(instances.ids[row]) for row in answer.candidates],
    )
    mask = answer.mask.astype(np.uint8) * np.uint8(255)
    message.mask = messages.image(seen.header, mask, "mono8")
    if answer.index is not None:
        x0, y0, x1, y1 = (int(v) for v in instances.boxes[answer.index])
        message.score = answer.score
        message.id = int(instances.ids[answer.index])
        message.bbox = RegionOfInterest(x_offset=x0, y_offset=y0, width=x1 - x0, height=y1 - y0)
    return message
