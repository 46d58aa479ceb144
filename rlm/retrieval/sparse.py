"""Sparse retrieval: BM25 over word pieces, so that neither text nor another tokenizer is needed."""

import json
from pathlib import Path
from typing import Self

import bm25s
import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray

from rlm.config import to_plain
from rlm.data.tokens import Ragged
from rlm.retrieval.config import Bm25

BLOCK = 1 << 24
"""Scores held at a time (64 MiB)."""
ARRAYS = ("data", "indices", "indptr")


class Bm25Index:
    """Passages by the BM25 score of a query's word pieces, best first, ties by lower id.

    The score is Lucene's: sum over the query's word pieces t, repeats counted, of idf(t) tf / (tf + k1 (1 - b + b |z| /
    mean |z|)), with idf(t) = ln(1 + (N - n_t + 0.5) / (n_t + 0.5)). bm25s computes the matrix of its terms; a batch of
    queries is one sparse product with it, on one thread.

    Args:
        tokens: word pieces of the passages.
        config: k1 and b.

    Raises:
        ValueError: no passages, or none with a word piece.
    """

    def __init__(self, tokens: Ragged, config: Bm25) -> None:
        if not len(tokens) or not len(tokens.values):
            raise ValueError(f"BM25 over {len(tokens)} passages with {len(tokens.values)} word pieces: build a corpus")
        vocabulary = {str(piece): piece for piece in range(int(tokens.values.max()) + 1)}
        model = bm25s.BM25(method="lucene", k1=config.k1, b=config.b)
        rows = [tokens[i].tolist() for i in range(len(tokens))]
        model.index((rows, vocabulary), create_empty_token=False, show_progress=False)
        columns = (model.scores[name] for name in ARRAYS)
        # [word pieces, passages]: the transpose of bm25s's columns
        self.terms = scipy.sparse.csr_array(tuple(columns), shape=(len(vocabulary), len(tokens)))
        self.config = config

    @property
    def size(self) -> int:
        """Passages."""
        return self.terms.shape[1]

    def __len__(self) -> int:
        return self.size

    def search(self, queries: Ragged, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k best passages of each query; passages that share nothing with it score 0.

        Args:
            queries: word pieces; those that no passage has are ignored.
            k: passages wanted.

        Returns:
            scores float32 [queries, k] and ids int64 [queries, k], distinct in each row.

        Raises:
            ValueError: a k that the index cannot fill.
        """
        if not 1 <= k <= self.size:
            raise ValueError(f"k = {k} of an index of {self.size} passages; ask for 1 to {self.size}")
        scores = np.empty((len(queries), k), np.float32)
        ids = np.empty((len(queries), k), np.int64)
        step = max(1, BLOCK // self.size)
        for start in range(0, len(queries), step):
            block = np.arange(start, min(start + step, len(queries)))
            scores[block], ids[block] = self._best(queries.take(block), k)
        return scores, ids

    def _best(self, queries: Ragged, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        row = np.repeat(np.arange(len(queries)), queries.lengths)
        known = queries.values < len(self.terms.indptr) - 1
        counts = np.ones(int(known.sum()), np.float32)
        pieces = queries.values[known].astype(np.int64)
        shape = (len(queries), self.terms.shape[0])
        matrix = scipy.sparse.csr_array((counts, (row[known], pieces)), shape=shape)
        scores = (matrix @ self.terms).toarray()
        # Scores are not negative, so their bits order as integers; below them the id, which settles ties.
        descending = np.arange(self.size - 1, -1, -1)
        keys = scores.view(np.int32).astype(np.int64) << 32 | descending
        best = torch.from_numpy(keys).topk(k).values.numpy()
        ids = self.size - 1 - (best & 0xFFFFFFFF)
        return np.take_along_axis(scores, ids, axis=1), ids

    def save(self, folder: Path) -> None:
        """Write the index to a folder; `bm25.json` comes last."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ARRAYS:
            np.save(folder / f"bm25.{name}.npy", getattr(self.terms, name))
        described = {"config": to_plain(self.config), "shape": self.terms.shape, "values": self.terms.nnz}
        (folder / "bm25.json").write_text(json.dumps(described), encoding="utf-8")

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Memory-map what `save` wrote.

        Raises:
            ValueError: a file is missing or damaged (which one).
        """
        path = folder / "bm25.json"
        try:
            described = json.loads(path.read_text(encoding="utf-8"))
            config, shape, values = Bm25(**described["config"]), tuple(described["shape"]), described["values"]
            arrays = []
            for name, length in zip(ARRAYS, (values, values, shape[0] + 1), strict=True):
                path = folder / f"bm25.{name}.npy"
                arrays.append(np.load(path, mmap_mode="r"))
                if len(arrays[-1]) != length:
                    raise ValueError(f"{len(arrays[-1])} values, {length} were written")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: damaged or missing ({error!r}); delete {folder} and build it again") from error
        index = cls.__new__(cls)
        index.terms, index.config = scipy.sparse.csr_array(tuple(arrays), shape=shape), config
        return index
