"""Models on disk: exact round trip, and a message that names the thing for everything that can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import shake, tiny_config

from rise_perception.core.errors import ModelError
from rise_perception.network.card import CARD, WEIGHTS, ModelCard, file_checksum, read_card
from rise_perception.network.checkpoint import load_model, save_model
from rise_perception.network.rise import RiseNetwork


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = RiseNetwork(tiny_config(input="rgbd"))
    shake(network)
    save_model(
        tmp_path / "m", network, ModelCard("m", network.config, 0.4, "tote", "rise train", {"ap50": 0.8})
    )
    return tmp_path / "m"


def refuse(folder: Path, *words: str) -> None:
    with pytest.raises(ModelError) as error:
        load_model(folder)
    for word in words:
        assert word in str(error.value)


def edit_card(folder: Path, **changes: Any) -> None:
    path = folder / CARD
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    """Change tensors (None removes), and the card's checksum with them."""
    state = load_file(folder / WEIGHTS)
    state.update(changes)  # type: ignore[arg-type]
    save_file({n: t for n, t in state.items() if t is not None}, folder / WEIGHTS)
    edit_card(folder, checksum=file_checksum(folder / WEIGHTS))


def test_round_trip_is_exact(folder: Path) -> None:
    network, card = load_model(folder)
    assert card.network == tiny_config(input="rgbd")
    assert (card.name, card.score_threshold, card.data, card.metrics) == ("m", 0.4, "tote", {"ap50": 0.8})
    assert card.version == f"m-{file_checksum(folder / WEIGHTS)[:8]}"
    assert not network.training
    stored = load_file(folder / WEIGHTS)
    assert network.state_dict().keys() == stored.keys()
    assert all(torch.equal(t, stored[n]) for n, t in network.state_dict().items())
    again = save_model(folder.parent / "again", network, card)
    assert again == card
    assert (folder.parent / "again" / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


def test_channels_last_weights_are_the_same_file(folder: Path) -> None:
    network, card = load_model(folder)
    save_model(folder.parent / "last", network.to(memory_format=torch.channels_last), card)
    assert (folder.parent / "last" / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


def test_only_safetensors_and_json_are_written(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == [CARD, WEIGHTS]
    assert not (folder / WEIGHTS).read_bytes().startswith((b"PK", b"\x80"))


def test_missing_files(folder: Path) -> None:
    refuse(folder / "no", "no", CARD)
    card = (folder / CARD).read_text()
    (folder / CARD).unlink()
    refuse(folder, CARD)
    (folder / CARD).write_text(card)
    (folder / WEIGHTS).unlink()
    refuse(folder, WEIGHTS, "copy the weights")


def test_a_card_of_other_weights(folder: Path) -> None:
    card = json.loads((folder / CARD).read_text())
    edit_card(folder, network=card["network"] | {"decoder_layers": 1})
    refuse(folder, "do not fit", "unexpected box_heads.1.")
    edit_card(folder, network=card["network"] | {"decoder_layers": 3})
    refuse(folder, "do not fit", "missing decoder.2.")
    edit_card(folder, network=card["network"] | {"classes": ["a", "b", "c"], "containers": []})
    refuse(folder, "class_heads.0", "(2,", "(3,")
    edit_card(folder, network=card["network"] | {"backbone": "resnet1"})
    refuse(folder, CARD, "resnet1")


def test_weights_that_lack_or_add_a_tensor(folder: Path) -> None:
    edit_weights(folder, level_embed=None, extra=torch.zeros(1))
    refuse(folder, "missing level_embed", "unexpected extra")


def test_damaged_weights(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-100])
    refuse(folder, "SHA-256", WEIGHTS)
    edit_card(folder, checksum="")  # a card without checksum still tells a cut-off file
    refuse(folder, "safetensors", WEIGHTS)
    (folder / WEIGHTS).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    edit_card(folder, checksum=file_checksum(folder / WEIGHTS))
    load_model(folder)  # one flipped bit is found by the checksum only


def test_a_pickle_in_place_of_the_weights(folder: Path) -> None:
    torch.save({"a": torch.zeros(1)}, folder / WEIGHTS)
    edit_card(folder, checksum=file_checksum(folder / WEIGHTS))
    refuse(folder, "safetensors")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"author": "me"}, ["card.author", "not a known key"]),
        ({"network": {"widht": 3}}, ["network.widht", "not a known key"]),
        ({"network": 5}, ["network is int"]),
        ({"network": {"levels": 9}}, ["network.levels is 9"]),
        ({"score_threshold": "high"}, ["card.score_threshold is 'high'"]),
    ],
)
def test_a_broken_card(folder: Path, changes: dict[str, Any], words: list[str]) -> None:
    edit_card(folder, **changes)
    refuse(folder, str(folder / CARD), *words)


def test_a_card_from_before_there_were_architectures(folder: Path) -> None:
    card = json.loads((folder / CARD).read_text())
    del card["network"]["architecture"]
    edit_card(folder, network=card["network"])
    assert load_model(folder)[1].network == tiny_config(input="rgbd")


def test_a_card_that_is_no_card(folder: Path) -> None:
    for content in ("{", "[]", "null", '{"name": "m"}'):
        (folder / CARD).write_text(content)
        refuse(folder, str(folder / CARD))
    (folder / CARD).write_text('{"name": "m"}')
    refuse(folder, "card.network is missing")
    (folder / CARD).write_bytes(b"\xff\xfe")
    refuse(folder, CARD)


def test_a_failed_write_keeps_the_old_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, card = load_model(folder)

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    # A disk that is full in the middle of a file.
    monkeypatch.setattr("rise_perception.network.weights.save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_model(folder, network, card)
    assert sorted(p.name for p in folder.iterdir()) == [CARD, WEIGHTS]
    assert read_card(folder) == card
    load_model(folder)
