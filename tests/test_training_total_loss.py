"""The unified loss (Eq. 9); what never reaches the unlabelled branch: ground truth, gradients, x3."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import box_targets, mask_targets, query_outputs, shake
from tiny_data import Recorder, configure, write_data
from torch import Tensor

from rise_perception.core.errors import ConfigError
from rise_perception.network.outputs import QueryOutputs
from rise_perception.training import pseudo_labels
from rise_perception.training.association import association_loss
from rise_perception.training.batches import Batch, to_network
from rise_perception.training.config import SequenceConfig, TrainConfig
from rise_perception.training.criterion import LossConfig, match, supervised_loss
from rise_perception.training.loader import training_loader
from rise_perception.training.matching import MATCHERS, Targets
from rise_perception.training.pseudo_labels import UNKNOWN, SelfSupervisionConfig
from rise_perception.training.scenes import Key, Scenes
from rise_perception.training.sequence import FIRST_PASTED
from rise_perception.training.total_loss import unified_loss, unlabelled_loss

#: Trusts a network that has not learned anything yet.
TRUSTING = {"selector": "threshold", "class_threshold": (0.0, 0.0)}


# ---- Eq. 9 ----


def some_outputs(images: int, seed: int = 0, auxiliary: int = 1) -> QueryOutputs:
    generator = torch.Generator().manual_seed(seed)

    def stage() -> QueryOutputs:
        return query_outputs(
            torch.randn(images, 12, 2, generator=generator).requires_grad_(),
            (torch.rand(images, 12, 4, generator=generator) * 0.4 + 0.2).requires_grad_(),
            torch.randn(images, 12, 16, 16, generator=generator).requires_grad_(),
        )

    outputs = stage()
    outputs.embeddings = torch.randn(images, 12, 4, generator=generator).requires_grad_()
    outputs.auxiliary = [stage() for _ in range(auxiliary)]
    return outputs


ONE, TWO = [0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.3, 0.2]
#: Two labelled scenes, then two unlabelled ones, of two views each.
KNOWN = [
    box_targets([ONE, TWO], [1, 0]),
    box_targets([TWO, ONE], [0, 1]),
    box_targets([ONE]),
    box_targets([]),
    box_targets([ONE, TWO]),
    box_targets([ONE, TWO]),
    box_targets([]),
    box_targets([ONE]),
]
LABELLED = torch.tensor([True] * 4 + [False] * 4)
PSEUDO = [box_targets([ONE, TWO, [0.5, 0.2, 0.1, 0.1]], [1, 1, 0]), box_targets([])]


@pytest.mark.parametrize("matching", ["optimal_transport", "hungarian"])
def test_the_unified_loss_is_the_sum_of_its_terms(matching: str) -> None:
    """L = L_s(labelled) + l4 L_u(first views, pseudo-labels) + l3 L_embed(all)."""
    config = LossConfig(matching, embedding_weight=0.3, unlabelled_weight=0.7)
    outputs = some_outputs(8)
    losses = unified_loss(outputs, KNOWN, LABELLED, PSEUDO, config)
    labelled = supervised_loss(outputs.of_images(torch.arange(4)), KNOWN[:4], config)
    unlabelled = supervised_loss(outputs.of_images(torch.tensor([4])), PSEUDO[:1], config)["total"]
    assert outputs.embeddings is not None
    embeddings = association_loss(outputs.embeddings, match(outputs, KNOWN, config), KNOWN)
    for name in ("classes", "boxes", "masks"):
        assert losses[name] == labelled[name]
    torch.testing.assert_close(losses["unlabelled"], unlabelled)
    torch.testing.assert_close(losses["embeddings"], embeddings)
    assert min(unlabelled, embeddings) > 0
    torch.testing.assert_close(losses["total"], labelled["total"] + 0.7 * unlabelled + 0.3 * embeddings)


def test_no_stage_is_matched_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labelled images: once per stage; others: pasted objects in the last stage, pseudo-labels in each."""
    calls: list[int] = []
    plain = MATCHERS["optimal_transport"]

    def counting(logits: Tensor, boxes: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        calls.append(len(targets))
        return plain(logits, boxes, targets)

    monkeypatch.setitem(MATCHERS, "optimal_transport", counting)
    unified_loss(some_outputs(8), KNOWN, LABELLED, PSEUDO, LossConfig())
    stages, labelled, unlabelled, taught = 2, 4, 4, 1
    assert len(calls) == stages * labelled + unlabelled + stages * taught


def test_nothing_unlabelled_teaches_during_the_burn_in(data: tuple[Path, Path], tmp_path: Path) -> None:
    steps = losses_of(semi(data, tmp_path, {"burn_in": 0.25, "ramp": 0.5}, iterations=4))
    assert [step["unlabelled"] > 0 for step in steps[:2]] == [False, False]
    assert steps[3]["unlabelled"] > 0
    assert [step.get("pseudo_labels/weight") for step in steps] == [None, None, 0.25, 0.5]


def test_soft_targets_reach_the_loss(
    data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pseudo_labels, "LEAST_TRUST", 0.0)  # the network has not learned anything yet
    soft = losses_of(
        semi(data, tmp_path / "soft", {"selector": "soft", "trust": "class_times_mask"}, iterations=2)
    )
    assert all(step["unlabelled"] > 0 for step in soft)
    trainer = Recorder(semi(data, tmp_path / "one", {"selector": "soft"}), "t")
    shake(trainer.network, 0.02)
    batch = first_batch(trainer.config)
    (pseudo,) = trainer.pseudo_labels(batch)
    assert pseudo.weights is not None
    assert pseudo.weights[: len(batch.targets[2])].tolist() == [1.0] * len(batch.targets[2])
    assert (pseudo.weights[len(batch.targets[2]) :] < 1).all()


def test_pseudo_labels_lie_on_the_pixels_of_the_students_view(
    data: tuple[Path, Path], tmp_path: Path
) -> None:
    """A teacher that sees red: what it marks in x1 must be what is red in x3, letterbox and all."""
    config = semi(data, tmp_path)
    sequences = SequenceConfig(objects=0, strong_scale=(0.8, 1.1), strong_rotation=15.0, depth_noise=0.0)
    config = dataclasses.replace(
        config,
        sequences=sequences,
        # Wider than the images: the letterbox pads them on the right.
        network=dataclasses.replace(config.network, image_size=(64, 128)),
    )
    trainer = Recorder(config, "t")

    class Red(torch.nn.Module):
        def forward(self, images: Tensor, padding: Tensor | None) -> QueryOutputs:
            # The ground is grey: its channels hardly differ after normalisation.
            red = torch.nn.functional.avg_pool2d((images[:, :1] - images[:, 2:3]) * 20 - 30, 4)
            return query_outputs(torch.full((len(images), 1, 1), 4.0), torch.rand(len(images), 1, 4), red)

    trainer._teacher = Red  # type: ignore[method-assign,assignment]
    seen = 0
    for batch, _ in zip(training_loader(Scenes(config), 0), range(4), strict=False):
        assert batch.to_strong is not None
        for pseudo, strong in zip(trainer.pseudo_labels(batch), batch.images[2::2], strict=True):
            with torch.no_grad():
                outputs = Red()(strong[None], None)
            assert outputs.masks is not None
            zero = torch.zeros(1, dtype=torch.int64)
            expected = outputs.masks(zero, zero)[0] > 0
            if len(pseudo) and expected.sum() > 20:
                both = (pseudo.masks[0] & expected).sum() / (pseudo.masks[0] | expected).sum()
                assert both > 0.85
                seen += 1
    assert seen >= 3


def test_the_papers_weights() -> None:
    assert LossConfig() == LossConfig("optimal_transport", 2.0, 1.0, 0.05, 0.5)


def test_which_images_each_term_teaches() -> None:
    """Gradients of L_u touch the first views with pseudo-labels alone, those of L_s labelled images."""
    outputs = some_outputs(8)
    losses = unified_loss(outputs, KNOWN, LABELLED, PSEUDO, LossConfig())
    (of_unlabelled,) = torch.autograd.grad(losses["unlabelled"], outputs.logits, retain_graph=True)
    (of_labelled,) = torch.autograd.grad(losses["classes"], outputs.logits, retain_graph=True)
    (of_embeddings,) = torch.autograd.grad(losses["embeddings"], outputs.embeddings)
    assert of_unlabelled.abs().sum((1, 2)).gt(0).tolist() == [False] * 4 + [True] + [False] * 3
    assert of_labelled.abs().sum((1, 2)).gt(0).tolist() == [True] * 4 + [False] * 4
    assert of_embeddings.abs().sum((1, 2)).gt(0).tolist() == [
        True,
        True,
        False,
        False,
        True,
        True,
        False,
        False,
    ]


def test_nothing_to_learn_is_zero_with_finite_gradients() -> None:
    empty = [mask_targets(torch.zeros(0, 16, 16, dtype=torch.bool))] * 4
    outputs = some_outputs(4)
    losses = unified_loss(outputs, empty, torch.tensor([True, True, False, False]), empty[:1], LossConfig())
    assert losses["unlabelled"] == losses["embeddings"] == losses["boxes"] == losses["masks"] == 0
    losses["total"].backward()
    assert outputs.logits.grad is not None
    assert outputs.logits.grad.isfinite().all()
    assert (outputs.logits.grad[2:] == 0).all()
    alone = some_outputs(2)  # a batch of labelled images only
    assert unlabelled_loss(alone, torch.ones(2, dtype=torch.bool), [], LossConfig()) == 0


# ---- through data and trainer ----


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Annotation files of labelled and of further images."""
    folder = tmp_path_factory.mktemp("data")
    return write_data(folder / "a", [0, 1]), write_data(folder / "b", [2, 3])


def semi(
    data: tuple[Path | str, ...], out: Path, teacher: dict[str, Any] | None = None, **optimisation: Any
) -> TrainConfig:
    sections = {
        "self_supervision": SelfSupervisionConfig(**(TRUSTING | (teacher or {}))),
        "sequences": SequenceConfig(objects=3, bank=8),
    }
    return configure(data[0], out, images={"unlabelled": (str(data[1]),)}, sections=sections, **optimisation)


def first_batch(config: TrainConfig) -> Batch:
    return next(iter(training_loader(Scenes(config), 0)))


def losses_of(config: TrainConfig) -> list[dict[str, float]]:
    trainer = Recorder(config, "t")
    shake(trainer.network, 0.02)
    trainer.run()
    return list(trainer.steps.values())


def test_ground_truth_of_unlabelled_images_changes_no_loss_by_a_bit(
    data: tuple[Path, Path], tmp_path: Path
) -> None:
    """A trap: replaced by garbage, shuffled or gone, it must not matter."""
    content = json.loads(data[1].read_text())
    variants: dict[str, Any] = {"true": content}
    variants["garbage"] = content | {
        "annotations": [
            {"id": 1, "image_id": 2, "category_id": 1, "segmentation": [[0, 0, 95, 0, 95, 63, 0, 63]]},
            {"id": 2, "image_id": "nobody's", "category_id": 99, "segmentation": "none"},
            "not even a mapping",
        ],
        "categories": 5,
    }
    variants["gone"] = {"images": content["images"]}
    results = {}
    for name, changed in variants.items():
        file = data[1].parent / f"{name}.json"
        file.write_text(json.dumps(changed))
        results[name] = losses_of(semi((data[0], file), tmp_path / name, iterations=2))
    assert all(step["unlabelled"] > 0 and step["pseudo_labels/per_image"] > 0 for step in results["true"])
    assert results["garbage"] == results["true"]
    assert results["gone"] == results["true"]
    other = losses_of(semi((data[0], data[0]), tmp_path / "other", iterations=2))
    assert other != results["true"]  # other images do matter


def test_targets_of_unlabelled_images_are_pasted_objects_alone(
    data: tuple[Path, Path], tmp_path: Path
) -> None:
    batch = first_batch(semi(data, tmp_path, batch=4, unlabelled_batch=4))
    assert batch.labelled.tolist() == [True] * 4 + [False] * 4
    assert batch.images.shape == (8, 3, 64, 96)
    assert batch.before.shape == (2, 3, 64, 96)
    for targets, labelled in zip(batch.targets, batch.labelled.tolist(), strict=True):
        own = targets.ids < FIRST_PASTED
        assert bool(own.any()) == labelled
        assert len(targets.ids) > 0 or not labelled


class Watched(Recorder):
    """Notes what teacher and student see, and whether gradients are kept."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen: list[tuple[Tensor, bool, bool]] = []
        self.network.register_forward_pre_hook(self._note)

    def _note(self, module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.seen.append((inputs[0].clone(), module.training, torch.is_grad_enabled()))


def test_the_teacher_sees_x1_and_the_student_x3_and_x2(data: tuple[Path, Path], tmp_path: Path) -> None:
    config = semi(data, tmp_path)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, augmentation=1.0))
    scenes = Scenes(config)
    batch = first_batch(config)
    trainer = Watched(config, "t")
    trainer.step(batch)
    (teacher, teacher_trains, teacher_learns), (student, student_trains, student_learns) = trainer.seen
    assert (teacher_trains, teacher_learns, student_trains, student_learns) == (False, False, True, True)
    assert trainer.network.training
    for first, labelled in ((0, True), (2, False)):
        keys = [k for k in next(iter(training_loader(scenes, 0).batch_sampler)) if k.labelled == labelled]
        made = scenes.sequence(Key(*keys[0]))
        views = [
            torch.from_numpy(to_network(v, config.network)[0]) for v in (made.strong, made.after, made.before)
        ]
        assert torch.equal(student[first], views[0])
        assert torch.equal(student[first + 1], views[1])
        assert not torch.equal(views[0], views[2])
        if not labelled:
            assert len(teacher) == 1
            assert torch.equal(teacher[0], views[2])


