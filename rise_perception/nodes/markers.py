"""Boxes and names of instances as visualization_msgs, for RViz and planners that read markers."""

from __future__ import annotations

from geometry_msgs.msg import Point, Pose, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from rise_perception.core.geometry import Location
from rise_perception.core.instances import Instances
from rise_perception.evaluation.overlay import id_color
from rise_perception.nodes.messages import box_pose

TEXT_HEIGHT = 0.02  # metres


def marker_array(
    header: Header, instances: Instances, locations: list[Location | None] | None
) -> MarkerArray:
    """A cube and a name for each instance that has a place; what was shown before is deleted.

    Args:
        header: with the frame of ``locations``.
        instances: N instances.
        locations: N places, None where there is none.
    """
    markers = [Marker(header=header, action=Marker.DELETEALL)]
    for row, location in enumerate(locations or []):
        if location is None:
            continue
        identity = int(instances.ids[row])
        red, green, blue = (value / 255 for value in id_color(identity))
        number = row  # ids of markers have 32 bits, persistent ids 64
        size = Vector3(**dict(zip("xyz", location.size.tolist(), strict=True)))
        markers.append(
            Marker(
                header=header,
                ns="boxes",
                id=number,
                type=Marker.CUBE,
                action=Marker.ADD,
                pose=box_pose(location),
                scale=size,
                color=ColorRGBA(r=red, g=green, b=blue, a=0.5),
            )
        )
        x, y, z = location.centroid.tolist()
        markers.append(
            Marker(
                header=header,
                ns="names",
                id=number,
                type=Marker.TEXT_VIEW_FACING,
                action=Marker.ADD,
                pose=Pose(position=Point(x=x, y=y, z=z)),
                scale=Vector3(z=TEXT_HEIGHT),
                color=ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0),
                text=f"{instances.class_names[int(instances.classes[row])]} {identity}",
            )
        )
    return MarkerArray(markers=markers)
