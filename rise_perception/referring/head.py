"""The referring head: instances read the words, and say how likely each of them, or none, is meant.

    pi = softmax over instances and null of (log prior + what three layers of attention add)
    P(x) = sigmoid(logit(sum_i pi_i m_i(x)) + r(x))

m_i is the instance's soft mask on the scene's grid, r a residual that a small convolution draws from the
picture. Untrained, the head repeats the prior: its last layers start at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rise_perception.core.errors import require
from rise_perception.language.meaning import Meaning
from rise_perception.language.phrase import Phrase
from rise_perception.language.vocabulary import COLOURS, KINDS, RELATIONS, SUPERLATIVES, THING
from rise_perception.referring.scene import MEASURES, PICTURE, Scene

#: What a phrase is written down in for the text encoder; number 0 is padding, a bracket closes an anchor.
SYMBOLS = ("", THING, *KINDS, *COLOURS, *SUPERLATIVES, *RELATIONS, ")")
MAX_SYMBOLS = 32
#: Values of the prior of an instance (fits, unique, said), and of null (none, several, said).
PRIOR = 3
#: Probabilities of the prior below this count as this.
_LEAST = 1e-3


@dataclass(frozen=True)
class HeadConfig:
    """Sizes of the referring head.

    Attributes:
        crop: width of the crop encoder's vectors.
        embedding: width of the segmenter's embeddings; 0 leaves them out.
        width: channels of instances and words.
        heads: attention heads.
        layers: of instances that read words and each other.
        text_layers: of words that read each other.
        residual: channels of the residual's convolution; 0 leaves it out.
        text_features: width of a pretrained text encoder's vectors; 0 trains one from scratch.
        dropout: in all attention.
    """

    crop: int = 96
    embedding: int = 64
    width: int = 96
    heads: int = 4
    layers: int = 3
    text_layers: int = 2
    residual: int = 8
    text_features: int = 0
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("crop", "width", "heads", "layers"):
            require(getattr(self, name) >= 1, f"head.{name}", getattr(self, name), "at least 1")
        for name in ("embedding", "text_layers", "residual", "text_features"):
            require(getattr(self, name) >= 0, f"head.{name}", getattr(self, name), "0 or more")
        require(self.width % self.heads == 0, "head.width", self.width, f"a multiple of {self.heads} heads")
        require(0 <= self.dropout < 1, "head.dropout", self.dropout, "in [0, 1)")


@dataclass(frozen=True)
class Questions:
    """B sentences with their scenes, padded to N instances and L words.

    Attributes:
        items: (B, N, crop + 8 + measures + embedding) float32.
        present: (B, N) bool, False for padding.
        words: (B, L) int64 symbols, 0 = padding; or (B, L, text_features) float32.
        spoken: (B, L) bool, False for padding.
        prior: (B, N, 3) float32: probability that the sentence fits the instance, and that it fits it alone;
            1 where there is a prior.
        null: (B, 3) float32: probability that it fits none, and several; 1 where there is a prior.
        masks: (B, N, h, w) float32 in [0, 1].
        picture: (B, 4, h, w) float32.
    """

    items: Tensor
    present: Tensor
    words: Tensor
    spoken: Tensor
    prior: Tensor
    null: Tensor
    masks: Tensor
    picture: Tensor


class ReferringHead(nn.Module):
    """See the module."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        inputs = config.crop + len(KINDS) + MEASURES + config.embedding
        self.item = nn.Sequential(nn.Linear(inputs + PRIOR, width), nn.ReLU(), nn.Linear(width, width))
        self.nobody = nn.Linear(PRIOR, width)
        if config.text_features:
            self.text: nn.Module = nn.Linear(config.text_features, width)
        else:
            self.text = nn.Embedding(len(SYMBOLS), width, padding_idx=0)
        self.place = nn.Parameter(0.02 * torch.randn(MAX_SYMBOLS, width))
        self.read = nn.ModuleList(
            nn.TransformerEncoderLayer(width, config.heads, 2 * width, config.dropout, batch_first=True)
            for _ in range(config.text_layers)
        )
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(width, config.heads, 2 * width, config.dropout, batch_first=True)
            for _ in range(config.layers)
        )
        self.score = nn.Linear(width, 1)
        self.trust = nn.Parameter(torch.ones(()))
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)
        if config.residual:
            self.see = nn.Conv2d(PICTURE + 2, config.residual, 3, padding=1)
            self.draw = nn.Conv2d(config.residual, 1, 3, padding=1)
            self.listen = nn.Linear(width, config.residual)
            nn.init.zeros_(self.draw.weight)
            assert self.draw.bias is not None
            nn.init.zeros_(self.draw.bias)

    def forward(self, asked: Questions, with_pixels: bool = False) -> tuple[Tensor, Tensor | None]:
        """Answer sentences.

        Args:
            asked: B sentences; without ``with_pixels`` their masks and pictures play no part.
            with_pixels: draw P, too.

        Returns:
            (B, N + 1) log of pi, null last, padding -inf; and (B, h, w) logits of P, or None.
        """
        words = self.text(asked.words) + self.place[: asked.words.shape[1]]
        for layer in self.read:
            words = layer(words, src_key_padding_mask=~asked.spoken)
        items = self.item(torch.cat([asked.items, asked.prior], -1))
        tokens = torch.cat([items, self.nobody(asked.null)[:, None]], 1)  # (B, N + 1, width)
        present = functional.pad(asked.present, (0, 1), value=True)
        for layer in self.layers:
            tokens = layer(
                tokens, words, tgt_key_padding_mask=~present, memory_key_padding_mask=~asked.spoken
            )
        logits = self.score(tokens)[..., 0] + self.trust * prior_logits(asked)
        logs = logits.masked_fill(~present, -torch.inf).log_softmax(-1)
        return logs, self._pixels(logs, tokens[:, -1], asked) if with_pixels else None

    def _pixels(self, logs: Tensor, sentence: Tensor, asked: Questions) -> Tensor:
        """(B, h, w) logits of P."""
        mixed = torch.einsum("bn,bnhw->bhw", logs[:, :-1].exp(), asked.masks).clamp(1e-3, 1 - 1e-3)
        pixels = torch.logit(mixed)
        if self.config.residual:
            anything = asked.masks.sum(1).clamp(0, 1)
            seen = self.see(torch.cat([asked.picture, mixed[:, None], anything[:, None]], 1))
            seen = functional.relu(seen + self.listen(sentence)[..., None, None])
            pixels = pixels + self.draw(seen)[:, 0]
        return pixels


