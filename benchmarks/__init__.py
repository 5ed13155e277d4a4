"""What `rise bench` measures, but for the node: knows all rooms; none of them knows this one."""
