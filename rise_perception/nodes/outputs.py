"""What the segmentation node publishes; nothing is computed or sent that nobody listens to."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rise_msgs.msg import InstanceArray
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from rise_perception.core.frame import Frame
from rise_perception.core.geometry import Location, labelled_cloud, locate
from rise_perception.core.instances import Instances
from rise_perception.evaluation.overlay import draw_overlay, shade_outside
from rise_perception.nodes import messages, qos
from rise_perception.nodes.markers import marker_array


@dataclass(frozen=True)
class Result:
    """One segmented frame, ready to be published.

    Attributes:
        header: of the colour image; every output carries it, except for the frame of places.
        frame: image, depth and intrinsics.
        info: the CameraInfo of the image as a message, or None.
        instances: with persistent ids.
        model_version: of the model that made them.
        arrival: when the colour image arrived, ``time.monotonic()``.
        outside: (H, W) bool, what lies outside the workspace; None without one.
        target_frame: frame of centroids and boxes; empty for the camera's.
        target_from_camera: (4, 4) maps points of the camera there; None when that is not known.
    """

    header: Header
    frame: Frame
    info: CameraInfo | None
    instances: Instances
    model_version: str
    arrival: float
    outside: np.ndarray | None = None
    target_frame: str = ""
    target_from_camera: np.ndarray | None = None

    @cached_property
    def locations(self) -> list[Location | None] | None:
        """Where the instances are, in the frame of :attr:`place_header`; None when that is not known."""
        frame = self.frame
        if frame.depth is None or frame.camera is None:
            return None
        if self.target_frame and self.target_from_camera is None:
            return None
        found = locate(self.instances, frame.depth, frame.camera)
        if self.target_from_camera is None:
            return found
        return [place and place.moved(self.target_from_camera) for place in found]

    @property
    def place_header(self) -> Header:
        """The header of what is in space."""
        return Header(stamp=self.header.stamp, frame_id=self.target_frame or self.header.frame_id)


def result_message(result: Result, label_map: Image | None = None) -> InstanceArray:
    """The InstanceArray of a frame, with the time until now as its latency."""
    if label_map is None:
        label_map = messages.image(result.header, result.instances.label_map, "mono16")
    message = messages.instance_array(
        result.place_header, label_map, result.instances, result.locations, result.model_version
    )
    message.latency_ms = (time.monotonic() - result.arrival) * 1e3
    return message


class Outputs:
    """The publishers below ``~/``; created when the node is configured, silent until it is activated."""

    def __init__(self, node: LifecycleNode, report: Callable[[str], None]) -> None:
        self._node = node
        self._vision = messages.vision_messages()
        kinds: dict[str, type] = {
            "label_map": Image,
            "instances": InstanceArray,
            "overlay": Image,
            "target_mask": Image,
            "foreground": Image,
            "camera_info": CameraInfo,
            "points": PointCloud2,
            "markers": MarkerArray,
        }
        latched: dict[str, type] = {}
        if self._vision is not None:
            kinds["detections"] = self._vision.Detection2DArray
            kinds["detections_3d"] = self._vision.Detection3DArray
            latched = {"label_info": self._vision.LabelInfo, "vision_info": self._vision.VisionInfo}

        def create(name: str, kind: type, profile: Any) -> Any:
            topic = node.resolve_topic_name(f"~/{name}")
            options = qos.publisher_options(topic, report)
            return node.create_lifecycle_publisher(kind, f"~/{name}", profile, **options)

        self._publishers = {name: create(name, kind, qos.output()) for name, kind in kinds.items()}
        self._latched = {name: create(name, kind, qos.latched()) for name, kind in latched.items()}

    @property
    def has_vision_msgs(self) -> bool:
        """True when detections and infos are published."""
        return self._vision is not None

    def wanted(self, name: str | None = None) -> bool:
        """True when somebody listens to ``~/name``, or to any frame output if no name is given."""
        if name is not None:
            return name in self._publishers and self._publishers[name].get_subscription_count() > 0
        return any(publisher.get_subscription_count() > 0 for publisher in self._publishers.values())

    def announce(
        self, model_version: str, class_names: tuple[str, ...], threshold: float, version: int
    ) -> None:
        """Publishes the latched facts about the active model."""
        if self._vision is None:
            return
        header = Header(stamp=self._node.get_clock().now().to_msg())
        info = messages.label_info(self._vision, header, class_names, threshold)
        self._latched["label_info"].publish(info)
        topic = self._node.resolve_topic_name("~/label_info")
        self._latched["vision_info"].publish(
            messages.vision_info(self._vision, header, model_version, topic, version)
        )

    def publish_label_map(self, result: Result) -> Image:
        """Publishes the label map, before anything else is computed, and returns it as a message."""
        label_map = messages.image(result.header, result.instances.label_map, "mono16")
        if self.wanted("label_map"):
            self._publishers["label_map"].publish(label_map)
        return label_map

    def publish_instances(self, result: Result, label_map: Image, target: int | None) -> float:
        """Publishes everything else that somebody listens to, instances first.

        Args:
            result: the frame.
            label_map: what :meth:`publish_label_map` returned.
            target: id of the instance that ``~/target_mask`` shows, None for none.

        Returns:
            Seconds from the colour image's arrival to the publishing of the last mask.
        """
        header, instances, frame = result.header, result.instances, result.frame
        if self.wanted("instances"):
            self._publishers["instances"].publish(result_message(result, label_map))
        if self.wanted("target_mask"):
            mask = messages.target_mask(instances, target)
            self._publishers["target_mask"].publish(messages.image(header, mask, "mono8"))
        latency = time.monotonic() - result.arrival

        if self.wanted("detections"):
            self._publishers["detections"].publish(
                messages.detections(
                    self._vision, header, instances, None if result.target_frame else result.locations
                )
            )
        if self.wanted("detections_3d"):
            self._publishers["detections_3d"].publish(
                messages.detections_3d(self._vision, result.place_header, instances, result.locations)
            )
        if self.wanted("markers"):
            markers = marker_array(result.place_header, instances, result.locations)
            self._publishers["markers"].publish(markers)
        if self.wanted("overlay"):
            overlay = draw_overlay(frame.image, instances)
            if result.outside is not None:
                shade_outside(overlay, result.outside)
            self._publishers["overlay"].publish(messages.image(header, overlay, "rgb8"))
        if result.info is not None and self.wanted("camera_info"):
            info = result.info
            info.header = header
            self._publishers["camera_info"].publish(info)
        if frame.depth is not None and frame.camera is not None and self.wanted("points"):
            points = labelled_cloud(frame.image, frame.depth, frame.camera, instances.label_map)
            self._publishers["points"].publish(messages.cloud(header, points))
        return latency

    def publish_foreground(self, result: Result, foreground: np.ndarray | None) -> None:
        """Publishes (H, W) uint8, what of the frame is no place; nothing where that is not known."""
        if foreground is not None:
            self._publishers["foreground"].publish(messages.image(result.header, foreground, "mono8"))

    def destroy(self) -> None:
        """Removes the publishers."""
        for publisher in [*self._publishers.values(), *self._latched.values()]:
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()
        self._latched.clear()
