"""Documents of chosen tokens, written without a tokenizer of their own."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rlm.data.documents import IDENTITIES, Documents
from rlm.data.tokens import Ragged

START, PAD, FIRST = 1, 0, 5


def write_tokens(folder: Path, rows: Sequence[Sequence[int]], vocab_size: int) -> Documents:
    """Documents of the given tokens, their start tokens included; each is like no other."""
    folder.mkdir(parents=True, exist_ok=True)
    dtype = np.min_scalar_type(vocab_size - 1)
    Ragged.from_rows(rows, dtype).save(folder, "tokens")
    names = [np.frombuffer(f"d{row}".encode(), np.uint8) for row in range(len(rows))]
    for name in ("ids", "titles"):
        Ragged.from_rows(names, np.uint8).save(folder, name)
    np.save(folder / "bytes.npy", np.array([3 * len(row) for row in rows], np.int64))
    np.save(folder / "identity.npy", np.arange(IDENTITIES * len(rows), dtype=np.uint64))
    described = {"documents": len(rows), "vocab_size": vocab_size, "start": START, "pad": PAD}
    (folder / "documents.json").write_text(json.dumps(described))
    return Documents.open(folder)


def numbered_documents(folder: Path, lengths: Sequence[int]) -> Documents:
    """Documents of the given lengths, no token of which occurs twice but for the start."""
    rows, place = [], FIRST
    for length in lengths:
        rows.append([START, *range(place, place + length - 1)])
        place += length - 1
    return write_tokens(folder, rows, max(place, 2))
