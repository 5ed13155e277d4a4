"""Files of questions: JSON lines of image, depth (optional) and sentence, answered in their order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rise_perception.core.errors import DataError, RiseError
from rise_perception.data.images import read_depth, read_image
from rise_perception.inference.segmenter import Segmenter
from rise_perception.referring.pairs import MAX_LINE
from rise_perception.referring.referrer import Referrer, View

#: Most lines of a file of questions.
MAX_LINES = 1_000_000
#: Images that are kept, looked at, for later questions about them; questions mostly come image by image.
_KEPT = 8


@dataclass(frozen=True)
class Ask:
    """One line of a file of questions.

    Attributes:
        line: its number, from 1.
        image, depth: files; depth may be None.
        sentence: the words.
        error: what is wrong with the line; empty where it can be asked.
    """

    line: int
    image: Path = Path()
    depth: Path | None = None
    sentence: str = ""
    error: str = ""


def read_asks(path: Path) -> list[Ask]:
    """The lines of a file; a broken one becomes an Ask with its error, so that answers keep their places.

    Relative paths of images start at the folder of the file.

    Raises:
        DataError: the file is missing, holds nothing, or too many lines.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    asks: list[Ask] = []
    with stream:
        number = 0
        while line := stream.readline(MAX_LINE + 1):
            number += 1
            if number > MAX_LINES:
                raise DataError(f"{path} has more than {MAX_LINES} lines; ask in several files")
            if len(line) > MAX_LINE:
                while line and not line.endswith(b"\n"):  # to the end of the endless line
                    line = stream.readline(MAX_LINE + 1)
                asks.append(Ask(number, error=f"longer than {MAX_LINE} bytes"))
            elif line.strip():
                asks.append(_ask(number, line, path.parent))
    if not asks:
        raise DataError(f'{path} is empty; a line is {{"image": "a.png", "sentence": "the red box"}}')
    return asks


def _ask(number: int, line: bytes, folder: Path) -> Ask:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Ask(number, error=f"no JSON ({error})")
    if not isinstance(content, dict):
        return Ask(number, error="no mapping; expected image, sentence and perhaps depth")
    for key in ("image", "sentence"):
        if not isinstance(content.get(key), str):
            return Ask(number, error=f"{key} is missing or no text")
    if content.get("depth") is not None and not isinstance(content["depth"], str):
        return Ask(number, error="depth is no text; name the file, or leave it out")
    depth = folder / content["depth"] if content.get("depth") else None
    return Ask(number, folder / content["image"], depth, content["sentence"])


def answer_asks(
    asks: list[Ask],
    segmenter: Segmenter,
    referrer: Referrer,
    depth_scale: float | None = None,
    done: Callable[[], object] = lambda: None,
) -> Iterator[dict[str, Any]]:
    """Answer questions in their order; what cannot be answered says so under ``error`` with status null.

    An answer depends on its own line alone.

    Args:
        asks: of :func:`read_asks`.
        segmenter: finds the instances.
        referrer: answers.
        depth_scale: metres per unit of the depth files; None: 0.001 for integers, 1 for floats.
        done: called after each.
    """
    views: dict[tuple[Path, Path | None], View | str] = {}
    for ask in asks:
        found: View | str = ask.error
        if not ask.error:
            key = ask.image, ask.depth
            if key not in views:
                if len(views) == _KEPT:
                    views.pop(next(iter(views)))
                views[key] = _look(ask, segmenter, referrer, depth_scale)
            found = views[key]
        if isinstance(found, str):
            yield {"line": ask.line, "status": None, "error": found}
        else:
            answer = referrer.answer(found, ask.sentence)
            yield {"line": ask.line, **answer.as_json(found.instances)}
        done()


def _look(ask: Ask, segmenter: Segmenter, referrer: Referrer, depth_scale: float | None) -> View | str:
    try:
        image = read_image(ask.image)
        depth = read_depth(ask.depth, depth_scale) if ask.depth else None
        return referrer.look(image, depth, segmenter(image, depth), ask.image.name)
    except RiseError as error:
        return str(error)
