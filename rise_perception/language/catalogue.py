"""Names of a user's own goods: each is said in words that the grammar knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rise_perception.core.errors import DataError
from rise_perception.language.vocabulary import (
    ARTICLES,
    COLOUR_WORDS,
    NOUNS,
    WORDS,
    NotUnderstood,
    split_words,
)

#: Largest catalogue file that is read, bytes; ten thousand names take less.
MAX_BYTES = 1 << 20

Catalogue = Mapping[tuple[str, ...], tuple[str | None, str]]
"""Words of a name -> (colour or None, kind)."""


def read_catalogue(path: str | Path) -> Catalogue:
    """Read a JSON file that maps names to descriptions, ``{"fizzy pop": "red can", "tea": "green box"}``.

    Raises:
        DataError: the file is missing, too large or no such mapping; a name is a word that has a meaning
            already; a description is more than a colour and a kind.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"catalogue {path} is larger than {MAX_BYTES} bytes; it must be names and words")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"catalogue {path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"catalogue {path} is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(
            f'catalogue {path} is no mapping; give names and descriptions, {{"fizzy pop": "red can"}}'
        )
    return make_catalogue(content, f"catalogue {path}")


def make_catalogue(content: Mapping[str, object], where: str = "catalogue") -> Catalogue:
    """A catalogue of names and descriptions; errors as :func:`read_catalogue`."""
    found: dict[tuple[str, ...], tuple[str | None, str]] = {}
    for name, description in content.items():
        try:
            words = split_words(name)
            said = tuple(word for word in split_words(str(description)) if word not in ARTICLES)
        except NotUnderstood as error:
            raise DataError(f"{where}: {name!r}: {error}") from error
        if len(words) == 1 and words[0] in WORDS:
            raise DataError(f"{where}: {name!r} has a meaning already; choose another name")
        colours = [COLOUR_WORDS[word] for word in said if word in COLOUR_WORDS]
        nouns = [NOUNS[word] for word in said if word in NOUNS]
        if len(colours) > 1 or len(nouns) != 1 or len(colours) + len(nouns) != len(said):
            raise DataError(
                f"{where}: {name!r} is {str(description)[:60]!r}; describe it by a kind, with a colour or "
                'without, as in "red can"'
            )
        found[words] = (colours[0] if colours else None, nouns[0])
    return found
