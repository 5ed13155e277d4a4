"""Words, colour names, grammar: what a sentence means, what is refused, and that a scene decides the item."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rise_perception.core.errors import DataError
from rise_perception.language.catalogue import make_catalogue, read_catalogue
from rise_perception.language.colours import colour_map
from rise_perception.language.generator import Saying, describe, fitting, put_in_words, refuse
from rise_perception.language.meaning import resolve
from rise_perception.language.parser import parse
from rise_perception.language.phrase import Phrase, Relation
from rise_perception.language.things import Things, measure
from rise_perception.language.vocabulary import COLOURS, KINDS, RELATIONS, SUPERLATIVES, NotUnderstood

RGB = {
    "red": (200, 30, 30),
    "blue": (30, 60, 200),
    "green": (30, 150, 40),
    "yellow": (240, 220, 30),
    "white": (245, 245, 245),
    "black": (12, 12, 12),
    "grey": (128, 128, 128),
    "orange": (240, 130, 20),
    "purple": (120, 40, 160),
    "pink": (245, 150, 180),
    "brown": (110, 65, 30),
}


def world(*items: tuple[str, str, tuple[int, int, int, int], float]) -> Things:
    """A picture of 320x240 with items (colour, kind, box, depth) painted one over another."""
    image = np.full((240, 320, 3), (90, 130, 120), np.uint8)
    depth = np.full((240, 320), 1.0, np.float32)
    labels = np.zeros((240, 320), np.uint16)
    kinds = np.zeros((len(items), len(KINDS)), np.float32)
    for number, (colour, kind, (x0, y0, x1, y1), metres) in enumerate(items):
        image[y0:y1, x0:x1] = RGB[colour]
        depth[y0:y1, x0:x1] = metres
        labels[y0:y1, x0:x1] = number + 1
        if kind != "thing":
            kinds[number, KINDS.index(kind)] = 1
    return measure(image, depth, labels, np.arange(1, len(items) + 1, dtype=np.uint16), kinds)


@pytest.fixture
def table() -> Things:
    return world(
        ("red", "box", (20, 150, 90, 210), 0.8),
        ("blue", "cup", (30, 40, 80, 90), 0.9),
        ("red", "cup", (230, 150, 270, 190), 0.7),
        ("green", "can", (150, 60, 180, 120), 0.85),
    )


def meant(sentence: str, things: Things) -> int | None:
    """Index of the item that a sentence means; None where it is not one for certain."""
    meaning = resolve(parse(sentence), things)
    return int(meaning.unique.argmax()) if meaning.unique.max() > 0.8 else None


@pytest.mark.parametrize(
    ("sentence", "item"),
    [
        ("the blue cup", 1),
        ("the blue cup behind the red box", 1),
        ("the red box in front of the blue cup", 0),
        ("the leftmost red thing", 0),
        ("the red thing on the right", 2),
        ("Please, give me the LARGEST item!", 0),
        ("the smallest red thing", 2),
        ("the nearest thing", 2),
        ("the cup to the right of the box", 2),
        ("the can right of the blue cup", 3),
        ("the cup left of the tin", 1),
        ("the thing in the tote behind the red box", 1),
        ("the red mug which is in front of the can and right of the box", None),
        ("the red cup right of the box", 2),
    ],
)
def test_a_sentence_means_its_item(sentence, item, table):
    assert meant(sentence, table) == item


def test_a_swapped_relation_means_another_item():
    things = world(
        ("red", "cup", (40, 100, 80, 140), 0.9),
        ("green", "box", (140, 100, 180, 140), 0.9),
        ("red", "cup", (240, 100, 280, 140), 0.9),
    )
    assert meant("the red cup left of the green box", things) == 0
    assert meant("the red cup right of the green box", things) == 2
    things = world(("red", "box", (100, 20, 140, 60), 0.9), ("blue", "box", (100, 160, 140, 200), 0.9))
    assert meant("the box behind the blue box", things) == 0
    assert meant("the box in front of the red box", things) == 1


def test_on_and_in_need_depth():
    stacked = (("red", "box", (60, 60, 200, 200), 0.9), ("blue", "can", (100, 100, 150, 150), 0.7))
    assert meant("the can on the box", world(*stacked)) == 1
    assert meant("the can in the box", world(*stacked)) is None
    bowl = world(("red", "cup", (60, 60, 200, 200), 0.8), ("blue", "ball", (100, 100, 150, 150), 0.85))
    assert meant("the ball in the cup", bowl) == 1
    assert meant("the ball on the cup", bowl) is None


def test_without_depth_the_nearest_is_not_guessed(table):
    blind = measure(
        np.full((40, 40, 3), 90, np.uint8),
        None,
        np.repeat(np.repeat(np.array([[1, 0], [0, 2]], np.uint16), 20, 0), 20, 1),
        np.array([1, 2], np.uint16),
    )
    meaning = resolve(parse("the nearest thing"), blind)
    assert meaning.unique.max() <= 0.5


def test_one_two_or_none_fit(table):
    one, two, none = (resolve(parse(f"the {c} thing"), table) for c in ("blue", "red", "yellow"))
    assert one.unique[1] > 0.9
    assert two.several > 0.9
    assert none.none > 0.9
    assert resolve(parse("the leftmost cup behind the yellow thing"), table).none > 0.9


def test_what_nobody_can_tell_is_not_claimed(table):
    from dataclasses import replace

    unknown = replace(table, kinds=None)
    assert meant("the blue cup", unknown) is None
    assert meant("the blue thing", unknown) == 1


def test_a_tie_of_superlatives_is_no_answer():
    twins = world(("red", "box", (40, 100, 80, 140), 0.9), ("red", "box", (240, 100, 280, 140), 0.9))
    for word in ("largest", "smallest", "nearest"):
        assert meant(f"the {word} box", twins) is None, word


def test_an_empty_scene_has_nothing():
    things = measure(
        np.zeros((10, 12, 3), np.uint8), None, np.zeros((10, 12), np.uint16), np.zeros(0, np.uint16)
    )
    meaning = resolve(parse("the largest red box behind the cup"), things)
    assert (len(meaning.fits), meaning.none) == (0, 1.0)


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("", "no word"),
        ("?!...", "no word"),
        ("the", "an item is expected"),
        ("the box behind", "an item is expected"),
        ("the box behind the", "an item is expected"),
        ("the red blue box", "two colours"),
        ("the leftmost largest box", "two superlatives"),
        ("the boxes", "one item is answered at a time"),
        ("the blu cup", "did you mean 'blue'"),
        ("the cup that sings", "unknown word"),
        ("la taza azul detrás de la caja", "only English"),
        ("la taza azul al lado de la caja", "only English"),
        ("die blaue Tasse hinter der Kiste", "only English"),
        ("青いカップ", "only English"),
        ("синяя чашка", "only English"),
        ("box " * 60, "words"),
        ("the " + "x" * 100_000, "characters"),
        ("the cup behind the box " * 9, "characters|words"),
        ("the cup" + " behind the box" * 8, "chains more than"),
        ("the cup left of the box right", "not understood after"),
        ("cup cup", "not understood after"),
        ("the box\x00", None),
        ("the nearest box to the cup", "not understood after"),
    ],
)
def test_what_has_no_meaning_is_refused_with_its_reason(sentence, reason):
    if reason is None:
        assert parse(sentence) == Phrase("box", noun="box")
        return
    with pytest.raises(NotUnderstood, match=reason):
        parse(sentence)


@pytest.mark.parametrize("thing", [None, 3, b"the box", ["the box"]])
def test_what_is_no_text_is_refused(thing):
    with pytest.raises(NotUnderstood, match="must be text"):
        parse(thing)


def test_random_sequences_of_known_words_never_do_worse_than_refuse(table):
    from rise_perception.language.vocabulary import WORDS

    rng = np.random.default_rng(0)
    for _ in range(3000):
        sentence = " ".join(rng.choice(WORDS, rng.integers(1, 14)))
        try:
            phrase = parse(sentence)
        except NotUnderstood:
            continue
        meaning = resolve(phrase, table)
        assert meaning.unique.sum() + meaning.none <= 1 + 1e-9, sentence
        assert np.isfinite(meaning.fits).all()


def test_relations_attach_to_the_last_item_and_after_and_to_the_first():
    box, can = Phrase("box", noun="box"), Phrase("can", noun="can")
    nested = parse("the cup behind the box left of the can")
    assert nested.relations == (
        Relation("behind", Phrase("box", None, None, (Relation("left of", can),), "box")),
    )
    both = parse("the cup behind the box and left of the can")
    # "and" goes on with the item that the relation before it was said of: here the cup.
    assert both.relations == (Relation("behind", box), Relation("left of", can))


@pytest.mark.parametrize("name", COLOURS)
def test_colours_have_their_names(name):
    image = np.array([[RGB[name]]], np.uint8)
    assert COLOURS[colour_map(image)[0, 0]] == name


def test_a_colour_is_given_where_six_tenths_of_the_pixels_have_it():
    def fraction(pixels: int) -> float:
        image = np.full((10, 10, 3), RGB["blue"], np.uint8)
        image.reshape(-1, 3)[:pixels] = RGB["red"]
        things = measure(image, None, np.ones((10, 10), np.uint16), np.array([1], np.uint16))
        return float(resolve(Phrase(colour="red"), things).fits[0])

    assert fraction(60) > 0.8
    assert fraction(50) < 0.2


def test_a_catalogue_gives_names_a_meaning(table, tmp_path):
    path = tmp_path / "names.json"
    path.write_text(json.dumps({"fizzy pop": "green can", "Mum's mug": "a blue cup"}))
    names = read_catalogue(path)
    for sentence, item in (("the fizzy pop", 3), ("the fizzy pop right of mum's mug", 3), ("mum's mug", 1)):
        assert resolve(parse(sentence, names), table).unique.argmax() == item
    with pytest.raises(NotUnderstood, match="unknown words 'fizzy', 'pop'"):
        parse("the fizzy pop")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"box": "red can"}', "has a meaning already"),
        ('{"pop": "delicious"}', "describe it by a kind"),
        ('{"pop": "red blue can"}', "describe it by a kind"),
        ('["pop"]', "no mapping"),
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"": "red can"}', "no word"),
    ],
)
def test_a_broken_catalogue_is_named(content, reason, tmp_path):
    path = tmp_path / "names.json"
    path.write_text(content)
    with pytest.raises(DataError, match=reason):
        read_catalogue(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_catalogue(tmp_path / "no.json")


def test_what_is_said_of_a_scene_means_what_it_was_said_of(table):
    rng = np.random.default_rng(1)
    sayings = describe(rng, table, np.ones(len(table), bool), 40)
    assert len(sayings) >= 30
    for saying in sayings:
        assert fitting(parse(saying.sentence), table) == saying.items, saying
    assert sum(len(saying.items) > 1 for saying in sayings) <= 40 // 6


def test_items_that_are_not_seen_well_are_not_spoken_about(table):
    seen = np.array([True, False, True, True])
    for saying in describe(np.random.default_rng(2), table, seen, 30):
        assert 1 not in saying.items


def test_a_sentence_that_fits_nowhere_fits_elsewhere(table):
    others = [
        Saying("the yellow box", Phrase("box", "yellow", noun="box"), (0,)),
        Saying("the can", Phrase("can"), (0,)),
    ]
    refused = refuse(np.random.default_rng(0), table, others, 4)
    assert [saying.sentence for saying in refused] == ["the yellow box"]
    assert refused[0].items == ()


def test_every_phrase_can_be_said_and_read_back():
    rng = np.random.default_rng(5)
    for kind in ("thing", *KINDS):
        for colour in (None, *COLOURS):
            for superlative in (None, *SUPERLATIVES):
                relation = Relation(str(rng.choice(RELATIONS)), Phrase(str(rng.choice(KINDS))))
                phrase = Phrase(kind, colour, superlative, (relation,) if rng.random() < 0.5 else ())
                back = parse(put_in_words(rng, phrase))
                assert (back.kind, back.colour, back.superlative) == (kind, colour, superlative)
                assert [(r.name, r.anchor.kind) for r in back.relations] == [
                    (r.name, r.anchor.kind) for r in phrase.relations
                ]


def test_equal_seeds_say_equal_sentences(table):
    seen = np.ones(len(table), bool)
    first, second = (describe(np.random.default_rng(3), table, seen, 10) for _ in range(2))
    assert first == second


def test_a_made_catalogue_says_where_it_is_wrong():
    with pytest.raises(DataError, match="parameter catalogue: 'x1'"):
        make_catalogue({"x1": "unknown stuff"}, "parameter catalogue")
