"""From a sentence to a phrase, by recursive descent. What does not fit is refused with its reason.

    phrase    := request* part
    part      := article* (superlative | colour)* noun? side? (link? relation ("and"? link? relation)*)?
    relation  := relation words, part

A relation belongs to the item named last: in "the cup behind the box left of the can" the box is left of
the can. After "and" it belongs to the item that the relation before it was said of.
"""

from __future__ import annotations

from collections.abc import Sequence

from rise_perception.language.catalogue import Catalogue
from rise_perception.language.phrase import Phrase, Relation
from rise_perception.language.vocabulary import (
    ARTICLES,
    COLOUR_WORDS,
    KINDS,
    LINKS,
    NOUNS,
    RELATION_WORDS,
    REQUESTS,
    SIDE_WORDS,
    SUPERLATIVE_WORDS,
    SURROUNDINGS,
    THING,
    NotUnderstood,
    check_words,
    split_words,
)

#: Deepest chain of relations ("the cup behind the box left of the can" has 2).
MAX_DEPTH = 4


def parse(sentence: str, catalogue: Catalogue | None = None) -> Phrase:
    """The meaning of an English sentence that names one item.

    Args:
        sentence: such as "the blue cup behind the box".
        catalogue: further names.

    Raises:
        NotUnderstood: with what stands in the way.
    """
    words = split_words(sentence)
    parser = _Parser(words, catalogue or {})
    check_words(parser.foreign())
    return parser.sentence()


class _Parser:
    def __init__(self, words: tuple[str, ...], catalogue: Catalogue) -> None:
        self.words, self.catalogue = words, catalogue
        self.names = sorted(catalogue, key=lambda name: -len(name))
        self.at = 0

    def foreign(self) -> tuple[str, ...]:
        """The words that belong to no name of the catalogue."""
        left: list[str] = []
        while self.at < len(self.words):
            if self._name() is None:
                left.append(self.words[self.at])
                self.at += 1
        self.at = 0
        return tuple(left)

    def sentence(self) -> Phrase:
        while self._any(REQUESTS):
            pass
        phrase = self._part(0)
        self._any((("please",),))
        if self.at < len(self.words):
            raise NotUnderstood(
                f"{' '.join(self.words[self.at :])!r} is not understood after {str(phrase)!r}; known are "
                'sentences like "the largest red box left of the cup"'
            )
        return phrase

    def _part(self, depth: int) -> Phrase:
        if depth > MAX_DEPTH:
            raise NotUnderstood(f"the sentence chains more than {MAX_DEPTH} relations; say it with fewer")
        start = self.at
        while self._word(ARTICLES):
            pass
        superlative = colour = None
        while (word := self._next()) in SUPERLATIVE_WORDS or word in COLOUR_WORDS:
            self.at += 1
            if word in SUPERLATIVE_WORDS:
                superlative = self._only(superlative, SUPERLATIVE_WORDS[word], "superlatives")
            else:
                colour = self._only(colour, COLOUR_WORDS[word], "colours")
        kind, noun, named = THING, THING, False
        name = self._name()
        if name is not None:
            own, kind = self.catalogue[name]
            colour, noun, named = colour or own, " ".join(name), True
        elif (word := self._next()) in NOUNS:
            kind, noun, named = NOUNS[word], word, True
            self.at += 1
        if not named and colour is None and superlative is None:
            found = self._next()
            raise NotUnderstood(
                f"an item is expected {f'at {found!r}' if found else 'at the end'} of "
                f"{' '.join(self.words)!r}; say what it is: a {', '.join((THING, *KINDS))}"
            )
        side = self._side()
        if side:
            superlative = self._only(superlative, side, "superlatives")
        relations = self._relations(depth, self.words[start : self.at])
        return Phrase(kind, colour, superlative, relations, noun)

    def _relations(self, depth: int, said: Sequence[str]) -> tuple[Relation, ...]:
        found: list[Relation] = []
        while True:
            before = self.at
            if found and not self._word(("and",)):
                break
            self._any(LINKS)
            name = self._relation()
            if name is None:
                self.at = before
                break
            if self._surroundings():
                continue
            found.append(Relation(name, self._part(depth + 1)))
        return tuple(found)

    def _relation(self) -> str | None:
        for words, name in RELATION_WORDS:
            if self._take(words):
                return name
        return None

    def _surroundings(self) -> bool:
        """Where all items are: the words "the tote" after "in"."""
        before = self.at
        while self._word(ARTICLES):
            pass
        if self._word(SURROUNDINGS):
            return True
        self.at = before
        return False

    def _side(self) -> str | None:
        """A superlative after the noun: "on the left", unless "of" follows."""
        for words, name in SIDE_WORDS:
            before = self.at
            if self._take(words):
                if self._next() in ("of", "side"):
                    self.at = before
                    return None
                return name
        return None

    def _name(self) -> tuple[str, ...] | None:
        return next((name for name in self.names if self._take(name)), None)

    def _only(self, before: str | None, now: str, what: str) -> str:
        if before is not None and before != now:
            raise NotUnderstood(f"{before!r} and {now!r} are two {what} of one item; one is understood")
        return now

    def _next(self) -> str:
        return self.words[self.at] if self.at < len(self.words) else ""

    def _word(self, known: Sequence[str] | frozenset[str]) -> bool:
        if self._next() in known and self._next():
            self.at += 1
            return True
        return False

    def _any(self, options: Sequence[tuple[str, ...]]) -> bool:
        return any(self._take(words) for words in options)

    def _take(self, words: tuple[str, ...]) -> bool:
        if self.words[self.at : self.at + len(words)] == words:
            self.at += len(words)
            return True
        return False
