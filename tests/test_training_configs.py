"""The configurations that ship: the paper's constants, and rows that change no more than they are about."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from benchmarks.learning_plan import METHODS
from rise_perception.core.resources import find
from rise_perception.training.config import TrainConfig, read_train_config
from rise_perception.training.trainer import rate_factor

TRAIN, BENCH = find("config") / "train", find("config") / "bench"
TABLES = sorted((TRAIN / "tables").glob("*.yaml"))

LABELS = {"data.train", "data.unlabelled"}
BACKBONE = {"network.backbone", "network.pretrained", "init"}
ALONE = {"data.unlabelled", "loss.matching", "loss.embedding_weight", "sequences.objects"}
ALL_R101 = LABELS | BACKBONE
#: Beginning of a file's name -> what it may, and must, change of paper.yaml.
ROWS = {
    "table1_r50_1pct": set(),
    "table1_r50_": LABELS,
    "table1_r101_1pct": BACKBONE,
    "table1_r101_": LABELS | BACKBONE,
    "table1_swin_l_1pct": BACKBONE,
    "table1_swin_l_": LABELS | BACKBONE,
    "table1_deformable_detr_1pct": BACKBONE | ALONE,
    "table1_deformable_detr_": LABELS | BACKBONE | ALONE,
    "table3_none": ALL_R101 | ALONE,
    "table3_ps": ALL_R101 | {"loss.matching"},
    "table3_ps_ot": ALL_R101,
    "table3_m2b": ALL_R101 | {"self_supervision.multi_label"},
    "table3_mlm": ALL_R101,
    "table4_cascade": ALL_R101,
    "table4_threshold": ALL_R101 | {"self_supervision.selector", "self_supervision.class_threshold"},
    "table4_": ALL_R101 | {"self_supervision.selector"},
    "table5_mask_0.5": ALL_R101,
    "table5_mask_": ALL_R101 | {"self_supervision.mask_threshold"},
    "table6_embedding_0.05": ALL_R101,
    "table6_embedding_": ALL_R101 | {"loss.embedding_weight"},
}
BENCH_ROWS = {
    "rise": set(),
    "supervised": {"data.unlabelled", "sequences.objects"},
    "none": {"data.unlabelled", "sequences.objects", "loss.matching"},
    "ps": {"data.unlabelled", "loss.matching"},
    "ps_ot": {"data.unlabelled"},
    "self_supervision": {"self_supervision.mask_to_box", "self_supervision.multi_label"},
    "m2b": {"self_supervision.multi_label"},
    "threshold": {"self_supervision.selector", "self_supervision.class_threshold"},
    "quantile": {"self_supervision.selector"},
    "reversed": {"self_supervision.selector"},
}


def flat(config: TrainConfig) -> dict[str, Any]:
    content = dataclasses.asdict(config)
    return {
        f"{section}.{key}" if key else section: value
        for section, values in content.items()
        for key, value in (values if isinstance(values, dict) else {"": values}).items()
    }


def changes(path: Path, base: Path) -> set[str]:
    one, other = flat(read_train_config(path)), flat(read_train_config(base))
    return {key for key in one if one[key] != other[key]}


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.stem)
def test_a_row_of_the_paper_changes_what_it_is_about(path: Path) -> None:
    assert read_train_config(path).name == path.stem
    best = max((start for start in ROWS if path.stem.startswith(start)), key=len)
    assert changes(path, TRAIN / "paper.yaml") == ROWS[best] | {"name", "out"}


def test_every_row_of_the_paper_has_a_file() -> None:
    names = [path.stem for path in TABLES]
    for model in ("r50", "r101", "swin_l", "deformable_detr"):
        for share in ("0.5", "1", "10", "100"):
            assert f"table1_{model}_{share}pct" in names
    assert all(name in names for name in ROWS if not name.endswith("_"))
    assert len({read_train_config(path).out for path in TABLES}) == len(TABLES)


def test_the_labels_of_a_row_are_those_of_its_name() -> None:
    for path in TABLES:
        config = read_train_config(path)
        share = path.stem.split("_")[-1] if path.stem.startswith("table1") else "100pct"
        expected = {"100pct": "train"}.get(share, f"train_{share[:-3]}")
        assert config.data.train == (f"data/mix-object-tote/{expected}.json",), path.stem
        assert config.data.unlabelled in ((), config.data.train), path.stem


def test_the_parts_of_table_3_add_up() -> None:
    """Each row has all that the row before it has, and one thing more."""

    def parts(name: str) -> list[bool]:
        config = read_train_config(TRAIN / f"tables/table3_{name}.yaml")
        unlabelled = bool(config.data.unlabelled)
        return [
            config.sequences.objects > 0 and config.loss.embedding_weight > 0,
            config.loss.matching == "optimal_transport",
            unlabelled and config.self_supervision.mask_to_box,
            unlabelled and config.self_supervision.multi_label,
        ]

    for count, name in enumerate(("none", "ps", "ps_ot", "m2b", "mlm")):
        assert parts(name) == [True] * count + [False] * (4 - count), name


def test_the_constants_are_the_papers() -> None:
    config = read_train_config(TRAIN / "paper.yaml")
    steps, loss, teaching, network = config.optimisation, config.loss, config.self_supervision, config.network
    assert (steps.learning_rate, steps.backbone_factor, steps.weight_decay) == (1e-4, 0.1, 1e-4)
    rates = [rate_factor(i, steps) for i in (0, 7_999, 8_000, 11_999)]
    assert (steps.iterations, rates) == (12_000, pytest.approx([1, 1, 0.1, 0.1]))
    assert (loss.box_weight, loss.mask_weight, loss.embedding_weight) == (2.0, 1.0, 0.05)
    assert (teaching.class_threshold, teaching.threshold_every) == ((0.5, 0.85), 1000)
    assert (teaching.quantile, teaching.mask_threshold, teaching.teacher) == (0.995, 0.5, "student")
    assert (network.encoder_layers, network.decoder_layers, network.queries, network.width) == (
        6,
        6,
        300,
        256,
    )
    assert steps.average == 0
    # ARMBench's 2448 x 2048 pixels at the paper's scale: longest side at most 600, shortest at least 480.
    height, width = network.image_size
    scale = min(height / 2048, width / 2448)
    assert 480 <= 2048 * scale <= 2448 * scale <= 600


@pytest.mark.parametrize("method", METHODS)
def test_a_row_of_the_benchmark_changes_what_it_is_about(method: str) -> None:
    assert changes(BENCH / f"{method}.yaml", BENCH / "learning.yaml") == BENCH_ROWS[method]


def test_the_benchmark_has_a_file_for_each_method_and_no_other() -> None:
    assert {path.stem for path in BENCH.glob("*.yaml")} == {*METHODS, "learning"}
    assert set(BENCH_ROWS) == set(METHODS)
