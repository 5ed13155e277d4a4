"""COCO figures, partial labels, loading of predictions and truth."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from squares import SIZE, instances_of, pair, region, square

from rise_perception.core.errors import DataError
from rise_perception.core.files import write_json
from rise_perception.core.regions import (
    encode_label_map,
    encode_mask,
    instances_json,
    paint,
    regions_of_map,
)
from rise_perception.data.images import write_image
from rise_perception.evaluation.coco import coco_scores
from rise_perception.evaluation.loading import load_pairs
from rise_perception.evaluation.metrics import measure
from rise_perception.evaluation.report import (
    metrics_section,
)

# ---- COCO


def test_ap_worked_out_by_hand():
    # Two items. Best score: right at IoU 1. Second: IoU (10*8)/(10*12) = 2/3. Third: nothing there.
    truth = [region(square(0, 0)), region(square(20, 20))]
    predicted = [
        region(square(0, 0), 0.9),
        region(square(20, 22), 0.8),
        region(square(25, 45), 0.7),
    ]
    scores = coco_scores([pair(predicted, truth)])
    assert scores.ap50 == pytest.approx(1)  # the false one comes after full recall
    # At .75 recall stops at 1/2, with precision 1: 51 of the 101 recall points.
    assert scores.ap75 == pytest.approx(51 / 101)
    # Thresholds .50 .55 .60 .65 find both, the six others one.
    assert scores.ap == pytest.approx((4 * 1 + 6 * 51 / 101) / 10)
    assert scores.ar == pytest.approx((4 * 1 + 6 * 0.5) / 10)
    assert scores.precision[0.5].shape == (101,)


def test_false_prediction_with_the_best_score_costs_precision():
    truth = [region(square(0, 0))]
    predicted = [region(square(25, 45), 0.9), region(square(0, 0), 0.8)]
    assert coco_scores([pair(predicted, truth)]).ap == pytest.approx(0.5)


def test_no_predictions_and_no_truth():
    truth = [region(square(0, 0))]
    none = coco_scores([pair([], truth)])
    assert (none.ap, none.ap50, none.ap75, none.ar) == (0, 0, 0, 0)
    empty = coco_scores([pair(truth, [])])
    assert (empty.ap, empty.ar) == (None, None)
    assert coco_scores([]).ap is None
    assert coco_scores([pair([], []), pair(truth, truth, "b")]).ap == pytest.approx(1)


def test_containers_count_only_where_asked():
    tote = np.ones(SIZE, bool)
    truth = [region(square(0, 0)), region(tote, category="container")]
    found_tote_only = [region(tote, 0.9, "container")]
    assert coco_scores([pair(found_tote_only, truth)]).ap == 0
    assert coco_scores([pair(found_tote_only, truth)], with_containers=True).ap == pytest.approx(0.5)
    # A tote taken for an object is a false object.
    wrong = [region(tote, 0.9), region(square(0, 0), 0.8)]
    assert coco_scores([pair(wrong, truth)]).ap == pytest.approx(0.5)


def test_more_than_a_hundred_predictions_keep_the_best():
    noise = [region(square(i % 30, i % 50, 2), 0.5 - i / 1000) for i in range(150)]
    truth = [region(square(0, 0))]
    assert coco_scores([pair([*noise, region(square(0, 0), 0.9)], truth)]).ap50 == pytest.approx(1)
    assert coco_scores([pair([*noise, region(square(0, 0), 0.01)], truth)]).ap50 == 0


# ---- regions


@pytest.mark.parametrize("seed", range(20))
def test_rle_of_label_map_is_what_pycocotools_makes_of_each_mask(seed):
    rng = np.random.default_rng(seed)
    label_map = np.kron(rng.integers(0, 5, (5, 6)), np.ones((3, 2), int)).astype(np.uint16) * 250
    label_map[0, 0], label_map[-1, -1] = rng.integers(0, 2, 2) * 250  # runs that begin or end the image
    labels = np.unique(label_map[label_map > 0])
    for label, rle in zip(labels, encode_label_map(label_map, labels), strict=True):
        assert rle == encode_mask(label_map == label)
        json.dumps(rle)
        np.testing.assert_array_equal(coco_mask.decode(rle).astype(bool), label_map == label)


def test_rle_of_a_full_image():
    assert encode_label_map(np.ones(SIZE, np.uint16), [1]) == [encode_mask(np.ones(SIZE, bool))]


def test_paint_gives_pixels_to_the_first():
    painted = paint([encode_mask(square(0, 0)), encode_mask(square(5, 5))], *SIZE)
    assert painted[7, 7] == 1
    assert painted[12, 12] == 2
    assert painted[39, 59] == 0


def test_instances_json_follows_coco():
    label_map = np.zeros(SIZE, np.uint16)
    label_map[3:9, 4:7] = 12
    content = instances_json(instances_of(label_map, ids=[77]))
    (row,) = json.loads(json.dumps(content))["instances"]
    assert (row["id"], row["label"], row["bbox"], row["area"]) == (77, 12, [4, 3, 3, 6], 18)
    assert row["bbox"] == coco_mask.toBbox(row["segmentation"]).tolist()
    assert row["area"] == coco_mask.area(row["segmentation"])
    assert {"id": row["category_id"], "name": row["category"]} in content["categories"]


# ---- all metrics


def test_measure_and_partial_labels():
    truth = [region(square(0, 0)), region(square(20, 20)), region(np.ones(SIZE, bool), category="container")]
    predicted = [region(square(0, 0), 0.9), region(square(20, 45), 0.8)]
    metrics = measure([pair(predicted, truth), pair([], [], "empty")])
    assert metrics.values["mean_best_iou"] == pytest.approx(0.5)
    assert metrics.values["overlap_precision"] == pytest.approx((0.5 + 1) / 2)
    assert metrics.values["ap_with_containers"] == pytest.approx(metrics.values["ap"] / 2)
    assert (metrics.images, metrics.items, metrics.predictions) == (2, 2, 2)
    assert metrics.per_image["empty"] == {"mean_best_iou": None, "overlap_f": 1.0}
    assert "AP50 with containers" in metrics.table()
    partial = measure([pair(predicted, truth)], partial=True)
    assert partial.values == {"mean_best_iou": pytest.approx(0.5)}
    json.dumps(metrics.to_json(), allow_nan=False)


def test_measure_of_nothing_is_none_not_nan():
    metrics = measure([pair([region(square(0, 0))], [])])
    assert metrics.values["ap"] is None
    assert metrics.values["mean_best_iou"] is None
    json.dumps(metrics.to_json(), allow_nan=False)
    assert "none" in metrics.table()
    assert metrics_section(metrics).pictures


# ---- predictions and truth from disk


def write_prediction(folder, name, label_map, **changes):
    content = {"file": f"/nowhere/{name}.png", "width": label_map.shape[1], "height": label_map.shape[0]}
    write_json(
        folder / f"{name}.instances.json", {**content, **instances_json(instances_of(label_map)), **changes}
    )


@pytest.fixture
def label_map():
    labels = np.zeros(SIZE, np.uint16)
    labels[2:12, 3:20], labels[20:35, 30:50] = 4, 300
    return labels


def coco_file(path, label_map, file_name="test/scene_1.png", category="Object"):
    annotations = [
        {
            "id": i,
            "image_id": 9,
            "category_id": 2,
            "segmentation": r.rle,
            "iscrowd": 0,
            "area": 1,
            "bbox": [0, 0, 1, 1],
        }
        for i, r in enumerate(regions_of_map(label_map))
    ]
    categories = [{"id": 1, "name": "Tote"}, {"id": 2, "name": category}]
    image = {"id": 9, "file_name": file_name, "width": label_map.shape[1], "height": label_map.shape[0]}
    write_json(path, {"images": [image], "annotations": annotations, "categories": categories})


@pytest.mark.parametrize(
    "truth_name", ["scene_1.label.png", "scene_1-label.png", "scene_1.segm.png", "scene_1.png"]
)
def test_label_images(tmp_path, label_map, truth_name):
    write_prediction(tmp_path / "pred", "scene_1", label_map)
    write_image(tmp_path / "truth" / truth_name, label_map)
    pairs, warnings = load_pairs(tmp_path / "pred", tmp_path / "truth")
    assert measure(pairs).values["ap"] == pytest.approx(1)
    assert not warnings


def test_coco_truth_as_file_and_folder(tmp_path, label_map):
    write_prediction(tmp_path / "pred", "scene_1", label_map)
    coco_file(tmp_path / "data" / "test.json", label_map)
    for truth in (tmp_path / "data", tmp_path / "data" / "test.json"):
        pairs, _ = load_pairs(tmp_path / "pred", truth)
        assert measure(pairs).values["ap"] == pytest.approx(1)
    coco_file(tmp_path / "data" / "train.json", label_map)
    with pytest.raises(DataError, match=r"test\.json, train\.json"):
        load_pairs(tmp_path / "pred", tmp_path / "data")


def test_missing_counterparts_are_said_and_counted(tmp_path, label_map):
    write_prediction(tmp_path / "pred", "other", label_map)
    write_prediction(tmp_path / "pred", "scene_1", label_map)
    coco_file(tmp_path / "test.json", label_map)
    pairs, warnings = load_pairs(tmp_path / "pred", tmp_path / "test.json")
    assert [p.name for p in pairs] == ["scene_1"]
    assert "other" in warnings[0]
    (tmp_path / "pred" / "scene_1.instances.json").unlink()
    with pytest.raises(DataError, match="no prediction in"):
        load_pairs(tmp_path / "pred", tmp_path / "test.json")


def test_image_without_prediction_counts_as_empty(tmp_path, label_map):
    write_prediction(tmp_path / "pred", "scene_1", label_map)
    coco_file(tmp_path / "test.json", label_map)
    content = json.loads((tmp_path / "test.json").read_text())
    content["images"].append({"id": 10, "file_name": "scene_2.png", "width": 60, "height": 40})
    content["annotations"] += [{**a, "image_id": 10, "id": 50 + a["id"]} for a in content["annotations"]]
    write_json(tmp_path / "test.json", content)
    pairs, warnings = load_pairs(tmp_path / "pred", tmp_path / "test.json")
    assert "scene_2" in warnings[0]
    assert measure(pairs).values["ar"] == pytest.approx(0.5)


def test_broken_input_names_the_file(tmp_path, label_map):
    with pytest.raises(DataError, match="--pred"):
        load_pairs(tmp_path / "none", tmp_path)
    (tmp_path / "pred").mkdir()
    with pytest.raises(DataError, match=r"instances\.json"):
        load_pairs(tmp_path / "pred", tmp_path)
    write_prediction(tmp_path / "pred", "a", label_map)
    with pytest.raises(DataError, match="no such file or folder"):
        load_pairs(tmp_path / "pred", tmp_path / "nope")
    with pytest.raises(DataError, match="themselves"):
        load_pairs(tmp_path / "pred", tmp_path / "pred")
    write_image(tmp_path / "truth" / "a.png", label_map[:10])
    with pytest.raises(DataError, match=r"a\.png is 60x10"):
        load_pairs(tmp_path / "pred", tmp_path / "truth")
    write_prediction(tmp_path / "pred", "a", label_map, height=7)
    with pytest.raises(DataError, match=r"a\.instances\.json"):
        load_pairs(tmp_path / "pred", tmp_path / "truth")
    (tmp_path / "pred" / "a.instances.json").write_text("{")
    with pytest.raises(DataError, match=r"a\.instances\.json"):
        load_pairs(tmp_path / "pred", tmp_path / "truth")
    (tmp_path / "x.json").write_text("[]")
    write_prediction(tmp_path / "pred", "a", label_map)
    with pytest.raises(DataError, match=r"x\.json"):
        load_pairs(tmp_path / "pred", tmp_path / "x.json")
