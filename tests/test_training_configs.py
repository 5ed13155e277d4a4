"""The configurations that ship: the paper's constants, and rows that change no more than they are about."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import yaml

from benchmarks.learning_plan import METHODS
from rise_perception.core.resources import find
from rise_perception.network.build import build_network
from rise_perception.simulation.world_source import WorldConfig
from rise_perception.training.config import TrainConfig, read_train_config
from rise_perception.training.config_files import table_rows
from rise_perception.training.pseudo_labels import SelfSupervisionConfig
from rise_perception.training.trainer import rate_factor

TRAIN, BENCH = find("config") / "train", find("config") / "bench"
PAPER, TABLES = TRAIN / "paper.yaml", TRAIN / "tables.yaml"

OTHER_LABELS = {"data.train", "data.unlabelled"}
BACKBONE = {"network.backbone", "network.pretrained", "init"}
ALONE = {"data.unlabelled", "loss.matching", "loss.embedding_weight", "sequences.objects"}
R101 = BACKBONE | OTHER_LABELS
OCID = {"data.train", "data.unlabelled", "data.validation", "network.image_size", "network.classes"}
#: Row -> what it may, and must, change of paper.yaml, beside its name, its folder and its notes.
ROWS: dict[str, set[str]] = {
    "table3/none": R101 | ALONE,
    "table3/ps": R101 | {"loss.matching"},
    "table3/ot": R101 | {"loss.embedding_weight", "sequences.objects"},
    "table3/ps_ot": R101,
    "table3/m2b": R101 | {"self_supervision.multi_label"},
    "table3/mlm": R101,
    "table4/cascade": R101,
    "table4/threshold": R101 | {"self_supervision.selector", "self_supervision.class_threshold"},
    "table4/quantile": R101 | {"self_supervision.selector"},
    "table4/reversed": R101 | {"self_supervision.selector"},
    "appendix_c/mask_schedule": BACKBONE | {"self_supervision.mask_threshold"},
}
for fraction, model in itertools.product(("0.5", "1", "2", "10", "100"), ("r50", "r101", "swin_l")):
    shared = (OTHER_LABELS if fraction != "1" else set()) | (BACKBONE if model != "r50" else set())
    ROWS[f"table1/rise_{model}_{fraction}"] = shared
    ROWS[f"table1/deformable_detr_{model}_{fraction}"] = shared | ALONE
for fraction in ("5", "10", "100"):
    ROWS[f"table2/rise_{fraction}"] = OCID | {"network.containers"}
for form, limit in itertools.product(("box", "m2b", "m2b_mlm"), ("0.5", "0.6", "0.7")):
    ROWS[f"table5/{form}_{limit}"] = (
        BACKBONE
        | ({"self_supervision.multi_label"} if form != "m2b_mlm" else set())
        | ({"self_supervision.mask_to_box"} if form == "box" else set())
        | ({"self_supervision.mask_threshold"} if limit != "0.5" else set())
    )
for weight in ("0", "0.02", "0.05", "0.1", "0.5"):
    ROWS[f"table6/l3_{weight}"] = R101 | ({"loss.embedding_weight"} if weight != "0.05" else set())
TEACHING = "self_supervision."
VIEW = {"sequences.strong_scale", "sequences.strong_rotation", "sequences.strong_flip"}
SOFT = {TEACHING + "selector", TEACHING + "trust"}
BURN_IN = {TEACHING + "burn_in", TEACHING + "ramp"}
#: Row of the benchmark -> what it may, and must, change of its base.
BENCH_ROWS: dict[str, set[str]] = {
    "rise": set(),
    "supervised": {"data.unlabelled", "sequences.objects"},
    "none": {"data.unlabelled", "sequences.objects", "loss.matching"},
    "ps": {"data.unlabelled", "loss.matching"},
    "ps_ot": {"data.unlabelled"},
    "self_supervision": {TEACHING + "mask_to_box", TEACHING + "multi_label"},
    "m2b": {TEACHING + "multi_label"},
    "threshold": {TEACHING + "selector", TEACHING + "class_threshold"},
    "quantile": {TEACHING + "selector"},
    "reversed": {TEACHING + "selector"},
    "policy": {TEACHING + "selector"},
    "same_view": VIEW | {"sequences.depth_noise"},
    "same_geometry": VIEW,
    "same_depth": {"sequences.depth_noise"},
    "linear_quantile": {TEACHING + "quantile_method"},
    "mask_schedule": {TEACHING + "mask_threshold"},
    "average_teacher": {TEACHING + "teacher"},
    "burn_in": BURN_IN,
    "mask_trust": {TEACHING + "trust"},
    "soft": SOFT,
    "small_student": {"sequences.strong_scale"},
    "more_unlabelled": {"optimisation.unlabelled_batch"},
    "combined": SOFT | BURN_IN | {TEACHING + "teacher", TEACHING + "multi_label"},
    "paper": set(),  # as long as the defaults are the paper's
}


def flat(config: TrainConfig) -> dict[str, Any]:
    content = dataclasses.asdict(config)
    return {
        f"{section}.{key}" if key else section: value
        for section, values in content.items()
        for key, value in (values if isinstance(values, dict) else {"": values}).items()
    }


def changes(config: TrainConfig, base: TrainConfig) -> set[str]:
    one, other = flat(config), flat(base)
    return {key for key in one if one[key] != other[key]}


@pytest.fixture(scope="module")
def rows() -> dict[str, TrainConfig]:
    return {row: read_train_config(f"{TABLES}:{row}") for row in table_rows(TABLES)}


def test_a_row_of_the_paper_changes_what_it_is_about(rows: dict[str, TrainConfig]) -> None:
    paper = read_train_config(PAPER)
    assert set(rows) == set(ROWS)
    for row, config in rows.items():
        noted = {"notes"} if row.startswith("table") else set()
        assert changes(config, paper) == ROWS[row] | {"name", "out"} | noted, row
        assert (config.name, config.out) == (row.replace("/", "_"), f"runs/{row.replace('/', '_')}")


def test_every_row_of_the_tables_says_what_the_paper_reports(rows: dict[str, TrainConfig]) -> None:
    for row, config in rows.items():
        table = row[len("table") : row.index("/")]
        assert config.notes.startswith(f"Table {table}; the paper: ") or row.startswith("appendix"), row
    assert rows["table1/deformable_detr_r101_2"].notes == "Table 1; the paper: AP 33.14, AP50 39.70"
    assert rows["table3/ot"].notes == "Table 3; the paper: AP 62.92"


def test_the_labels_of_a_row_are_those_of_its_name(rows: dict[str, TrainConfig]) -> None:
    for row, config in rows.items():
        fraction = row.rpartition("_")[2] if row.startswith("table1") else None
        fraction = fraction or {"table3": "100", "table4": "100", "table5": "1", "table6": "10"}.get(row[:6])
        if fraction:
            expected = "train" if fraction == "100" else f"train_{fraction}"
            assert config.data.train == (f"data/mix-object-tote/{expected}.json",), row
        assert config.data.unlabelled in ((), config.data.train), row
    assert [rows[f"table2/rise_{n}"].data.train for n in ("5", "10", "100")] == [
        ("data/ocid_5.json",),
        ("data/ocid_10.json",),
        ("data/OCID",),
    ]


def test_the_papers_backbones(rows: dict[str, TrainConfig]) -> None:
    """Tables 3 to 5 are ResNet-101's, Table 6 is Swin-L's."""
    for row, config in rows.items():
        expected = {"table3": "resnet101", "table4": "resnet101", "table5": "resnet101", "table6": "swin_l"}
        assert config.network.backbone.startswith(expected.get(row[:6], "")), row
    assert {rows[f"table1/rise_{n}_1"].network.backbone for n in ("r50", "r101", "swin_l")} == {
        "resnet50",
        "resnet101",
        "swin_large_patch4_window7_224",
    }


def test_the_paper_states_every_switch_of_the_method() -> None:
    """Whatever becomes the default one day: the paper's setting stays what it is."""
    raw = yaml.safe_load(PAPER.read_text())
    named = {field.name for field in dataclasses.fields(SelfSupervisionConfig)}
    assert set(raw["self_supervision"]) == named
    assert {"strong_scale", "strong_rotation", "strong_flip"} <= set(raw["sequences"])
    assert read_train_config(PAPER).self_supervision == SelfSupervisionConfig()


