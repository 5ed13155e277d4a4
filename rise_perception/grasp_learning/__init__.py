"""Learning from grasps, as one story: capture -> labelling -> update."""
