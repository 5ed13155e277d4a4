"""Sentences about a scene whose items are known, such that each fits exactly one item, none, or several.

A sentence that fits nowhere in a scene is always one that fits in another: asked only where it is wrong, its
wording alone would give the answer away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rise_perception.language.meaning import resolve
from rise_perception.language.phrase import Phrase, Relation
from rise_perception.language.things import Things
from rise_perception.language.vocabulary import (
    COLOUR_WORDS,
    COLOURS,
    KINDS,
    NOUNS,
    RELATION_WORDS,
    RELATIONS,
    SIDE_WORDS,
    SUPERLATIVE_WORDS,
    SUPERLATIVES,
    THING,
)

#: A phrase is used where its fits are certain: each probability is above or below these.
YES, NO = 0.8, 0.2
_NOUNS_OF = {kind: [noun for noun, of in NOUNS.items() if of == kind] for kind in (THING, *KINDS)}
_COLOURS_OF = {name: [word for word, of in COLOUR_WORDS.items() if of == name] for name in COLOURS}
_SUPERLATIVES_OF = {n: [word for word, of in SUPERLATIVE_WORDS.items() if of == n] for n in SUPERLATIVES}
_SIDES_OF = {n: [" ".join(words) for words, of in SIDE_WORDS if of == n] for n in SUPERLATIVES}
_RELATIONS_OF = {n: [" ".join(words) for words, of in RELATION_WORDS if of == n] for n in RELATIONS}
_REQUESTS = ("", "", "", "", "pick up ", "give me ", "please take ", "find ", "where is ")
#: Tries for each sentence that is wanted.
_TRIES = 30


@dataclass(frozen=True)
class Saying:
    """A sentence about one scene.

    Attributes:
        sentence: the words.
        phrase: their meaning.
        items: indices of the items that it fits: one, none, or several.
    """

    sentence: str
    phrase: Phrase
    items: tuple[int, ...]


def fitting(phrase: Phrase, things: Things) -> tuple[int, ...] | None:
    """Indices of the items that a phrase certainly fits; None where that is a matter of opinion."""
    fits = resolve(phrase, things).fits
    if ((fits > NO) & (fits < YES)).any():
        return None
    # A superlative whose first two are close together leaves small fits: that is doubt, not absence.
    if phrase.superlative and not (fits >= YES).any():
        rest = Phrase(phrase.kind, phrase.colour, None, phrase.relations)
        if (resolve(rest, things).fits > NO).any():
            return None
    # The article promises that there is one such anchor.
    for said in phrase.relations:
        anchors = fitting(said.anchor, things)
        if anchors is None or len(anchors) > 1:
            return None
    return tuple(np.flatnonzero(fits >= YES).tolist())


def describe(rng: np.random.Generator, things: Things, seen: np.ndarray, wanted: int) -> list[Saying]:
    """Sentences that each fit exactly one item, and, up to a sixth of them, several.

    Args:
        rng: what is said, and in which words.
        things: the items, with ``kinds`` known: each row 1 at the item's kind, or 0 for one without a name.
        seen: (N,) bool, items that are spoken about; others are only there to be told apart.
        wanted: number of sentences; fewer come where the scene has not so many to say.
    """
    targets = np.flatnonzero(seen)
    found: dict[str, Saying] = {}
    several = 0
    for _ in range(_TRIES * wanted if len(targets) else 0):
        if len(found) == wanted:
            break
        item = int(rng.choice(targets))
        phrase = _phrase(rng, things, item, targets)
        items = fitting(phrase, things)
        if not items or item not in items or not seen[list(items)].all():
            continue
        if len(items) > 1:
            if several >= wanted // 6:
                continue
            several += 1
        sentence = put_in_words(rng, phrase)
        found.setdefault(sentence, Saying(sentence, phrase, items))
    return list(found.values())


def refuse(rng: np.random.Generator, things: Things, others: Sequence[Saying], wanted: int) -> list[Saying]:
    """Sentences of other scenes that fit no item of this one.

    Args:
        rng: which ones.
        things: the items of this scene, as in :func:`describe`.
        others: what fits in other scenes.
        wanted: number of sentences.
    """
    found: dict[str, Saying] = {}
    for _ in range(_TRIES * wanted if others else 0):
        if len(found) == wanted:
            break
        other = others[int(rng.integers(len(others)))]
        if fitting(other.phrase, things) == ():
            found.setdefault(other.sentence, Saying(other.sentence, other.phrase, ()))
    return list(found.values())


def put_in_words(rng: np.random.Generator, phrase: Phrase) -> str:
    """An English sentence with the meaning of a phrase."""
    return str(rng.choice(_REQUESTS)) + _say(rng, phrase, True)


def _say(rng: np.random.Generator, phrase: Phrase, first: bool) -> str:
    words, side = ["the"], ""
    if phrase.superlative and first and _SIDES_OF[phrase.superlative] and rng.random() < 0.3:
        side = str(rng.choice(_SIDES_OF[phrase.superlative]))
    elif phrase.superlative:
        words.append(_pick(rng, _SUPERLATIVES_OF[phrase.superlative]))
    if phrase.colour:
        words.append(_pick(rng, _COLOURS_OF[phrase.colour]))
    words.append(_pick(rng, _NOUNS_OF[phrase.kind]))
    words += [side] if side else []
    parts = [f"{_pick(rng, _RELATIONS_OF[r.name])} {_say(rng, r.anchor, False)}" for r in phrase.relations]
    return " ".join([*words, " and ".join(parts)]).strip()


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """The first and most usual word half of the time, any of them otherwise."""
    return options[0] if rng.random() < 0.5 else str(rng.choice(list(options)))


def _phrase(rng: np.random.Generator, things: Things, item: int, targets: np.ndarray) -> Phrase:
    """Something that may be said of an item."""
    kind, colour = _look(rng, things, item)
    superlative = str(rng.choice(SUPERLATIVES)) if rng.random() < 0.45 else None
    relations: tuple[Relation, ...] = ()
    others = targets[targets != item]
    if len(others) and rng.random() < (0.3 if superlative else 0.5):
        anchor = int(rng.choice(others))
        name = str(rng.choice(RELATIONS, p=(0.2, 0.2, 0.2, 0.2, 0.15, 0.05)))
        anchor_kind, anchor_colour = _look(rng, things, anchor)
        most = str(rng.choice(SUPERLATIVES)) if rng.random() < 0.15 else None
        relations = (Relation(name, Phrase(anchor_kind, anchor_colour, most)),)
    return Phrase(kind, colour, superlative, relations)


def _look(rng: np.random.Generator, things: Things, item: int) -> tuple[str, str | None]:
    """What an item may be called: its kind or "thing", its colour or nothing."""
    assert things.kinds is not None
    named = things.kinds[item].max() > YES and rng.random() < 0.6
    kind = KINDS[int(things.kinds[item].argmax())] if named else THING
    main = int(things.colours[item].argmax())
    colour = COLOURS[main] if things.colours[item, main] >= 0.6 and rng.random() < 0.65 else None
    return kind, colour
