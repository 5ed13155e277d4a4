"""ROS 2 nodes; the only room that imports ROS."""

from rise_perception.inference.threads import spin_briefly

# Nodes share the machine with planners and drivers. Here, as some of their modules import torch.
spin_briefly()
