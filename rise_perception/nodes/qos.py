"""Quality of service: what each kind of topic needs, and what is said when the other side disagrees.

Every profile can be overridden by parameters, for example
``qos_overrides./camera/color/image_raw.subscription.reliability: reliable``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks


def camera_input() -> QoSProfile:
    """Best effort, one message: a frame that was not taken in time is worth nothing."""
    return QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


def camera_output() -> QoSProfile:
    """What a camera offers: reliable, so that subscribers of both kinds match."""
    return QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)


def output() -> QoSProfile:
    """Results: reliable, volatile."""
    return QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)


def events() -> QoSProfile:
    """What the robot says: none may be lost, also while a node is busy."""
    return QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)


def latched() -> QoSProfile:
    """Facts that a late subscriber needs: reliable, the last one kept."""
    return QoSProfile(
        depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
    )


def subscription_options(topic: str, report: Callable[[str], None]) -> dict[str, Any]:
    """Keyword arguments of create_subscription: overrides allowed, incompatible publishers reported."""

    def incompatible(event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        report(f"a publisher of {topic} offers an incompatible QoS ({policy}): nothing is received from it")

    return {
        "event_callbacks": SubscriptionEventCallbacks(incompatible_qos=incompatible),
        "qos_overriding_options": QoSOverridingOptions.with_default_policies(),
    }


def publisher_options(topic: str, report: Callable[[str], None]) -> dict[str, Any]:
    """Keyword arguments of create_publisher: overrides allowed, incompatible subscribers reported."""

    def incompatible(event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        report(f"a subscriber of {topic} asks for an incompatible QoS ({policy}): nothing is sent to it")

    return {
        "event_callbacks": PublisherEventCallbacks(incompatible_qos=incompatible),
        "qos_overriding_options": QoSOverridingOptions.with_default_policies(),
    }
