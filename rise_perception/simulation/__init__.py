"""The tote world: rendered scenes with labels, and a simulated picking cell."""
