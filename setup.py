"""Build script: setup.cfg holds the metadata; this adds what has to be listed from disk."""

from pathlib import Path

from setuptools import setup

SHARE = "share/rise_perception"


def share_files() -> list[tuple[str, list[str]]]:
    """(target folder, files) for everything the installed package looks up at run time."""
    entries = [
        ("share/ament_index/resource_index/packages", ["resource/rise_perception"]),
        (SHARE, ["package.xml"]),
        ("share/rise_msgs/msg", sorted(map(str, Path("ros2_ws/src/rise_msgs/msg").glob("*.msg")))),
    ]
    for folder in ("config", "launch", "models"):
        by_parent: dict[Path, list[str]] = {}
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file() and not any(part.startswith((".", "__")) for part in path.parts):
                by_parent.setdefault(path.parent, []).append(str(path))
        entries += [(f"{SHARE}/{parent}", files) for parent, files in by_parent.items()]
    return entries


setup(data_files=share_files())
