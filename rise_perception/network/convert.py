"""Start a network from other weights: a model of this package, or transformers' Deformable DETR.

The second is the layout of the published ``SenseTime/deformable-detr*`` checkpoints, so that training starts
from COCO: a folder with ``config.json`` and ``model.safetensors``, as ``save_pretrained`` writes it. What the
two networks share is taken; the mask head and the contrastive head stay as they are, and so does the class
head where the number of classes differs (COCO's 91). A training configuration names the folder as ``init``.

==============================================  ==================================================
transformers                                    here
==============================================  ==================================================
``model.backbone.conv_encoder.model``           ``backbone.body`` (timm's names, or transformers')
``model.input_proj``                            ``projection.layers``
``model.encoder.layers``, ``.decoder.layers``   ``encoder``, ``decoder``
``q_proj``, ``k_proj``, ``v_proj``              one ``in_proj``
``model.query_position_embeddings``             ``query_embed``
``bbox_embed``, ``class_embed``                 ``box_heads``, ``class_heads``
the same of two-stage models, last entry        ``dense_box``, ``dense_class``
``model.enc_output``, ``enc_output_norm``       ``dense_norm``
==============================================  ==================================================
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rise_perception.core.errors import ModelError
from rise_perception.core.json_files import read_json
from rise_perception.network.build import Network
from rise_perception.network.card import CARD, WEIGHTS
from rise_perception.network.checkpoint import load_model
from rise_perception.network.config import REPRESENTATIONS
from rise_perception.network.representation import adapt_first_weights

#: Parts that must fit whole. Every other part is taken where it fits whole, and else stays as it is.
_CORE = ("backbone", "projection", "level_embed", "encoder", "decoder", "box_heads", "pyramid")

#: The foreground network of an input representation with M.
_FOREGROUND = "backbone.represent."

#: Keys of NetworkConfig that decide the core of ``rise``, and what transformers calls them. Heads and points
#: could differ without any shape that shows it.
_SHAPE = {
    "width": "d_model",
    "levels": "num_feature_levels",
    "heads": "encoder_attention_heads",
    "points": "encoder_n_points",
    "encoder_layers": "encoder_layers",
    "decoder_layers": "decoder_layers",
    "feedforward": "encoder_ffn_dim",
}

#: What this network computes, and transformers only by default.
_FIXED = {"position_embedding_type": "sine", "activation_function": "relu", "dilation": False}

#: From the names of transformers to ours; each pattern is tried in turn.
_RENAMES = [
    (r"^model\.backbone\.(conv_encoder\.)?model\.(_backbone\.)?", "backbone.body."),
    (r"^(backbone\.body\.)embedder\.embedder\.convolution", r"\1conv1"),
    (r"^(backbone\.body\.)embedder\.embedder\.normalization", r"\1bn1"),
    (r"\.layer\.0\.convolution", ".conv1"),
    (r"\.layer\.0\.normalization", ".bn1"),
    (r"\.layer\.1\.convolution", ".conv2"),
    (r"\.layer\.1\.normalization", ".bn2"),
    (r"\.layer\.2\.convolution", ".conv3"),
    (r"\.layer\.2\.normalization", ".bn3"),
    (r"\.shortcut\.convolution", ".downsample.0"),
    (r"\.shortcut\.normalization", ".downsample.1"),
    (r"^(?:model\.decoder\.)?bbox_embed\.", "box_heads."),
    (r"^(?:model\.decoder\.)?class_embed\.", "class_heads."),
    (r"^model\.(encoder|decoder)\.layers\.", r"\1."),
    (r"^model\.input_proj\.", "projection.layers."),
    (r"^model\.query_position_embeddings\.", "query_embed."),
    (r"^model\.enc_output\.", "dense_norm.0."),
    (r"^model\.enc_output_norm\.", "dense_norm.1."),
    (r"^model\.", ""),
    (r"^(encoder\.\d+\.)self_attn_layer_norm", r"\1norm"),
    (r"^(decoder\.\d+\.)self_attn_layer_norm", r"\1self_norm"),
    (r"\.encoder_attn_layer_norm\.", ".cross_norm."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.(?:mlp\.)?(fc[12])\.", r".feedforward.\1."),
    (r"\.final_layer_norm\.", ".feedforward.norm."),
    (r"\.self_attn\.o_proj\.", ".self_attn.out_proj."),
]


def initialise(network: Network, source: str | Path) -> list[str]:
    """Load what fits of other weights into ``network``, in place.

    A network's first convolution also starts one that sees more: what is new, such as depth, begins without
    effect (:func:`rise_perception.network.representation.adapt_first_weights`).
    A checkpoint without box refinement has one box head that sees each query's first point; here it becomes
    the first layer's, and the later layers start by keeping its boxes.

    Args:
        network: the network to start.
        source: folder of a model of this package with the same architecture, or (for ``rise``) folder, or
            ``model.safetensors`` in it, of a Deformable DETR checkpoint of transformers.

    Returns:
        names of the parts that stay as they are.

    Raises:
        ModelError: the source is missing, damaged or pickled, or its core is another network; nothing was
            loaded.
    """
    folder = Path(source).parent if Path(source).is_file() else Path(source)
    seen = "rgb"
    if (folder / CARD).is_file():
        other, card = load_model(folder)
        seen = card.network.input
        keys = ("architecture", "encoder", *(_SHAPE if card.network.architecture == "rise" else ()))
        state, shape = other.state_dict(), {key: getattr(card.network, key) for key in keys}
    else:
        state, shape = _read_transformers(folder)
    for key, value in shape.items():
        own = getattr(network.config, key)
        if own != value:
            raise ModelError(
                f"{folder} has {key} {value} and network.{key} is {own}; make them equal to start from it"
            )
    return _adopt(network, state, folder, seen)


def _adopt(network: Network, state: dict[str, Tensor], folder: Path, seen: str) -> list[str]:
    own = network.state_dict()
    first = _first_convolution(own, len(REPRESENTATIONS[network.config.input]))
    if first in state and network.config.input != seen:
        state[first] = adapt_first_weights(state[first], seen, network.config.input)
    # A foreground network goes along where both have one; where the source has none, it is trained later.
    for name in [n for n in own.keys() | state.keys() if n.startswith(_FOREGROUND)]:
        if name not in own or name not in state or own[name].shape != state[name].shape:
            state.pop(name, None)
            own.pop(name, None)
    misfits: dict[str, list[str]] = {}
    for name in sorted(own.keys() | state.keys()):
        if name.endswith("num_batches_tracked"):
            continue  # frozen norms have none
        if name not in state or name not in own or state[name].shape != own[name].shape:
            there = tuple(state[name].shape) if name in state else "absent"
            here = tuple(own[name].shape) if name in own else "absent"
            misfits.setdefault(name.split(".")[0], []).append(f"{name} is {there}, the network's is {here}")
    problems = [problem for part in _CORE for problem in misfits.get(part, [])]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ModelError(
            f"{folder} does not fit network.backbone {network.config.backbone!r} and its transformer: "
            f"{'; '.join(problems[:3])}{more}; configure the network that the weights are of"
        )
    network.load_state_dict({n: t for n, t in state.items() if n.split(".")[0] not in misfits}, strict=False)
    return sorted(misfits.keys() & {n.split(".")[0] for n in own})


def _first_convolution(state: dict[str, Tensor], channels: int) -> str:
    """Name of the weight that sees the image: the body's first of four dimensions."""
    names = [n for n, t in state.items() if n.startswith("backbone.body.") and t.ndim == 4]
    return next((n for n in names if state[n].shape[1] == channels), "")


