"""A sentence's meaning as a tree: an item of some kind and colour, perhaps the most extreme, in relations."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rise_perception.language.vocabulary import THING


@dataclass(frozen=True)
class Phrase:
    """What is said of one item.

    Attributes:
        kind: one of :data:`~rise_perception.language.vocabulary.KINDS`, or ``thing`` for any.
        colour: one of :data:`~rise_perception.language.vocabulary.COLOURS`, or None.
        superlative: one of :data:`~rise_perception.language.vocabulary.SUPERLATIVES` among all that the
            rest of the phrase fits, or None.
        relations: to other items; all of them hold.
        noun: the word or catalogue name that was used.
    """

    kind: str = THING
    colour: str | None = None
    superlative: str | None = None
    relations: tuple[Relation, ...] = ()
    noun: str = THING

    def __str__(self) -> str:
        words = ["the", self.superlative, self.colour, self.noun]
        text = " ".join(word for word in words if word)
        relations = " and ".join(f"{relation.name} {relation.anchor}" for relation in self.relations)
        return f"{text} {relations}" if relations else text

    @property
    def parts(self) -> tuple[Phrase, ...]:
        """This phrase and those of its anchors, at any depth."""
        return (self, *(part for relation in self.relations for part in relation.anchor.parts))

    @property
    def plain(self) -> Phrase:
        """The same with kinds for nouns: without synonyms and without names of a catalogue."""
        relations = tuple(replace(relation, anchor=relation.anchor.plain) for relation in self.relations)
        return replace(self, noun=self.kind, relations=relations)


@dataclass(frozen=True)
class Relation:
    """How an item lies to another one.

    Attributes:
        name: one of :data:`~rise_perception.language.vocabulary.RELATIONS`.
        anchor: the other item.
    """

    name: str
    anchor: Phrase
