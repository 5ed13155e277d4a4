"""Capture: frames before and after each grasp become episodes in a crash-safe store."""
