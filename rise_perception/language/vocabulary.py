"""The words that are understood, and what each stands for."""

from __future__ import annotations

import difflib
import re
import unicodedata
from types import MappingProxyType

from rise_perception.core.errors import RiseError

#: Longest sentence that is looked at; a person's are far shorter.
MAX_CHARACTERS, MAX_WORDS = 300, 40

THING = "thing"
#: Kinds that can be named beside :data:`THING`, in the order of a kind classifier's outputs.
KINDS = ("box", "can", "cup", "ball", "bag", "stick", "toy", "ring")
#: Word -> kind. A word that is narrower than its kind (a bottle is a can here) is understood as the kind.
NOUNS = MappingProxyType(
    {
        word: kind
        for kind, words in {
            THING: "thing item object one piece product article",
            "box": "box carton package packet parcel book case",
            "can": "can tin bottle tube cylinder jar flask",
            "cup": "cup mug bowl glass beaker",
            "ball": "ball sphere lump globe",
            "bag": "bag pouch sack cloth sachet",
            "stick": "stick pen pencil tool rod scissors brush screwdriver",
            "toy": "toy figure animal doll",
            "ring": "ring roll tape hoop",
        }.items()
        for word in words.split()
    }
)
#: Kind of shape in the tote world -> what people call it; a shape that is missing has no name of its own.
KIND_OF_SHAPE = {
    shape: kind
    for kind, shapes in {
        "box": "box book blister",
        "can": "can bottle tube",
        "cup": "mug cup bowl",
        "ball": "ball",
        "bag": "bag cloth",
        "stick": "pen tool scissors",
        "toy": "toy",
        "ring": "ring",
    }.items()
    for shape in shapes.split()
}
COLOURS = (
    "black",
    "white",
    "grey",
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
)
COLOUR_WORDS = MappingProxyType(
    {name: name for name in COLOURS}
    | {"gray": "grey", "silver": "grey", "violet": "purple", "lilac": "purple", "magenta": "pink"}
)
SUPERLATIVES = ("leftmost", "rightmost", "largest", "smallest", "nearest")
SUPERLATIVE_WORDS = MappingProxyType(
    {name: name for name in SUPERLATIVES}
    | {"biggest": "largest", "tiniest": "smallest", "littlest": "smallest", "closest": "nearest"}
)
LEFT, RIGHT, BEHIND, FRONT, ON, IN = "left of", "right of", "behind", "in front of", "on", "in"
RELATIONS = (LEFT, RIGHT, BEHIND, FRONT, ON, IN)
#: Word sequences -> relation, the longer ones first where one begins like another.
RELATION_WORDS: tuple[tuple[tuple[str, ...], str], ...] = tuple(
    sorted(
        (
            (tuple(words.split()), name)
            for words, name in {
                "left of": LEFT,
                "to the left of": LEFT,
                "on the left of": LEFT,
                "on the left side of": LEFT,
                "right of": RIGHT,
                "to the right of": RIGHT,
                "on the right of": RIGHT,
                "on the right side of": RIGHT,
                "behind": BEHIND,
                "in back of": BEHIND,
                "in front of": FRONT,
                "before": FRONT,
                "on top of": ON,
                "on": ON,
                "upon": ON,
                "inside of": IN,
                "inside": IN,
                "within": IN,
                "in": IN,
            }.items()
        ),
        key=lambda entry: -len(entry[0]),
    )
)
#: Word sequences after a noun that mean a superlative.
SIDE_WORDS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("on", "the", "far", "left"), "leftmost"),
    (("on", "the", "far", "right"), "rightmost"),
    (("on", "the", "left"), "leftmost"),
    (("on", "the", "right"), "rightmost"),
    (("at", "the", "left"), "leftmost"),
    (("at", "the", "right"), "rightmost"),
)
ARTICLES = frozenset(("the", "a", "an", "that", "this", "some"))
#: What may stand before the item that is asked for.
REQUESTS: tuple[tuple[str, ...], ...] = tuple(
    sorted(
        (
            tuple(words.split())
            for words in (
                "please",
                "can you",
                "could you",
                "pick up",
                "pick",
                "grasp",
                "grab",
                "take",
                "get",
                "get me",
                "give me",
                "hand me",
                "bring me",
                "fetch",
                "find",
                "find me",
                "show me",
                "point at",
                "i want",
                "i need",
                "where is",
            )
        ),
        key=lambda words: -len(words),
    )
)
#: What may stand between an item and its relation.
LINKS: tuple[tuple[str, ...], ...] = (
    ("that", "is"),
    ("which", "is"),
    ("that", "lies"),
    ("which", "lies"),
    ("that", "stands"),
    ("lying",),
    ("standing",),
    ("sitting",),
    ("placed",),
)
#: What the items lie in or on; "in the tote" says nothing about which item is meant.
SURROUNDINGS = frozenset(
    ("tote", "bin", "crate", "container", "shelf", "table", "desk", "floor", "scene", "picture", "image")
)
_GRAMMAR = frozenset(
    word
    for words in (
        *(words for words, _ in RELATION_WORDS),
        *(words for words, _ in SIDE_WORDS),
        *REQUESTS,
        *LINKS,
        ("and",),
    )
    for word in words
)
WORDS: tuple[str, ...] = tuple(
    sorted({*NOUNS, *COLOUR_WORDS, *SUPERLATIVE_WORDS, *ARTICLES, *SURROUNDINGS, *_GRAMMAR})
)
"""Every word that is understood; the order is that of a text encoder's word numbers."""

