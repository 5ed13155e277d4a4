"""What `rise bench` measures, except the node: knows all rooms; none of them knows this one."""
