"""The runtimes, one file each, behind :class:`rise_perception.runtime.runner.Runner`."""