def prior_logits(asked: Questions) -> Tensor:
    """(B, N + 1) log of the prior, null last; 0 where there is none."""
    alone = asked.prior[..., 1].clamp(_LEAST, 1).log() * asked.prior[..., 2]
    none = asked.null[:, :1].clamp(_LEAST, 1).log() * asked.null[:, 2:]
    return torch.cat([alone, none], 1)


def write_down(phrase: Phrase) -> list[int]:
    """A phrase as numbers of :data:`SYMBOLS`, at most MAX_SYMBOLS: superlative, colour, kind, relations."""
    said = [phrase.superlative, phrase.colour, phrase.kind]
    numbers = [SYMBOLS.index(word) for word in said if word]
    for relation in phrase.relations:
        numbers += [SYMBOLS.index(relation.name), *write_down(relation.anchor), SYMBOLS.index(")")]
    return numbers[:MAX_SYMBOLS]


@dataclass(frozen=True)
class Question:
    """One sentence about one scene, not yet padded.

    Attributes:
        scene: the instances.
        items: (N, crop + 8) float32, vectors and kinds of the crop encoder.
        words: (L,) int64 symbols, or (L, text_features) float32.
        prior: what a prior says, or None.
    """

    scene: Scene
    items: np.ndarray
    words: np.ndarray
    prior: Meaning | None


def collate(questions: Sequence[Question], embedding: int, with_pixels: bool = False) -> Questions:
    """Pad questions into a batch; their scenes' grids may differ, too.

    Args:
        questions: at least one.
        embedding: width of the segmenter's embeddings that the head reads; others are cut or filled up.
        with_pixels: fill in masks and pictures; otherwise their grid has one cell, which is empty.
    """
    count = len(questions)
    most = max(1, *(len(q.scene) for q in questions))
    length = max(1, *(len(q.words) for q in questions))
    height = width = 1
    if with_pixels:
        height = max(q.scene.picture.shape[1] for q in questions)
        width = max(q.scene.picture.shape[2] for q in questions)
    inputs = questions[0].items.shape[1] + MEASURES + embedding
    items = np.zeros((count, most, inputs), np.float32)
    masks = np.zeros((count, most, height, width), np.float32)
    picture = np.zeros((count, PICTURE, height, width), np.float32)
    words = np.zeros((count, length, *questions[0].words.shape[1:]), questions[0].words.dtype)
    prior, null = np.zeros((count, most, PRIOR), np.float32), np.zeros((count, PRIOR), np.float32)
    present, spoken = np.zeros((count, most), bool), np.zeros((count, length), bool)
    for row, q in enumerate(questions):
        n, (h, w) = len(q.scene), q.scene.picture.shape[1:]
        own = q.scene.embeddings[:, :embedding]
        known = np.concatenate([q.items, q.scene.measures(), own], 1)
        items[row, :n, : known.shape[1]] = known
        if with_pixels:
            masks[row, :n, :h, :w] = q.scene.masks.astype(np.float32) / 255
            picture[row, :, :h, :w] = (q.scene.picture.astype(np.float32) - 128) / 64
        words[row, : len(q.words)] = q.words
        present[row, :n], spoken[row, : max(1, len(q.words))] = True, True
        if q.prior is not None:
            prior[row, :n] = np.stack([q.prior.fits, q.prior.unique, np.ones(n)], 1)
            null[row] = q.prior.none, q.prior.several, 1
    return Questions(
        *(torch.from_numpy(a) for a in (items, present, words, spoken, prior, null, masks, picture))
    )
