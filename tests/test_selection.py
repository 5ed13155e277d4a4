"""Selectors of pseudo-labels: what each believes, how the policy learns, and when the cascade steps in."""

from __future__ import annotations

import math

import pytest
import torch

from rise_perception.core.errors import ConfigError, ModelError
from rise_perception.selection.candidates import (
    ACTIONS,
    ALL,
    CORE,
    DROP,
    PRIOR,
    Candidates,
    make_candidates,
    mask_columns,
    mask_iou,
)
from rise_perception.selection.policy import Guarded, Policy, PolicyConfig
from rise_perception.selection.selectors import (
    Cascade,
    Everything,
    Random,
    Regressor,
    Threshold,
    pixel_weights,
)

EVERY = (DROP, CORE, ALL, PRIOR)


def scored(*scores: float, time: float = 0.0, actions: tuple[int, ...] = (DROP, ALL)) -> Candidates:
    values = torch.tensor(scores)
    return make_candidates({"score": values, "time": torch.full_like(values, time)}, actions)


def drawn(count: int, seed: int = 0) -> Candidates:
    generator = torch.Generator().manual_seed(seed)
    names = ("score", "margin", "agreement")
    return make_candidates({n: torch.rand(count, generator=generator) for n in names}, EVERY)


def test_the_threshold_rises_over_the_training():
    chooser = Threshold((0.5, 0.9))
    assert chooser.choose(scored(0.4, 0.6, 0.95)).tolist() == [DROP, ALL, ALL]
    assert chooser.choose(scored(0.4, 0.6, 0.95, time=1.0)).tolist() == [DROP, DROP, ALL]
    with pytest.raises(ConfigError, match="threshold"):
        Threshold((0.5, 1.5))


def test_the_cascade_takes_the_best_at_first_and_all_above_the_threshold_at_last():
    chooser = Cascade((0.5, 0.5))
    assert chooser.choose(scored(0.4, 0.6, 0.7, 0.9)).tolist() == [DROP, DROP, DROP, ALL]
    assert chooser.choose(scored(0.4, 0.6, 0.7, 0.9, time=1.0)).tolist() == [DROP, ALL, ALL, ALL]


@pytest.mark.parametrize(
    "chooser", [Threshold(), Cascade(), Everything(), Random(0), Regressor(), Policy(), Guarded(Policy())]
)
def test_no_pseudo_label_is_no_trouble(chooser):
    assert chooser.choose(make_candidates({"score": torch.zeros(0)})).shape == (0,)


def test_a_policy_without_candidates_learns_nothing_and_stays_finite():
    policy, none = Policy(), make_candidates({"score": torch.zeros(0)})
    before = policy.state()
    policy.learn(none, policy.sample(none), torch.zeros(8))
    assert all(torch.equal(before[name], tensor) for name, tensor in policy.state().items())


def test_random_keeps_to_what_is_allowed_and_to_its_fraction():
    actions = Random(3, 0.25).choose(scored(*[0.5] * 4000))
    assert set(actions.tolist()) == {DROP, ALL}
    assert abs((actions == DROP).float().mean().item() - 0.25) < 0.03


def test_the_regressor_learns_what_predicts_the_overlap():
    candidates = drawn(400)
    regressor = Regressor(rate=0.02)
    for _ in range(300):
        regressor.learn(candidates, candidates.column("agreement"))
    fresh = drawn(200, 1)
    believed = regressor.choose(fresh) == ALL
    assert fresh.column("agreement")[believed].min() > 0.6
    assert fresh.column("agreement")[~believed].max() < 0.8


def test_the_policy_starts_as_the_cascade():
    candidates = drawn(50)
    assert torch.equal(Policy().choose(candidates), Cascade().choose(candidates))


def bandit(candidates: Candidates) -> torch.Tensor:
    """(N, 4) rewards: each of four kinds of candidates has another best action."""
    best = 2 * (candidates.column("score") > 0.5).long() + (candidates.column("agreement") > 0.5).long()
    return torch.nn.functional.one_hot(best, len(ACTIONS)).float()


@pytest.mark.parametrize("joint", [True, False], ids=["joint reward", "own rewards"])
def test_the_best_action_of_a_bandit_is_found(joint):
    policy = Policy(PolicyConfig(rate=0.02, steps=2))
    for step in range(400 if joint else 150):
        candidates = drawn(8 if joint else 32, step + 10)
        actions = policy.sample(candidates)
        rewards = bandit(candidates)[None].expand(8, -1, -1).gather(2, actions[..., None])[..., 0]
        policy.learn(candidates, actions, rewards.sum(1) if joint else rewards)
    fresh = drawn(400, 1)
    start = (Policy().choose(fresh) == bandit(fresh).argmax(1)).float().mean()
    right = (policy.choose(fresh) == bandit(fresh).argmax(1)).float().mean()
    assert start < 0.5
    assert right > (0.6 if joint else 0.85)


