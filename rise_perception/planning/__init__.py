"""What grasp planners take from instances: labelled clouds, hulls, suction candidates, files."""