def test_no_gradient_flows_through_the_teacher(data: tuple[Path, Path], tmp_path: Path) -> None:
    """The gradient is that of fixed targets, and they hang on nothing."""
    trainer = Recorder(semi(data, tmp_path), "t")
    shake(trainer.network, 0.02)
    batch = first_batch(trainer.config)
    pseudo = trainer.pseudo_labels(batch)
    assert any(len(t) for t in pseudo)
    assert not any(x.requires_grad for t in pseudo for x in (t.classes, t.boxes, t.masks, t.ids))
    losses, _ = trainer.losses(batch)
    with_teacher = torch.autograd.grad(losses["total"], list(trainer.network.parameters()), allow_unused=True)
    fixed = [Targets(t.classes.clone(), t.boxes.clone(), t.masks.clone(), t.ids.clone()) for t in pseudo]
    outputs = trainer.network(batch.images, batch.padding)
    expected = unified_loss(outputs, batch.targets, batch.labelled, fixed, trainer.config.loss)
    gradients = torch.autograd.grad(expected["total"], list(trainer.network.parameters()), allow_unused=True)
    assert any(g is not None and g.abs().sum() > 0 for g in gradients)
    for got, want in zip(with_teacher, gradients, strict=True):
        assert (got is None) == (want is None)
        if got is not None and want is not None:
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("teacher", ["student", "average"])
def test_the_teacher_leaves_the_students_statistics_alone(
    data: tuple[Path, Path], tmp_path: Path, teacher: str
) -> None:
    trainer = Recorder(semi(data, tmp_path, {"teacher": teacher}, average=0.5), "t")
    batch = first_batch(trainer.config)
    state = {n: t.clone() for n, t in trainer.network.state_dict().items()}
    assert any("running_mean" in n for n in state)
    trainer.pseudo_labels(batch)
    assert all(torch.equal(t, state[n]) for n, t in trainer.network.state_dict().items())
    assert trainer.network.training
    trainer.network(batch.images, batch.padding)
    assert not all(torch.equal(t, state[n]) for n, t in trainer.network.state_dict().items())