def test_the_parts_of_table_3_add_up(rows: dict[str, TrainConfig]) -> None:
    """Each row has all that the row before it has, and one thing more."""

    def parts(name: str) -> list[bool]:
        config = rows[f"table3/{name}"]
        unlabelled = bool(config.data.unlabelled)
        return [
            config.sequences.objects > 0 and config.loss.embedding_weight > 0,
            config.loss.matching == "optimal_transport",
            unlabelled and config.self_supervision.mask_to_box,
            unlabelled and config.self_supervision.multi_label,
        ]

    for count, name in enumerate(("none", "ps", "ps_ot", "m2b", "mlm")):
        assert parts(name) == [True] * count + [False] * (4 - count), name
    assert parts("ot") == [False, True, False, False]


def test_the_constants_are_the_papers() -> None:
    config = read_train_config(TRAIN / "paper.yaml")
    steps, loss, teaching, network = config.optimisation, config.loss, config.self_supervision, config.network
    assert (steps.learning_rate, steps.backbone_factor, steps.weight_decay) == (1e-4, 0.1, 1e-4)
    rates = [rate_factor(i, steps) for i in (0, 7_999, 8_000, 11_999)]
    assert (steps.iterations, rates) == (12_000, pytest.approx([1, 1, 0.1, 0.1]))
    assert (loss.box_weight, loss.mask_weight, loss.embedding_weight) == (2.0, 1.0, 0.05)
    assert (teaching.class_threshold, teaching.threshold_every) == ((0.5, 0.85), 1000)
    assert (teaching.quantile, teaching.mask_threshold, teaching.teacher) == (0.995, (0.5, 0.5), "student")
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


