"""Labelling: what changed between two frames, and which masks follow from it."""