def _read_transformers(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights under our names, and the values of ``_SHAPE``."""
    config = _read_config(folder / "config.json")
    path = folder / WEIGHTS
    if not path.is_file():
        pickled = sorted(p.name for p in folder.glob("*.bin"))
        remedy = (
            f"{pickled[0]} is a pickle, which is never loaded: write the safetensors with transformers' "
            "from_pretrained and save_pretrained"
            if pickled
            else "copy it there"
        )
        raise ModelError(f"{folder} has no {WEIGHTS}; {remedy}")
    try:
        theirs = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read as safetensors ({error}); copy it again") from error
    state = {_rename(name): tensor.float() for name, tensor in theirs.items()}
    layers = config["decoder_layers"]
    _join_projections(state, layers)
    _spread_heads(state, layers, refined=config["with_box_refine"])
    if config["two_stage"]:
        for theirs_name, ours in (
            (f"box_heads.{layers}.", "dense_box."),
            (f"class_heads.{layers}.", "dense_class."),
        ):
            for name in [n for n in state if n.startswith(theirs_name)]:
                state[ours + name.removeprefix(theirs_name)] = state.pop(name)
    return state, {"architecture": "rise", "encoder": "deformable"} | {
        ours: config[name] for ours, name in _SHAPE.items()
    }


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(
            f"{path.parent} is no model: it has neither {CARD} nor config.json; give the folder of a model, "
            "or of a Deformable DETR checkpoint of transformers"
        )
    try:
        # A configuration that transformers writes may leave out what has its default value.
        content = read_json(path, error=ModelError, remedy="copy it again")
        config = {"with_box_refine": False, "two_stage": False, **_FIXED, **content}
    except TypeError as error:
        raise ModelError(f"{path} is no JSON mapping ({error}); copy it again") from error
    if config.get("model_type") != "deformable_detr":
        raise ModelError(
            f"{path} has model_type {config.get('model_type')!r}; only 'deformable_detr' can be converted"
        )
    missing = [name for name in _SHAPE.values() if name not in config]
    if missing:
        raise ModelError(f"{path} has no {missing[0]!r}; copy it again")
    for name, value in _FIXED.items():
        if config[name] != value:
            raise ModelError(f"{path} has {name} {config[name]!r}; only {value!r} can be converted")
    if config["num_feature_levels"] == 1:
        raise ModelError(
            f"{path} has one feature level, C5; this network starts at C3: take a multi-scale checkpoint"
        )
    return config


def _rename(name: str) -> str:
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    # transformers' ResNet counts its stages from 0, timm's layers from 1.
    return re.sub(
        r"^(backbone\.body\.)encoder\.stages\.(\d+)\.layers\.", lambda m: f"{m[1]}layer{int(m[2]) + 1}.", name
    )


def _join_projections(state: dict[str, Tensor], layers: int) -> None:
    """Queries, keys and values of the decoder's self-attention are one matrix here."""
    for layer in range(layers):
        for kind in ("weight", "bias"):
            names = [f"decoder.{layer}.self_attn.{part}_proj.{kind}" for part in "qkv"]
            if all(name in state for name in names):
                state[f"decoder.{layer}.self_attn.in_proj_{kind}"] = torch.cat([state.pop(n) for n in names])


def _spread_heads(state: dict[str, Tensor], layers: int, refined: bool) -> None:
    """Give every layer heads of its own where the checkpoint shares the first ones."""
    for name in [n for n in state if re.match(r"(box|class)_heads\.0\.", n)]:
        part, _, rest = name.split(".", 2)
        for layer in range(1, layers):
            state.setdefault(f"{part}.{layer}.{rest}", state[name].clone())
            if part == "box_heads" and not refined and rest.startswith("layers.2."):
                state[f"{part}.{layer}.{rest}"] = torch.zeros_like(state[name])
