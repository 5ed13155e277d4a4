"""Grasp-scene perception for ROS 2: instance masks that a robot arm can pick from.

Data flows one way: camera -> :class:`~rise_perception.frame.Frame` -> segmenter ->
:class:`~rise_perception.instances.Instances` -> message. Everything outside
:mod:`rise_perception.nodes` imports without ROS.
"""

__version__ = "0.1.0"
