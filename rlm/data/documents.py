"""Whole documents as tokens, memory-mapped: text for language models, and what chunks are retrieved from."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlm.data.corpus import batched
from rlm.data.mapped_folder import MappedFolder
from rlm.data.sources import Passage
from rlm.data.tokenizer import encode
from rlm.data.tokens import ArrayWriter, Ragged, RaggedWriter, token_dtype

TOGETHER = 256  # documents tokenised together
IDENTITIES = 3
"""Of a document: by id and title, by text, and by title. Any of them tells that two are the same."""


def start_token(tokenizer: Any) -> int:
    """The token that every document starts with, so that its first own token can be predicted too.

    Raises:
        ValueError: the tokenizer has none that could.
    """
    for name in ("bos_token_id", "cls_token_id", "eos_token_id"):
        if getattr(tokenizer, name, None) is not None:
            return int(getattr(tokenizer, name))
    raise ValueError("the tokenizer has no token that starts a text (bos, cls or eos); name another under `tokenizer`")


def identities(document: Passage) -> tuple[int, ...]:
    """Hashes of id and title, of the text, and of the title: the first 8 bytes of a SHA-1. No title is like none."""
    named = f"{document.id}\n{document.title}"
    hashes = (
        hashlib.sha1(value.encode(), usedforsecurity=False).digest()[:8]
        for value in (named, document.text, f"title\n{document.title or named}")
    )
    return tuple(int.from_bytes(each, "little") for each in hashes)


def write_documents(folder: Path, documents: Iterable[Passage], tokenizer: Any) -> dict[str, float]:
    """Write what `Documents.open` reads, in memory that does not grow with the text.

    Returns:
        documents, tokens (a start token of each included) and bytes of the raw text.

    Raises:
        ValueError: no documents, one without a token (which), or a tokenizer without a start token.
    """
    tokenizer.save_pretrained(folder / "tokenizer")
    start, vocab_size = start_token(tokenizer), len(tokenizer)
    tokens = RaggedWriter(folder, "tokens", token_dtype(vocab_size))
    names = {name: RaggedWriter(folder, name, np.uint8) for name in ("ids", "titles")}
    lengths, identity = ArrayWriter(folder / "bytes.npy", np.int64), ArrayWriter(folder / "identity.npy", np.uint64)
    total_tokens = total_bytes = 0
    for some in batched(documents, TOGETHER):
        rows = encode(tokenizer, [document.text for document in some])
        empty = [document.id for document, row in zip(some, rows, strict=True) if not row]
        if empty:
            raise ValueError(f"document {empty[0]!r} has no tokens; remove it, or give it text")
        tokens.append([[start, *row] for row in rows])
        for name, column in (("ids", 0), ("titles", 1)):
            names[name].append([list(document[column].encode()) for document in some])
        sizes = np.array([len(document.text.encode()) for document in some])
        lengths.append(sizes)
        identity.append(np.array([identities(document) for document in some], np.uint64).ravel())
        total_tokens, total_bytes = total_tokens + sum(map(len, rows)) + len(rows), total_bytes + int(sizes.sum())
    for rows_writer in (tokens, *names.values()):
        rows_writer.close()
    for writer in (lengths, identity):
        writer.close()
    count = lengths.count
    if not count:
        raise ValueError("no document is left; check `source`, `part`, `fraction` and `exclude` of the documents")
    pad = tokenizer.pad_token_id
    described = {"documents": count, "vocab_size": vocab_size, "start": start, "pad": 0 if pad is None else pad}
    (folder / "documents.json").write_text(json.dumps(described), encoding="utf-8")
    return {"documents": count, "tokens": total_tokens, "bytes": total_bytes}


class Documents(MappedFolder):
    """Finished documents; arrays are memory-mapped, the tokenizer is loaded when first used."""

    tokens: Ragged
    """Of whole documents, each after a start token."""
    bytes: NDArray[np.int64]
    """UTF-8 bytes of each raw text."""
    identity: NDArray[np.uint64]
    """[documents, 3]: two documents are the same where any of them agrees."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        try:
            described = json.loads((folder / "documents.json").read_text(encoding="utf-8"))
            self.vocab_size, self.start, self.pad = (int(described[name]) for name in ("vocab_size", "start", "pad"))
            self.bytes = np.load(folder / "bytes.npy", mmap_mode="r")
            self.identity = np.load(folder / "identity.npy", mmap_mode="r").reshape(-1, IDENTITIES)
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{folder}: no documents, or damaged ones ({error}); delete the folder") from error
        self.tokens, self._ids, self._titles = (Ragged.open(folder, name) for name in ("tokens", "ids", "titles"))
        rows = {len(part) for part in (self.tokens, self._ids, self._titles)}
        found = rows | {described["documents"], len(self.bytes), len(self.identity)}
        if len(found) != 1:
            raise ValueError(f"{folder}: damaged (its arrays have {sorted(found)} rows); delete the folder")

    def __len__(self) -> int:
        return len(self.tokens)

    def id(self, document: int) -> str:
        """Of the record, or of those that were joined."""
        return self._ids[document].tobytes().decode()

    def title(self, document: int) -> str:
        return self._titles[document].tobytes().decode()
