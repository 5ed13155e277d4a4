"""The grasp segmenter: a small network that says what left and what moved between two frames of a grasp."""
