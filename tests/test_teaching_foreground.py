"""The foreground M: learned, cross-fitted, spoiled and absent in training, and never made of truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from test_teaching_teach import asked, save_start, write_goods

from rise_perception.data.annotated import read_annotated
from rise_perception.network.checkpoint import load_model
from rise_perception.network.inputs import make_input
from rise_perception.teaching.config import Recipe
from rise_perception.teaching.foreground import Foreground, load_foreground, spoil, train_foreground
from rise_perception.teaching.rounds import round_config
from rise_perception.teaching.scenes import TeachScenes, gather_material
from rise_perception.teaching.teach import teach


def halves(folder: Path, start: Path) -> list[TeachScenes]:
    goods = write_goods(folder, 4)
    config = asked(goods, folder / "out", start)
    network = load_model(start)[0].config
    train = round_config(config, network, start, folder / "out", 3, "fp32")
    nowhere = np.zeros((64, 96), bool)
    pictures = [(p.load(False), nowhere) for p in read_annotated(goods).pictures]
    return [
        TeachScenes(train, gather_material(pictures[k::2], [], [], network), Recipe(rehearsal=0), [])
        for k in range(2)
    ]


def test_it_learns_where_items_lie_on_pictures_that_it_has_not_seen(tmp_path):
    start = save_start(tmp_path / "start")
    found = train_foreground(halves(tmp_path, start), steps=60, views=40)
    whole = read_annotated(tmp_path / "goods.json").pictures[0].load(False)
    m = found.made(make_input(whole.image, None, "rgb"), 0)[0]
    truth = whole.masks.any(0)
    overlap = (truth & (m > 0.5)).sum() / (truth | (m > 0.5)).sum()
    assert overlap > 0.6
    found.save(tmp_path / "m.safetensors")
    again = load_foreground(tmp_path / "m.safetensors", halves(tmp_path, start)[0].config.network)
    assert (again.made(make_input(whole.image, None, "rgb"), 0)[0] == m).all()


def test_m_of_a_picture_comes_from_the_network_that_has_not_learned_it(tmp_path):
    from rise_perception.network.representation import ForegroundNetwork

    torch.manual_seed(0)
    nets = [ForegroundNetwork(3).eval() for _ in range(3)]
    found = Foreground((nets[0], nets[1]), nets[2])
    image = np.random.default_rng(0).normal(size=(3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        expected = [net(torch.from_numpy(image)[None])[0].sigmoid().numpy() for net in nets]
    assert (found.made(image, 0) == expected[1]).all()
    assert (found.made(image, 3) == expected[0]).all()
    assert (found.made(image, 3, cross_fitted=False) == expected[2]).all()


def test_m_is_sometimes_spoiled_and_sometimes_absent():
    torch.manual_seed(0)
    m = np.zeros((1, 64, 96), np.float32)
    m[0, 20:40, 30:60] = 1
    kinds = {"kept": 0, "absent": 0, "spoiled": 0}
    for _ in range(200):
        other = spoil(m, 0.3, 0.1)
        assert other.shape == m.shape
        assert other.min() >= 0
        assert other.max() <= 1
        kind = "kept" if (other == m).all() else "spoiled" if other.any() else "absent"
        kinds[kind] += 1
    assert kinds["kept"] > 80
    assert kinds["spoiled"] > 30
    assert kinds["absent"] > 8


def test_a_model_with_m_is_taught_and_needs_nothing_but_the_image(tmp_path):
    start = save_start(tmp_path / "start")
    goods = write_goods(tmp_path / "goods")
    taught = teach(asked(goods, tmp_path / "out", start, input="glm", steps=2))
    network, card = load_model(tmp_path / "out/teach/all")
    assert card.network.input == "glm"
    kept = load_foreground(tmp_path / "out/teach/all/foreground.safetensors", card.network).whole.state_dict()
    inside = network.backbone.represent.foreground.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(inside[name], kept[name]) for name in kept)
    assert len(taught.after.pairs) == 3