_PLURALS = {f"{noun}{ending}": noun for noun in NOUNS for ending in ("s", "es")}


class NotUnderstood(RiseError):
    """A sentence that the grammar has no meaning for; the message says plainly why.

    Attributes:
        unknown: words that are in no vocabulary.
    """

    def __init__(self, message: str, unknown: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.unknown = unknown


def split_words(sentence: str) -> tuple[str, ...]:
    """The words of a sentence in lower case, without punctuation.

    Raises:
        NotUnderstood: nothing, too much, or other letters than those of English.
    """
    if not isinstance(sentence, str):
        raise NotUnderstood(f"the sentence is {type(sentence).__name__}; it must be text")
    if len(sentence) > MAX_CHARACTERS:
        raise NotUnderstood(
            f"the sentence has {len(sentence)} characters; at most {MAX_CHARACTERS} are looked at: "
            'name one item, as in "the blue cup behind the box"'
        )
    text = unicodedata.normalize("NFKC", sentence).lower().replace("\u2019", "'")
    foreign = [word for word in text.split() if any(c.isalpha() and not c.isascii() for c in word)]
    if foreign:
        raise NotUnderstood(
            f"only English is understood, and {_quoted(foreign)} {'are' if len(foreign) > 1 else 'is'} not",
            tuple(foreign),
        )
    words = tuple(re.findall(r"[a-z0-9]+(?:['-][a-z0-9]+)*", text))
    if not words:
        raise NotUnderstood('the sentence has no word; name an item, as in "the leftmost red thing"')
    if len(words) > MAX_WORDS:
        raise NotUnderstood(f"the sentence has {len(words)} words; at most {MAX_WORDS} are looked at")
    return words


def check_words(words: tuple[str, ...]) -> None:
    """Raise :class:`NotUnderstood` that names the first words which are in no vocabulary, if any is."""
    unknown = tuple(dict.fromkeys(word for word in words if word not in _KNOWN))
    if not unknown:
        return
    plural = next((word for word in unknown if word in _PLURALS), None)
    if plural:
        raise NotUnderstood(
            f"{plural!r} are several; one item is answered at a time: say {_PLURALS[plural]!r}", unknown
        )
    if len(unknown) > 2 and 2 * sum(word in unknown for word in words) > len(words):
        raise NotUnderstood(
            f"only English is understood, and most of these words are unknown: {_quoted(unknown)}", unknown
        )
    close = difflib.get_close_matches(unknown[0], WORDS, 1, 0.75)
    hint = f"did you mean {close[0]!r}?" if close else "a catalogue can give it a meaning"
    raise NotUnderstood(f"unknown word{'s' if len(unknown) > 1 else ''} {_quoted(unknown)}; {hint}", unknown)


_KNOWN = frozenset(WORDS)


def _quoted(words: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(repr(word[:30]) for word in words[:3])
    return f"{shown} and {len(words) - 3} more" if len(words) > 3 else shown
