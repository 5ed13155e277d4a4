"""Configurations that extend others, and values that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from rise_perception.core.errors import ConfigError
from rise_perception.training.config import read_train_config

BASE = """\
name: base
out: runs/base
data: {train: [a.json], unlabelled: [b.json], workers: 0}
network: {width: 64, classes: [object], containers: []}
optimisation: {iterations: 10, average: 0.9}
"""


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def test_a_file_changes_only_what_it_states(tmp_path: Path) -> None:
    write(tmp_path, base=BASE)
    rows = write(
        tmp_path / "rows",
        row="extends: ../base.yaml\nout: runs/row\ndata: {unlabelled: []}\nnetwork: {levels: 2}\n",
        further="extends: row.yaml\noptimisation: {iterations: 20}\n",
    )
    base = read_train_config(tmp_path / "base.yaml")
    further = read_train_config(rows / "further.yaml")
    assert (further.name, further.out) == ("base", "runs/row")
    assert further.data.train == base.data.train
    assert (base.data.unlabelled, further.data.unlabelled) == (("b.json",), ())
    assert (further.network.width, further.network.levels) == (64, 2)
    assert (further.optimisation.iterations, further.optimisation.average) == (20, 0.9)


def test_circles_and_missing_files_are_named(tmp_path: Path) -> None:
    write(tmp_path, a="extends: b.yaml\n", b="extends: a.yaml\n", c="extends: gone.yaml\n")
    with pytest.raises(ConfigError, match=r"a\.yaml extends itself"):
        read_train_config(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match=r"gone\.yaml does not exist \(named by `extends` in .*c\.yaml\)"):
        read_train_config(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("data: {broken: ignore}", r"data\.broken is 'ignore'; it must be stop or skip"),
        ("data: {workers: -1}", r"data\.workers is -1"),
        ("data: {augmentation: -0.5}", r"data\.augmentation is -0\.5"),
        ("data: {unlabelled: b.json}", r"data\.unlabelled is 'b\.json'; it must be a list"),
        ("sequences: {objects: -1}", r"sequences\.objects is -1"),
        ("sequences: {removed: 0.7, moved: 0.7}", r"sequences\.removed \+ moved"),
        ("self_supervision: {selector: best}", r"self_supervision\.selector is 'best'.*cascade"),
        ("self_supervision: {class_threshold: [0.5]}", r"self_supervision\.class_threshold"),
        ("self_supervision: {teacher: average}\noptimisation: {average: 0}", r"teacher is 'average'"),
        ("optimisation: {precision: fp16}", r"optimisation\.precision is 'fp16'; it must be fp32 or bf16"),
        ("optimisation: {unlabelled_batch: 3}", r"optimisation\.unlabelled_batch is 3; it must be even"),
        ("optimisation: {clip: 0}", r"optimisation\.clip is 0\.0; it must be above 0"),
        ("loss: {unlabelled_weight: -1}", r"loss\.unlabelled_weight is -1"),
    ],
)
def test_values_that_cannot_be(tmp_path: Path, change: str, named: str) -> None:
    write(tmp_path, base=BASE, row=f"extends: base.yaml\n{change}\n")
    with pytest.raises(ConfigError, match=named) as caught:
        read_train_config(tmp_path / "row.yaml")
    assert "row.yaml" in str(caught.value)