def test_the_averaged_teacher_predicts_with_the_averages_current_weights(
    data: tuple[Path, Path], tmp_path: Path
) -> None:
    config = semi(data, tmp_path, {"teacher": "average"}, average=0.9, iterations=8)
    trainer = Recorder(config, "t")
    shake(trainer.network, 0.02)
    own = Recorder(dataclasses.replace(config, self_supervision=SelfSupervisionConfig(**TRUSTING)), "t")
    told = []
    for step, batch in enumerate(training_loader(Scenes(config), 0)):
        assert trainer.average is not None
        copied = copy.deepcopy(own.network)
        copied.load_state_dict(trainer.average.state)
        own.network, own.iteration = copied, trainer.iteration
        got, expected = trainer.pseudo_labels(batch), own.pseudo_labels(batch)
        for a, b in zip(got, expected, strict=True):
            for name in ("classes", "boxes", "masks", "ids"):
                assert torch.equal(getattr(a, name), getattr(b, name)), (step, name)
        told.append(got[0].masks.float().sum().item())
        trainer.step(batch)
        if step == 3:
            break
    assert len(set(told)) > 1
    average, student = trainer.average.state, trainer.network.state_dict()  # type: ignore[union-attr]
    assert not all(torch.equal(average[n], student[n]) for n in student)
    assert all(p.grad is None for p in trainer._teacher().parameters())


def test_an_averaged_teacher_needs_an_average(data: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"optimisation\.average is 0"):
        semi(data, tmp_path, {"teacher": "average"})


def test_pasted_objects_are_taught_beside_the_pseudo_labels(data: tuple[Path, Path], tmp_path: Path) -> None:
    """A trap: objects pasted on an unlabelled image that its targets call background."""
    trainer = Recorder(semi(data, tmp_path), "t")
    shake(trainer.network, 0.02)
    batch = first_batch(trainer.config)
    (pseudo,) = trainer.pseudo_labels(batch)
    known = batch.targets[2]
    assert len(known) > 0
    assert torch.equal(pseudo.ids[: len(known)], known.ids)
    assert torch.equal(pseudo.masks[: len(known)], known.masks)
    assert (pseudo.ids[len(known) :] == UNKNOWN).all()
    assert len(pseudo) > len(known)
