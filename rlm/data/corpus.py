"""Passages by word pieces: packed, tokenised once, memory-mapped."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rlm.data.config import CorpusConfig
from rlm.data.mapped_folder import MappedFolder
from rlm.data.sentences import sentence_spans
from rlm.data.sources import Passage
from rlm.data.tokenizer import encode
from rlm.data.tokens import ArrayWriter, Ragged, RaggedWriter, SpecialTokens, token_dtype

CHUNK = 5_000  # records tokenised together
SHARD = 100_000  # passages of one file of texts
SPECIAL_TOKENS = 3
"""[CLS] title [SEP] body [SEP]."""
T = TypeVar("T")
_SCHEMA = pa.schema([("id", pa.string()), ("title", pa.string()), ("text", pa.string())])


class _Packed(NamedTuple):
    passage: Passage
    title: list[int]
    tokens: list[int]
    sentences: list[int]


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def pack(records: Iterable[Passage], tokenizer: Any, config: CorpusConfig) -> Iterator[_Packed]:
    """Passages of at most `max_tokens` word pieces with their title and special tokens.

    Documents are packed greedily at sentence ends and never across each other; a sentence that is too long alone
    becomes a passage of its own, which encoding cuts (all as ORQA's preprocessing). `as_is` keeps each record whole.
    """
    for chunk in batched(records, CHUNK):
        spans = [sentence_spans(record.text) for record in chunk]
        flat = [record.text[a:b] for record, found in zip(chunk, spans, strict=True) for a, b in found]
        encoded = iter(encode(tokenizer, flat))
        titles = encode(tokenizer, [record.title for record in chunk])
        for record, title, found in zip(chunk, titles, spans, strict=True):
            sentences = [next(encoded) for _ in found]
            room = config.max_tokens - SPECIAL_TOKENS - len(title) if config.packing == "sentences" else 1 << 62
            for part, (first, last) in enumerate(_packs([len(pieces) for pieces in sentences], room)):
                text = record.text[found[first][0] : found[last - 1][1]]
                name = record.id if part == 0 else f"{record.id}#{part}"
                lengths = [len(pieces) for pieces in sentences[first:last]]
                starts = [0, *np.cumsum(lengths[:-1]).tolist()]
                tokens = [piece for pieces in sentences[first:last] for piece in pieces]
                yield _Packed(Passage(name, record.title, text), title, tokens, starts)


def _packs(lengths: list[int], room: int) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) sentence of each passage."""
    first, total = 0, 0
    for i, length in enumerate(lengths):
        if i > first and total + length > room:
            yield first, i
            first, total = i, 0
        total += length
    if lengths:
        yield first, len(lengths)


def passage_identity(passage: Passage) -> int:
    """Tells passages apart by content, whatever their ids: the first 8 bytes of a SHA-1 of title and body."""
    text = f"{passage.title}\n{passage.text}"
    return int.from_bytes(hashlib.sha1(text.encode(), usedforsecurity=False).digest()[:8], "little")


def write_corpus(folder: Path, records: Iterable[Passage], tokenizer: Any, config: CorpusConfig) -> dict[str, float]:
    """Write what `Corpus.open` reads, in memory that does not grow with the corpus.

    Returns:
        passages, word pieces per passage, and the share of passages that are longer than `max_tokens`.

    Raises:
        ValueError: no passages.
    """
    tokenizer.save_pretrained(folder / "tokenizer")
    dtype = token_dtype(len(tokenizer))
    writers = {
        "title": RaggedWriter(folder, "titles", dtype),
        "tokens": RaggedWriter(folder, "tokens", dtype),
        "sentences": RaggedWriter(folder, "sentences", np.int32),
    }
    identities = ArrayWriter(folder / "identity.npy", np.uint64)
    texts = _TextWriter(folder)
    pieces = long = 0
    for chunk in batched(pack(records, tokenizer, config), CHUNK):
        for name, writer in writers.items():
            writer.append([getattr(packed, name) for packed in chunk])
        identities.append(np.array([passage_identity(packed.passage) for packed in chunk], np.uint64))
        texts.append([packed.passage for packed in chunk])
        lengths = [len(packed.tokens) + len(packed.title) + SPECIAL_TOKENS for packed in chunk]
        pieces, long = pieces + sum(lengths), long + sum(length > config.max_tokens for length in lengths)
    for writer in writers.values():
        writer.close()
    identities.close()
    texts.close()
    count = identities.count
    if not count:
        raise ValueError("the corpus has no passages; check `corpus.source`")
    special = {name: getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "pad", "mask")}
    described = {"special": special, "vocab_size": len(tokenizer), "passages": count}
    (folder / "corpus.json").write_text(json.dumps(described), encoding="utf-8")
    return {"passages": count, "pieces_per_passage": pieces / count, "longer_than_max_tokens": long / count}


class _TextWriter:
    """Texts in Arrow files of `SHARD` passages, one batch each."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._rows, self._files = folder, [], 0  # type: ignore[var-annotated]

    def append(self, passages: list[Passage]) -> None:
        self._rows += passages
        while len(self._rows) >= SHARD:
            self._write(self._rows[:SHARD])
            self._rows = self._rows[SHARD:]

    def _write(self, rows: list[Passage]) -> None:
        columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
        path = self._folder / f"passages-{self._files:05d}.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
            writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
        self._files += 1

    def close(self) -> None:
        if self._rows:
            self._write(self._rows)


class Corpus(MappedFolder):
    """A finished corpus; arrays and texts are memory-mapped, the tokenizer is loaded when first used."""

    tokens: Ragged
    """Word pieces of the bodies."""
    titles: Ragged
    sentences: Ragged
    """First word piece of each sentence of a body."""
    identity: NDArray[np.uint64]

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        described = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        self.special, self.vocab_size = SpecialTokens(**described["special"]), int(described["vocab_size"])
        self.tokens, self.titles, self.sentences = (
            Ragged.open(folder, name) for name in ("tokens", "titles", "sentences")
        )
        self.identity = np.load(folder / "identity.npy", mmap_mode="r")
        found = {len(self.tokens), len(self.titles), len(self.sentences), len(self.identity), described["passages"]}
        if len(found) != 1:
            raise ValueError(f"{folder}: damaged (its arrays have {sorted(found)} rows); delete the folder")

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def _texts(self) -> list[pa.RecordBatch]:
        files = sorted(self.folder.glob("passages-*.arrow"))
        return [pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0) for path in files]

    def passage(self, row: int) -> Passage:
        """Id, title and text of a passage."""
        batch, place = self._texts[row // SHARD], row % SHARD
        return Passage(*(batch.column(i)[place].as_py() for i in range(3)))
