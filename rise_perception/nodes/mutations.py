"""Seeded mutations of what is valid: bytes, JSON, pictures and names, as disks and networks make them."""

from __future__ import annotations

import json
import random
import struct
import zlib
from typing import Any

#: Numbers at the edges of types, and beyond them.
NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 255, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, -(2**63), 2**70, 10**400,
    0.5, -0.0, 1e-320, 1e30, 1e300, float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
TEXTS = ("", "x", "²", "٣", "-", "..", "../x", "a/b", "\x00", "\ud800", "é" * 40, "x" * 5000, "NaN", "1e999")
#: Names of folders in which something is stored.
NAMES = (
    "²-abc",
    "٣-abc",
    "-abc",
    "9" * 200 + "-abc",
    "1-",
    "1-²",
    "a b",
    "%s",
    "1-abc\n",
    "card.json",
    "1-ZZ",
)
DEEP = 100_000


def mutate_bytes(rng: random.Random, content: bytes) -> bytes:
    """Flipped bits, a cut, a piece twice, a piece of noise, or nothing at all."""
    if not content:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(64)))
    data = bytearray(content)
    kind = rng.randrange(6)
    at = rng.randrange(len(data))
    if kind == 0:
        for _ in range(rng.choice((1, 1, 3, 30))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        data[at:at] = data[at : at + rng.randrange(1, 200)]
    elif kind == 3:
        data[at : at + 16] = rng.randbytes(16)
    elif kind == 4:
        data[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\x7f"))
    else:
        head = rng.randrange(min(64, len(data)))
        data[head] = rng.randrange(256)
    return bytes(data)


def mutate_json(rng: random.Random, value: Any) -> bytes:
    """The text of a JSON value with something wrong in it: in its fields, or in the text itself."""
    kind = rng.randrange(10)
    if kind == 0:
        return rng.choice((b"[" * DEEP, b'{"a":' * DEEP, b"", b"null", b"[]", b"\xff\xfe", b"9" * 6000))
    if kind == 1:
        return mutate_bytes(rng, json.dumps(value).encode())
    copy = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 2))):
        copy = _with_odd_field(rng, copy)
    return json.dumps(copy).encode("utf-8", "surrogatepass")


def odd_value(rng: random.Random) -> Any:
    """A value that hardly any field expects."""
    kind = rng.randrange(6)
    if kind <= 1:
        return rng.choice(NUMBERS)
    if kind == 2:
        return rng.choice(TEXTS)
    if kind == 3:
        return rng.choice((None, True, False, [], {}))
    if kind == 4:
        nested: Any = 0
        for _ in range(rng.choice((3, 30, 300))):
            nested = [nested] if rng.random() < 0.5 else {"a": nested}
        return nested
    return [odd_value(rng)] * rng.choice((1, 7))


def _with_odd_field(rng: random.Random, value: Any) -> Any:
    holders: list[tuple[Any, Any]] = []
    pending = [value]
    while pending:
        item = pending.pop()
        pairs = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
        for key, part in pairs:
            holders.append((item, key))
            pending.append(part)
    if not holders:
        return odd_value(rng)
    holder, key = rng.choice(holders)
    kind = rng.randrange(5)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[rng.choice(TEXTS)] = odd_value(rng)
    elif kind == 2 and isinstance(holder[key], str) and holder[key]:
        holder[key] = mutate_bytes(rng, holder[key].encode("ascii", "replace")).decode("latin-1")
    else:
        holder[key] = odd_value(rng)
    return value


def mutate_png(rng: random.Random, content: bytes) -> bytes:
    """A PNG whose header names another size, with the right checksum; or whose bytes are mutated."""
    if rng.random() < 0.5 or len(content) < 33:
        return mutate_bytes(rng, content)
    width, height = struct.unpack(">II", content[16:24])
    side = rng.choice((0, 1, 7, 1000, 16_000, 32_768, 2**24, 2**31 - 1))
    width, height = rng.choice(((side, height), (width, side), (side, side)))
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def mutate_npy(rng: random.Random, content: bytes) -> bytes:
    """A .npy file whose header claims other shapes or types; or whose bytes are mutated."""
    if rng.random() < 0.5:
        return mutate_bytes(rng, content)
    shape = rng.choice(("(1000000000000, 4)", "(-1, 4)", "(0, 4)", "((1,), 4)", "()", "(3.0,)", "[" * 500))
    kind = rng.choice(("<f4", "|O", "<M8[ns]", "|V0", "<U9", "x" * 50))
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + content[128:]
