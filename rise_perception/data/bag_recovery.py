"""What is still readable in a damaged rosbag2 recording (recorder killed, disk full, copy cut short).

A bag that was not closed has no index, and the bag library refuses it as a whole. The messages before
the damage are intact nevertheless; these functions read them in the order in which they were recorded.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rosbags.rosbag2.storage_mcap import decompress

MCAP_MAGIC = b"\x89MCAP0\r\n"
SCHEMA, CHANNEL, MESSAGE, CHUNK = 0x03, 0x04, 0x05, 0x06


class RawMessage(NamedTuple):
    """One recorded message: topic name, type name, log time in nanoseconds, CDR bytes."""

    topic: str
    msgtype: str
    stamp: int
    data: bytes


def storage_files(path: Path) -> list[Path]:
    """The storage files of a bag folder in recording order, or ``path`` itself when it is one."""
    files = path.iterdir() if path.is_dir() else [path]
    found = [p for p in files if p.name.removesuffix(".zstd").endswith((".mcap", ".db3"))]
    return sorted(found, key=lambda p: (len(p.name), p.name))  # bag_2 before bag_10


def intact_messages(path: Path) -> Iterator[RawMessage]:
    """All messages of a bag folder or storage file that come before the first damage in each file.

    Files that are compressed as a whole (``.zstd``) give none.
    """
    for file in storage_files(path):
        yield from _sqlite_messages(file) if file.suffix == ".db3" else _mcap_messages(file)


def _sqlite_messages(path: Path) -> Iterator[RawMessage]:
    connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    try:
        # SQLite then reads a file that is shorter than its header says, up to where it ends.
        connection.execute("PRAGMA writable_schema=ON")
        topics = {
            key: (name, kind) for key, name, kind in connection.execute("SELECT id, name, type FROM topics")
        }
        for topic_id, stamp, data in connection.execute("SELECT topic_id, timestamp, data FROM messages"):
            if topic_id in topics:
                yield RawMessage(*topics[topic_id], stamp, data)
    except sqlite3.DatabaseError:
        return
    finally:
        connection.close()


def _mcap_messages(path: Path) -> Iterator[RawMessage]:
    schemas: dict[int, str] = {}
    channels: dict[int, tuple[str, str]] = {}
    with path.open("rb") as file:
        if file.read(8) != MCAP_MAGIC:
            return
        while len(head := file.read(9)) == 9:
            opcode, size = struct.unpack("<BQ", head)
            content = file.read(size)
            if opcode == CHUNK:
                records = _records(_chunk_content(content, whole=len(content) == size))
            elif len(content) == size:
                records = iter([(opcode, content)])
            else:
                return
            for opcode, record in records:
                if opcode == SCHEMA:
                    schemas[struct.unpack_from("<H", record)[0]] = _string(record, 2)
                elif opcode == CHANNEL:
                    key, schema = struct.unpack_from("<HH", record)
                    channels[key] = (_string(record, 4), schemas.get(schema, ""))
                elif opcode == MESSAGE:
                    key, _, stamp, _ = struct.unpack_from("<HIQQ", record)
                    if key in channels:
                        yield RawMessage(*channels[key], stamp, record[22:])


def _records(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The complete records in the content of a chunk."""
    position = 0
    while position + 9 <= len(content):
        opcode, size = struct.unpack_from("<BQ", content, position)
        position += 9
        if position + size > len(content):
            return
        yield opcode, content[position : position + size]
        position += size


def _chunk_content(chunk: bytes, whole: bool) -> bytes:
    """The records of a chunk; of one that is cut off, those before the cut if they are not compressed."""
    try:
        _, _, size, crc = struct.unpack_from("<QQQI", chunk)
        compression = _string(chunk, 28)
        data = chunk[28 + 4 + len(compression) + 8 :]
        if not whole:
            return data if not compression else b""
        return decompress(data, compression, size, crc)
    except Exception:  # the decompressors raise errors of their own; a damaged chunk holds nothing intact
        return b""


def _string(data: bytes, offset: int) -> str:
    (length,) = struct.unpack_from("<I", data, offset)
    return data[offset + 4 : offset + 4 + length].decode()
