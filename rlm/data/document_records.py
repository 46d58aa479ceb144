"""Which documents a configuration means: records of a source, joined, without those excluded, a share of them."""

import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from rlm.data.config import DocumentsConfig
from rlm.data.sources import Passage, read_passages
from rlm.errors import ConfigError

SPILLS = 64
"""Files that records are spread over before they are joined: one of them is in memory at a time."""
_ENTITY = re.compile(r"(\d+)-(\d{1,18})")
_NUMBER = re.compile(r"\d{1,18}")
_SEPARATOR = re.compile(r"[:#-]")


def read_documents(config: DocumentsConfig, data: Path | None) -> Iterator[Passage]:
    """The documents in an order that depends on nothing but the source; a fraction keeps the order of the whole.

    Raises:
        ConfigError: see `rlm.data.sources.read_passages`; or `part` or `fraction` is no share.
    """
    low, high = config.part
    if not 0 <= low < high <= 1:
        raise ConfigError(f"documents.part: {list(config.part)}; write two numbers, 0 <= from < to <= 1")
    if not 0 < config.fraction <= 1:
        raise ConfigError(f"documents.fraction: {config.fraction}; write a share above 0, at most 1")
    ids: set[str] = set()
    titles: set[str] = set()
    for record in read_passages(config.exclude, data) if config.exclude is not None else ():
        ids.add(record.id)
        titles.add(record.title)
    titles.discard("")
    joined = config.join == "by_id_prefix"

    def kept() -> Iterator[tuple[str, int, Passage]]:
        for record in read_passages(config.source, data):
            document, number = part_of(record.id) if joined else (record.id, 0)
            if record.title in titles or (ids and is_excluded(record.id, ids)):
                continue
            if low <= share_of("part", document) < high and share_of("fraction", document) < config.fraction:
                yield document, number, record

    if joined:
        yield from _joined(kept())
    else:
        yield from (record for _, _, record in kept())


def part_of(identity: str) -> tuple[str, int]:
    """The document that a record belongs to, and which part of it the record is; the record itself where its id is not
    that of a part."""
    article, _, block = identity.rpartition(":")
    if ":" in article[1:-1] and _NUMBER.fullmatch(block):
        return article, int(block)
    entity = _ENTITY.fullmatch(identity)
    return (entity[1], int(entity[2])) if entity else (identity, 0)


def is_excluded(identity: str, excluded: set[str]) -> bool:
    """Whether an id, or what stands before one of its separators, is among those excluded."""
    return identity in excluded or any(identity[: cut.start()] in excluded for cut in _SEPARATOR.finditer(identity))


def share_of(salt: str, identity: str) -> float:
    """A number in [0, 1), uniform over ids."""
    return int.from_bytes(_hashed(f"{salt}\n{identity}"), "little") / 2**64


def _hashed(text: str) -> bytes:
    return hashlib.sha1(text.encode(), usedforsecurity=False).digest()[:8]


def _joined(records: Iterable[tuple[str, int, Passage]]) -> Iterator[Passage]:
    """Records of one document as one, wherever they stand: spread over files by document, then file by file."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        spills = [
            opened.enter_context((Path(folder) / str(number)).open("w+", encoding="utf-8")) for number in range(SPILLS)
        ]
        for document, number, record in records:
            line = json.dumps([document, number, record.title, record.text])
            spills[_hashed(document)[0] % SPILLS].write(line + "\n")
        for spill in spills:
            spill.seek(0)
            parts: dict[str, list[tuple[int, str, str]]] = {}
            for line in spill:
                document, number, title, text = json.loads(line)
                parts.setdefault(document, []).append((number, title, text))
            for document, found in parts.items():
                found.sort(key=lambda part: part[0])
                yield Passage(document, found[0][1], " ".join(text for _, _, text in found))
