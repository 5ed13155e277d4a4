"""Configurations that extend others, and values that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from rise_perception.core.errors import ConfigError
from rise_perception.training.config import read_train_config
from rise_perception.training.config_files import table_rows

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


TABLE = """\
extends: base.yaml
settings:
  few: {optimisation: {iterations: 3}}
  narrow: {network: {width: 32, levels: 2}, optimisation: {iterations: 7}}
rows:
  plain:
  one/both: [few, narrow]
  one/own: [narrow, few, {network: {levels: 3}, notes: own, out: here}]
"""


def test_a_row_of_a_table_is_its_settings_in_their_order(tmp_path: Path) -> None:
    table = write(tmp_path, base=BASE, table=TABLE) / "table.yaml"
    assert table_rows(table) == ("plain", "one/both", "one/own")
    assert table_rows(tmp_path / "base.yaml") == ()
    plain, both, own = (read_train_config(f"{table}:{row}") for row in table_rows(table))
    assert [c.optimisation.iterations for c in (plain, both, own)] == [10, 7, 3]
    assert [(c.network.width, c.network.levels) for c in (plain, both, own)] == [(64, 4), (32, 2), (32, 3)]
    assert [(c.name, c.out) for c in (both, own)] == [("one_both", "runs/one_both"), ("one_own", "here")]
    assert all(c.optimisation.average == 0.9 for c in (plain, both, own))
    write(tmp_path, further="extends: table.yaml:one/own\nnotes: further\n")
    further = read_train_config(tmp_path / "further.yaml")
    assert (further.optimisation.iterations, further.notes) == (3, "further")


def test_rows_that_cannot_be(tmp_path: Path) -> None:
    write(tmp_path, base=BASE, table=TABLE, bad="rows: {a: [none]}\n", odd="name: x\nrows: {a: []}\n")
    for name, message in (
        (
            "table.yaml:two",
            r"table\.yaml has no row 'two'; give .*table\.yaml:ROW with one of plain, one/both",
        ),
        ("table.yaml", r"table\.yaml is a table; give .*ROW with one of plain"),
        ("base.yaml:one", r"base\.yaml has no rows"),
        ("bad.yaml:a", r"row 'a' names the setting 'none'"),
        ("odd.yaml:a", r"is a table and has 'name'"),
        ("gone.yaml:a", r"gone\.yaml does not exist"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_train_config(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("data: {broken: ignore}", r"data\.broken is 'ignore'; it must be stop or skip"),
        ("data: {workers: -1}", r"data\.workers is -1"),
        ("data: {augmentation: -0.5}", r"data\.augmentation is -0\.5"),
        ("data: {unlabelled: b.json}", r"data\.unlabelled is 'b\.json'; it must be a list"),
        ("sequences: {objects: -1}", r"sequences\.objects is -1"),
        ("sequences: {strong_scale: [1.2, 0.8]}", r"sequences\.strong_scale"),
        ("sequences: {depth_noise: -1}", r"sequences\.depth_noise is -1"),
        ("sequences: {removed: 0.7, moved: 0.7}", r"sequences\.removed \+ moved"),
        ("self_supervision: {selector: best}", r"self_supervision\.selector is 'best'.*cascade"),
        ("self_supervision: {class_threshold: [0.5]}", r"self_supervision\.class_threshold"),
        ("self_supervision: {teacher: average}\noptimisation: {average: 0}", r"teacher is 'average'"),
        (
            "optimisation: {precision: fp16}",
            r"optimisation\.precision is 'fp16'; it must be auto, fp32 or bf16",
        ),
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
