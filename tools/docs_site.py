"""Hooks of mkdocs: pages that are made from files outside ``docs/`` and from the package itself.

README.md becomes the start page, CHANGELOG.md, CONTRIBUTING.md and SECURITY.md pages of their own. The
reference has a page of the public names, ``rise_perception.__all__``, and one for each room.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
#: Files of the root, and the pages that they become.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}


def on_config(config: Any) -> Any:
    """Append the rooms' pages and what else lies in ``docs/`` to the navigation."""
    reference = next(entry["Reference"] for entry in config["nav"] if "Reference" in entry)
    reference += [{room: f"api/{room}.md"} for room in assigned("ROOMS")]
    named = set(re.findall(r"[\w/]+\.md", str(config["nav"])))
    others = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))
    config["nav"] += [{"More": rest}] if (rest := [name for name in others if name not in named]) else []
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made here."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=page_of((ROOT / source).read_text())))
    public = assigned("_PUBLIC")
    # They stand on their room's page as well, where links to them lead.
    once = "\n    options: {skip_local_inventory: true}"
    names = [f"::: {public[name]}.{name}{once}" for name in assigned("__all__") if name in public]
    intro = "# Python interface\n\n`from rise_perception import ...` gives these names.\n\n"
    files.append(File.generated(config, "api/index.md", content=intro + "\n\n".join(names) + "\n"))
    for room in assigned("ROOMS"):
        files.append(File.generated(config, f"api/{room}.md", content=room_page(room)))
    return files


def page_of(text: str) -> str:
    """A file of the root as a page: its links lead to other pages of the site."""
    text = re.sub(r"\]\(docs/", "](", text)
    for source, page in PAGES.items():
        text = text.replace(f"]({source})", f"]({page})")
    return re.sub(r"\[([^\]]+)\]\((?:LICENSE|CITATION\.cff)\)", r"`\1`", text)


def room_page(room: str) -> str:
    """All public functions and classes of a room, module by module."""
    lines = [f"# {room}", ""]
    for path in sorted((ROOT / "rise_perception" / room).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if path.name != "__init__.py":
            lines += [f"::: {module}", "    options: {show_root_full_path: true}", ""]
    return "\n".join(lines)


def assigned(name: str) -> Any:
    """A literal of ``rise_perception/__init__.py``, read without importing torch and ROS."""
    for node in ast.parse((ROOT / "rise_perception/__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise KeyError(name)
