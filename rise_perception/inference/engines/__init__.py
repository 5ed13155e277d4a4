"""From a network to engines of other runtimes: export, build, parity check and cache."""
