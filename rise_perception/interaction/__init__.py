"""What a grasp teaches: episodes of frames before and after it, what changed between them, and the labels."""
