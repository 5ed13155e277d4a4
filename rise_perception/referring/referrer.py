"""Sentences about a segmented image, answered: the class that the command line and the node use.

>>> referrer = Referrer.load()
>>> view = referrer.look(image, depth, segmenter(image, depth))
>>> referrer.answer(view, "the blue cup behind the box").status
<Status.FOUND: 0>
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rise_perception.core.errors import ModelError
from rise_perception.core.instances import Instances
from rise_perception.core.resources import find
from rise_perception.language.catalogue import Catalogue
from rise_perception.language.parser import parse
from rise_perception.language.phrase import Phrase
from rise_perception.language.vocabulary import NotUnderstood
from rise_perception.network.card import CARD
from rise_perception.referring.answer import Referral, Thresholds, decide, not_understood
from rise_perception.referring.crop_encoder import kind_probabilities
from rise_perception.referring.descriptors import describe
from rise_perception.referring.head import Question, Questions, collate, write_down
from rise_perception.referring.model import ReferringCard, ReferringModel, load_referring_model
from rise_perception.referring.priors import Asked, Prior, grammar_prior
from rise_perception.referring.scene import Scene, make_scene
from rise_perception.referring.text import TextEncoder

#: The model that serves ``auto``, and what stands for "no model": the grammar alone answers.
AUTO, NO_MODEL = "rise_refer_small", "none"


@dataclass(frozen=True)
class View:
    """An image that can be asked about.

    Attributes:
        name: of the image; priors out of files look it up.
        image: (H, W, 3) uint8 RGB.
        instances: of the segmenter.
        scene: what was measured of them.
        items: (N, crop + 8) float32, vectors and kinds of the crop encoder; (N, 0) without a model.
    """

    name: str
    image: np.ndarray
    instances: Instances
    scene: Scene
    items: np.ndarray


class Referrer:
    """Answers sentences by a referring model and a prior, or by the prior alone.

    Args:
        model: crop encoder and head, or None.
        card: of the model.
        prior: what the head starts from, or what answers alone.
        catalogue: a user's own names.
    """

    def __init__(
        self,
        model: ReferringModel | None = None,
        card: ReferringCard | None = None,
        prior: Prior = grammar_prior,
        catalogue: Catalogue | None = None,
    ) -> None:
        self._model, self._card, self._prior, self._catalogue = model, card, prior, catalogue
        self._device = next(model.parameters()).device if model is not None else torch.device("cpu")
        self._text = TextEncoder(Path(card.referring.text)) if card and card.referring.text else None
        self.thresholds = card.thresholds if card else Thresholds()

    @classmethod
    def load(
        cls,
        model: str | Path = "auto",
        device: str = "cpu",
        prior: Prior = grammar_prior,
        catalogue: Catalogue | None = None,
    ) -> Referrer:
        """Load a model.

        Args:
            model: a folder, the name of a shipped one, ``auto``: the shipped one, or the prior alone where
                none ships; or ``none``: the prior alone answers.
            device: where crops and words are looked at.
            prior: what the head starts from.
            catalogue: a user's own names.

        Raises:
            ModelError: no such model, or it is damaged.
        """
        if str(model) == NO_MODEL or (str(model) == "auto" and not (find("models") / AUTO / CARD).is_file()):
            return cls(prior=prior, catalogue=catalogue)
        loaded, card = load_referring_model(find_referring_model(model), device)
        return cls(loaded, card, prior, catalogue)

    @property
    def version(self) -> str:
        """Of the model; ``grammar`` without one."""
        return self._card.version if self._card else "grammar"

    @torch.inference_mode()
    def look(self, image: np.ndarray, depth: np.ndarray | None, instances: Instances, name: str = "") -> View:
        """Measure the instances of an image and recognise their kinds; sentences are then cheap.

        Args:
            image: (H, W, 3) uint8 RGB.
            depth: (H, W) float32 metres registered to it, 0 = none; or None.
            instances: what a segmenter found in it.
            name: file name of the image, for priors out of files.
        """
        scene = make_scene(image, depth, instances, with_pixels=False)
        if self._model is None:
            return View(name, image, instances, scene, np.zeros((len(scene), 0), np.float32))
        scene, items = encode(self._model, scene, self._device)
        return View(name, image, instances, scene, items)

    def answer(self, view: View, sentence: str) -> Referral:
        """Answer one sentence about an image; never raises for what a person says."""
        try:
            phrase = parse(sentence, self._catalogue)
        except NotUnderstood as error:
            if self._text is None or error.unknown == () or not sentence.isascii():
                return not_understood(str(error), view.instances)
            phrase = Phrase()  # a pretrained text encoder may know words that the grammar does not
        asked = Asked(view.name, view.image, view.scene, sentence, phrase)
        said = str(phrase)
        if not len(view.scene):
            return decide(np.ones(1), self.thresholds, view.instances, said)
        belief = self._prior(asked)
        if self._model is None:
            if belief is None:
                return not_understood("no prior and no model says anything about it", view.instances)
            chances = np.append(belief.unique, belief.none)
            return decide(chances, self.thresholds, view.instances, said, belief)
        words = self._text(sentence) if self._text else np.array(write_down(phrase), np.int64)
        question = Question(view.scene, view.items, words, belief)
        return decide(self._chances(question), self.thresholds, view.instances, said, belief)

    @torch.inference_mode()
    def _chances(self, question: Question) -> np.ndarray:
        assert self._model is not None
        asked = collate([question], self._model.config.head.embedding)
        logs, _ = self._model.head(Questions(*(t.to(self._device) for t in vars(asked).values())))
        return logs[0].exp().double().cpu().numpy()


def encode(
    model: ReferringModel, scene: Scene, device: torch.device, described: np.ndarray | None = None
) -> tuple[Scene, np.ndarray]:
    """Let the crop encoder look at a scene's instances.

    Args:
        model: whose encoder it is.
        scene: the instances.
        device: of the model.
        described: (N, LENGTH) float32 descriptors of the crops, where they are known already.

    Returns:
        the scene with kinds, and (N, crop + 8) float32 vectors and kinds.
    """
    if not len(scene):
        width = model.config.head.crop
        return scene.with_kinds(np.zeros((0, 8), np.float32)), np.zeros((0, width + 8), np.float32)
    described = describe(scene.crops) if described is None else described
    vectors, logits = model.encoder(torch.from_numpy(described).to(device))
    kinds = kind_probabilities(logits)
    items = torch.cat([vectors, kinds], 1).float().cpu().numpy()
    return scene.with_kinds(items[:, vectors.shape[1] :]), items


def find_referring_model(model: str | Path) -> Path:
    """Folder of a model given by path, by the name of a shipped one, or by ``auto``.

    Raises:
        ModelError: neither exists.
    """
    name = AUTO if str(model) == "auto" else model
    for folder in (Path(name), find("models") / name):
        if (folder / CARD).is_file():
            return folder
    raise ModelError(
        f"referring model {str(name)!r} is no folder with a {CARD} and no shipped model; "
        f"give a folder, or {NO_MODEL} for the grammar alone"
    )
