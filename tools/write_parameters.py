"""Writes config/*_node.yaml and docs/parameters.md from the nodes' tables of parameters.

python tools/write_parameters.py
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rise_perception.nodes import (  # noqa: E402
    interaction_parameters,
    learner_parameters,
    segmentation_parameters,
)

TABLES = [module.TABLE for module in (segmentation_parameters, interaction_parameters, learner_parameters)]
HEAD = """\
# Parameters of the nodes

Written by `tools/write_parameters.py` from the tables that the nodes declare. A parameter file with all
defaults is `config/<node>.yaml`; give your own to the launch files with `params:=FILE`, or to a node with
`--params-file FILE`. Topics are relative, so that namespaces and remapping work as everywhere:
`-r image:=/camera/color/image_raw`.

- The label map holds instances: its values are `Instance.label` of the same stamp. `label_info` maps the
  classes, by the `class_id` of detections, and says the score threshold that holds.
- Intrinsics are K for raw images and P for those whose topic is named rectified (`image_rect`,
  `.../rect/...`), after region of interest and binning. D is not applied: subscribe to the rectified image of
  a lens that needs it.
- A lifecycle manager that is there when the segmentation node starts is left to configure and activate it;
  where it may come later, set `autostart: false`. Where ROS's package `bond` is installed, an active
  segmentation node beats on the topic `bond` of its namespace under its name, as nav2's manager in the same
  namespace expects it with its own `bond_timeout`; without the package the manager needs `bond_timeout: 0.0`.
"""


def texts() -> dict[Path, str]:
    """The files and what belongs into them."""
    files = {ROOT / f"config/{table.node}.yaml": table.yaml() for table in TABLES}
    files[ROOT / "docs/parameters.md"] = "\n".join([HEAD, *(table.markdown() for table in TABLES)])
    return files


def main() -> int:
    """Writes them."""
    for path, text in texts().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