def test_the_exact_gradient_finds_the_same_best_actions():
    policy = Policy(PolicyConfig(rate=0.02))
    for step in range(200):
        candidates = drawn(32, step + 10)
        policy.learn_exactly(candidates, bandit(candidates))
    fresh = drawn(400, 1)
    assert (policy.choose(fresh) == bandit(fresh).argmax(1)).float().mean() > 0.85


def test_what_is_not_allowed_is_never_taken():
    candidates = make_candidates({"score": torch.rand(64)}, (DROP, CORE))
    policy = Policy()
    assert set(policy.sample(candidates).unique().tolist()) <= {DROP, CORE}
    for _ in range(20):
        actions = policy.sample(candidates)
        policy.learn(candidates, actions, torch.rand(8))
    assert torch.isfinite(policy.log_probabilities(candidates)[:, :2]).all()


def test_the_clip_bounds_how_far_one_update_goes():
    candidates = drawn(16)
    actions = torch.full((8, 16), DROP)
    actions[:4] = ALL
    rewards = torch.tensor([1.0] * 4 + [0.0] * 4)
    moved = []
    for clip in (0.05, 0.99):
        policy = Policy(PolicyConfig(rate=0.005, steps=30, kl=0.0, entropy=0.0, clip=clip))
        before = policy.log_probabilities(candidates)
        policy.learn(candidates, actions, rewards)
        moved.append((policy.log_probabilities(candidates) - before)[:, ALL].mean().item())
    assert 0 < moved[0] < 0.6 * moved[1]


def test_rewards_that_are_no_numbers_change_nothing():
    candidates, policy = drawn(8), Policy()
    policy.learn(candidates, policy.sample(candidates), torch.full((8,), math.nan))
    assert all(torch.isfinite(t).all() for t in policy.state().values())


def test_where_the_policy_is_less_precise_the_cascade_chooses():
    class All(Everything):
        pass

    guarded = Guarded(All(), Threshold((0.5, 0.5)))
    assert guarded.serving is guarded.cascade  # nothing was measured yet
    guarded.measure(scored(0.2, 0.9), torch.tensor([0.1, 0.9]))
    assert guarded.precisions == (0.5, 1.0)
    assert guarded.serving is guarded.cascade
    for _ in range(200):
        guarded.measure(scored(0.2, 0.9), torch.tensor([0.9, 0.1]))
    assert guarded.serving is guarded.learned


def test_a_saved_policy_chooses_as_before_and_a_damaged_one_is_named(tmp_path):
    policy = Policy()
    candidates = drawn(32)
    for _ in range(30):
        actions = policy.sample(candidates)
        policy.learn(candidates, actions, (actions == CORE).float().mean(1))
    path = tmp_path / "policy.safetensors"
    policy.save(path)
    other = Policy()
    other.load(path)
    assert torch.equal(policy.log_probabilities(candidates), other.log_probabilities(candidates))
    path.write_bytes(b"\0" * 40)
    with pytest.raises(ModelError, match="policy"):
        other.load(path)


def test_state_has_no_infinities_and_unknown_columns_are_errors():
    candidates = make_candidates({"score": torch.tensor([math.inf, math.nan, 0.5])})
    assert candidates.column("score").tolist() == [0.0, 0.0, 0.5]
    with pytest.raises(ValueError):
        make_candidates({"beauty": torch.zeros(1)})


def test_solidity_and_overlap_of_masks():
    masks = torch.zeros(3, 8, 8)
    masks[0, 2:6, 2:6] = 1
    masks[1, torch.arange(8), torch.arange(8)] = 1
    columns = mask_columns(masks)
    assert columns["area"].tolist() == [16 / 64, 8 / 64, 0]
    assert columns["solidity"].tolist() == [1.0, 8 / 64, 0]
    assert mask_iou(masks > 0, masks.roll(1, 0) > 0).tolist() == [0.0, pytest.approx(4 / 20), 0.0]
    assert mask_iou(masks[2:] > 0, masks[2:] > 0).tolist() == [1.0]


def test_certain_pixels_weigh_most():
    weights = pixel_weights(torch.tensor([0.5, 0.7, 1.0]))
    assert weights[0] < weights[1] < weights[2]
    assert weights[0] == pytest.approx(1.3 - 1 / (0.2 * math.pi) ** 0.5, abs=1e-5)
