"""The pictures with which a cell is taught, and those that tell what it has learned, on disk.

The place, its camera and its lamp are one of world 2, the goods a catalogue that no training set shows; the
fillings of the tote differ. Layout: ``annotated.json`` and ``test.json`` with ``images/``, ``depth/`` and
``labels/`` below folders of these names, as a labelling tool would export them; ``empty/NNNNNN.png`` with
``NNNNNN-depth.png`` beside it; and ``recoloured.json``, where that is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rise_perception.core.errors import ConfigError, DataError
from rise_perception.core.files import write_json
from rise_perception.data.images import write_image
from rise_perception.simulation import parts, prints, rooms, textures
from rise_perception.simulation.assets import Builder
from rise_perception.simulation.cell import CODE, Cell, CellSettings
from rise_perception.simulation.dataset import coco, write_shot
from rise_perception.simulation.items import add_item
from rise_perception.simulation.render import Renderer
from rise_perception.simulation.scene import assemble, drop

#: Least items in a tote that is not empty.
FEWEST = 3
#: Where the totes of each part begin, so that no filling is in two parts.
_FIRST = {"annotated": 0, "test": 100_000, "recoloured": 100_000}
_OBJECT = 2


@dataclass(frozen=True)
class PictureSettings:
    """What is made of a cell; equal settings give equal bytes.

    Attributes:
        annotated, empty, test: numbers of pictures.
        recoloured: the test pictures once more, the goods in other colours under another lamp.
        cell: which cell, and the size of the pictures.
    """

    annotated: int = 10
    empty: int = 8
    test: int = 60
    recoloured: bool = False
    cell: CellSettings = field(default_factory=CellSettings)

    def __post_init__(self) -> None:
        for name, least in (("annotated", 1), ("empty", 0), ("test", 0)):
            if not least <= getattr(self, name) <= 10_000:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be between {least} and 10000")


class RefilledCell(Cell):
    """A cell of world 2 whose totes are full, half full, or empty.

    Args:
        settings: which cell; ``items`` is the most in a tote.
        renderer: of its size.
    """

    _colours: int | None = None
    _filling: int | None = None

    def recolour(self) -> None:
        """From the next tote on the goods have other colours, and another lamp shines."""
        self._colours = self.settings.seed
        lamps = self._lamps(np.random.default_rng([self.settings.seed, CODE, 8]))
        warm = self._view.lights[0].diffuse[0] > self._view.lights[0].diffuse[2]
        if warm == (lamps[0].diffuse[0] > lamps[0].diffuse[2]):  # the other tint, from another side
            key = replace(lamps[0], diffuse=lamps[0].diffuse[::-1], ambient=lamps[0].ambient[::-1])
            lamps = (key, *lamps[1:])
        self._view = replace(self._view, lights=lamps)

    def empty(self) -> None:
        """Bring an empty tote."""
        self._filling = 0
        self.next_tote(0)
        self._filling = None

    def next_tote(self, number: int) -> None:
        """Bring tote ``number``; how full it is depends on the number."""
        settings = self.settings
        builder = Builder()
        looks = np.random.default_rng([settings.seed, CODE, 1])  # the same place and hand for every tote
        place = rooms.add_place(builder, looks, "tote")
        rng = np.random.default_rng([settings.seed, CODE, 6, number])
        count = self._filling
        if count is None:
            count = int(rng.integers(min(FEWEST, settings.items), settings.items + 1))
        items = []
        for k in range(count):
            recipe, colour = int(rng.choice(self._recipes)), None
            if self._colours is not None:
                colour = textures.colour(np.random.default_rng([self._colours, CODE, 7, recipe]))
            items.append(add_item(builder, recipe, f"item{k + 1}", colour, parts.KINDS, prints))
        self.scene = assemble(builder, looks, place, items, CODE, settings.width, settings.height)
        self.scene.world = 2
        drop(rng, self.scene, list(range(1, count + 1)), place.main, 0.3, False)
        self.scene.settle(1.2)
        self._renderer.load(self.scene)
        self.tote = number


def write_cell_pictures(out: Path, settings: PictureSettings) -> dict[str, int]:
    """Write the pictures of a cell; returns how many of each part there are.

    Raises:
        DataError: ``out`` holds something already.
        MissingDependencyError: no MuJoCo, or no off-screen OpenGL.
    """
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty; give a new folder for the cell")
    wanted = {"annotated": settings.annotated, "empty": settings.empty, "test": settings.test}
    if settings.recoloured:
        wanted["recoloured"] = settings.test
    size = settings.cell.width, settings.cell.height
    with Renderer(*size) as renderer, tqdm(total=sum(wanted.values()), desc="cell", unit="img") as bar:
        cell = RefilledCell(settings.cell, renderer)
        for part, count in wanted.items():
            if part == "empty":
                _write_empty(out / part, cell, count, bar)
                continue
            if part == "recoloured":
                cell.recolour()
            records = []
            for index in range(count):
                cell.next_tote(_FIRST[part] + index)
                records.append(write_shot(out, f"{part}/{index:06d}.png", cell.scene, cell.look()))
                bar.update()
            if count:
                write_json(out / f"{part}.json", _export(records, f"cell, seed {settings.cell.seed}, {part}"))
    return wanted


def _write_empty(folder: Path, cell: RefilledCell, count: int, bar: Any) -> None:
    cell.empty()
    for index in range(count):
        shot = cell.look()
        write_image(folder / f"{index:06d}.png", shot.image)
        write_image(folder / f"{index:06d}-depth.png", shot.depth)
        bar.update()


def _export(records: list[dict[str, Any]], description: str) -> dict[str, Any]:
    """A COCO file as a person would have made it: the items of each picture, and nothing else is outlined."""
    kept = [
        {**record, "annotations": [n for n in record["annotations"] if n["category_id"] == _OBJECT]}
        for record in records
    ]
    found = coco(kept, description)
    return {**found, "categories": [c for c in found["categories"] if c["id"] == _OBJECT]}
