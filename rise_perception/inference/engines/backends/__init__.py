"""The runtimes, one file each, behind :class:`rise_perception.inference.engines.runner.Runner`."""
