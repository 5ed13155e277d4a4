"""Prints the requirements of one extra of setup.cfg, a line each, for pip without the package itself."""

import configparser
import sys
from pathlib import Path

setup = configparser.ConfigParser()
setup.read(Path(__file__).resolve().parents[1] / "setup.cfg")
print(setup["options.extras_require"][sys.argv[1]].strip())