def test_a_row_of_the_benchmark_changes_what_it_is_about() -> None:
    base = read_train_config(BENCH / "base.yaml")
    assert set(table_rows(BENCH / "learning.yaml")) == set(METHODS) == set(BENCH_ROWS)
    for method in METHODS:
        row = read_train_config(f"{BENCH / 'learning.yaml'}:{method}")
        assert changes(row, base) == BENCH_ROWS[method] | {"name", "out"}, method


def test_the_benchmarks_paper_row_states_the_papers_switches() -> None:
    """Its own thresholds, and when they rise, are the base's: so short a training has lower scores."""
    raw = yaml.safe_load((BENCH / "learning.yaml").read_text())["rows"]["paper"][0]
    paper = yaml.safe_load(PAPER.read_text())
    own = {"class_threshold", "threshold_every"}
    assert raw["self_supervision"] == {k: v for k, v in paper["self_supervision"].items() if k not in own}
    shared = raw["sequences"].keys()
    assert raw["sequences"] == {name: paper["sequences"][name] for name in shared}


def test_configurations_of_shipped_models_make_their_own_data_and_never_train_on_what_measures_them() -> None:
    for name in ("rise_small_rgb", "rise_small_rgbd", "rise_base"):
        config = read_train_config(TRAIN / f"{name}.yaml")
        assert config.loss.classification == "quality"
        trained = config.data.train
        assert all(isinstance(source, WorldConfig) and source.split == "train" for source in trained)
        assert isinstance(config.data.validation, WorldConfig)
        assert config.data.validation.split == "val"
        worlds = [e.world for e in config.evaluation if e.world]
        assert {w.split for w in worlds} == {"test"}
        assert {e.title for e in config.evaluation if e.path} == {"ycb_table", "apc_shelf"}
        size = (config.data.validation.height, config.data.validation.width)
        assert size == config.network.image_size


def test_the_base_configuration_says_that_it_has_not_been_run_and_is_of_its_size() -> None:
    path = TRAIN / "rise_base.yaml"
    assert "has not been run" in path.read_text()
    network = build_network(read_train_config(path).network)
    assert 20e6 < sum(p.numel() for p in network.parameters()) < 40e6
