"""Neighbours against a search in float64 over the chunks of other documents; killed runs; what may not be opened."""

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from rlm.data.tokens import Ragged
from rlm.retrieval.config import Bm25, ExactIndex, FaissFlat
from rlm.retrieval.index import build_index
from rlm.retrieval.neighbours import NeighbourTable, Origin, dense_search, others, sparse_search, write_neighbours
from rlm.retrieval.sparse import Bm25Index

KEYS = {"text": "documents-1", "corpus": "documents-2", "encoder": "minilm", "index": "exact"}


def origin(counts, names, texts) -> Origin:
    identity = np.stack([np.asarray(names), np.asarray(texts) + 1000], axis=1).astype(np.uint64)
    return Origin(np.concatenate([[0], np.cumsum(counts)]), identity)


@pytest.fixture(scope="module")
def task():
    """Embeddings of a text and of a corpus that has some of its documents, by name or by text; more than one copy."""
    rng = np.random.default_rng(0)
    names, texts = rng.integers(0, 30, 40), rng.integers(0, 30, 40)
    names[:5], texts[:5] = np.arange(5), np.arange(5) + 10  # five of the text's, by both
    corpus = origin(rng.integers(1, 9, 40), names, texts)
    text = origin(rng.integers(1, 9, 15), np.arange(15), np.arange(15) + 10)
    topics = rng.standard_normal((60, 16))
    documents = [np.repeat(each.identity[:, 0], np.diff(each.first)) for each in (text, corpus)]
    embeddings = [
        (topics[of.astype(int)] + 0.5 * rng.standard_normal((len(of), 16))).astype(np.float32) for of in documents
    ]
    return text, corpus, *embeddings


def same(text: Origin, corpus: Origin) -> np.ndarray:
    """Whether a chunk of the text and one of the corpus are of one document, [text chunks, corpus chunks]."""
    of = [np.repeat(each.identity, np.diff(each.first), axis=0) for each in (text, corpus)]
    return np.array([[a[0] == b[0] or a[1] == b[1] for b in of[1]] for a in of[0]])


def by_hand(scores: np.ndarray, excluded: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = np.where(excluded, -np.inf, scores)
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, ids, 1), ids


def write(folder: Path, task, k: int, config=None, shard: int = 16, **extra) -> None:
    text, corpus, asked, embeddings = task
    index = build_index(config or ExactIndex(), embeddings)

    def queries(first: int, last: int):
        return dense_search(index, torch.from_numpy(asked[first:last]))

    write_neighbours(folder, text, corpus, k, extra.pop("queries", queries), KEYS, shard=shard, **extra)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("config", [ExactIndex(), FaissFlat()], ids=lambda config: config.kind)
def test_write_neighbours__are_the_nearest_chunks_of_other_documents(config, task, tmp_path):
    text, corpus, asked, embeddings = task
    write(tmp_path, task, 7, config)
    table = NeighbourTable.open(tmp_path, 7, **KEYS)
    excluded = same(text, corpus)
    # own chunks are among the nearest, or this shows nothing
    assert (
        excluded[np.arange(len(asked))[:, None], by_hand(asked @ embeddings.T, np.zeros_like(excluded), 7)[1]].mean()
        > 0.2
    )
    scores, ids = by_hand(asked.astype(np.float64) @ embeddings.astype(np.float64).T, excluded, 7)
    np.testing.assert_array_equal(table.ids, ids)
    np.testing.assert_allclose(table.scores, scores, rtol=1e-5)
    assert (table.ids.dtype, table.scores.dtype) == (np.int64, np.float32)


def test_write_neighbours__by_bm25(task, tmp_path):
    text, corpus, *_ = task
    rng = np.random.default_rng(1)
    asked, held = (Ragged.from_rows([rng.integers(0, 40, 12) for _ in range(len(each))]) for each in (text, corpus))
    index = Bm25Index(held, Bm25())

    def queries(first: int, last: int):
        return sparse_search(index, asked.take(np.arange(first, last)))

    write_neighbours(tmp_path, text, corpus, 5, queries, KEYS, shard=16)
    every = np.empty((len(text), len(corpus)))
    scores, ids = index.search(asked, len(corpus))
    np.put_along_axis(every, ids, scores, 1)
    expected = by_hand(every, same(text, corpus), 5)
    table = NeighbourTable.open(tmp_path, 5)
    np.testing.assert_array_equal(table.ids, expected[1])
    np.testing.assert_allclose(table.scores, expected[0], rtol=1e-6)


def test_table__computed_once_serves_every_smaller_k(task, tmp_path):
    (tmp_path / "8").mkdir()
    write(tmp_path / "8", task, 8)
    for k in (1, 3, 8):
        (tmp_path / f"own{k}").mkdir()
        write(tmp_path / f"own{k}", task, k)
        shared, own = NeighbourTable.open(tmp_path / "8", k), NeighbourTable.open(tmp_path / f"own{k}", k)
        np.testing.assert_array_equal(shared.ids, own.ids)
        again = pickle.loads(pickle.dumps(shared))
        np.testing.assert_array_equal(again.ids, shared.ids)


def test_others__counts_chunks_of_other_documents(task):
    text, corpus, *_ = task
    per_chunk = (~same(text, corpus)).sum(1)
    np.testing.assert_array_equal(others(text, corpus), per_chunk[text.first[:-1]])


def test_write_neighbours__when_interrupted_goes_on_with_the_same_result(task, tmp_path):
    text, _, asked, embeddings = task
    index = build_index(ExactIndex(), embeddings)
    searched = []

    def queries(first: int, last: int):
        if first == 32 and 32 not in searched:
            searched.append(first)
            raise RuntimeError("killed")
        searched.append(first)
        return dense_search(index, torch.from_numpy(asked[first:last]))

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    write(whole, task, 4)
    with pytest.raises(RuntimeError, match="killed"):
        write(broken, task, 4, queries=queries)
    with pytest.raises(ValueError, match="no neighbours, or damaged"):
        NeighbourTable.open(broken, 4)
    write(broken, task, 4, queries=queries)
    assert searched == [0, 16, 32, 32, *range(48, len(text), 16)]
    assert contents(broken) == contents(whole)


def test_write_neighbours__starts_anew_where_the_interrupted_call_was_another(task, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    write(whole, task, 4)

    def stop(done: int, total: int) -> None:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write(broken, task, 3, progress=stop)
    write(broken, task, 4)
    assert contents(broken) == contents(whole)


PROGRAM = """
import os, signal, sys
import numpy as np, torch
from rlm.retrieval.config import ExactIndex
from rlm.retrieval.index import build_index
from rlm.retrieval.neighbours import Origin, dense_search, write_neighbours
from pathlib import Path

embeddings = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
origin = Origin(np.arange(0, 201, 4), np.arange(50, dtype=np.uint64)[:, None])
index = build_index(ExactIndex(), embeddings)
kill = int(sys.argv[2])

def queries(first, last):
    if first == kill:
        os.kill(os.getpid(), signal.SIGKILL)
    return dense_search(index, torch.from_numpy(embeddings[first:last]))

shown = []
write_neighbours(Path(sys.argv[1]), origin, origin, 3, queries, {}, lambda done, total: shown.append(done), shard=32)
print(shown[0])
"""


def test_write_neighbours__when_killed_goes_on_with_the_same_result(root, tmp_path):
    def run(name: str, kill: int) -> subprocess.CompletedProcess[str]:
        (tmp_path / name).mkdir(exist_ok=True)
        command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path / name), str(kill)]
        return subprocess.run(command, capture_output=True, text=True, cwd=root, env={**os.environ, "PYTHONPATH": "."})

    assert run("whole", -1).stdout == "32\n"
    assert run("killed", 96).returncode == -signal.SIGKILL
    again = run("killed", -1)
    assert again.stdout == "128\n", again.stderr
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_write_neighbours__refuses_a_corpus_that_is_wholly_the_same_document(tmp_path):
    text = origin([4], [0], [0])
    corpus = origin([3, 2, 1], [0, 5, 6], [1, 0, 7])

    def queries(first, last):
        raise AssertionError("searched")

    with pytest.raises(ValueError, match=r"first: 0.*only 1 chunks of other documents: it is the same document"):
        write_neighbours(tmp_path, text, corpus, 2, queries, {})
    with pytest.raises(ValueError, match="only 0 chunks"):
        write_neighbours(tmp_path, text, text, 1, queries, {})
    with pytest.raises(ValueError, match="at least 1"):
        write_neighbours(tmp_path, text, corpus, 0, queries, {})
    assert not list(tmp_path.iterdir())


def test_open__says_which_keys_differ(task, tmp_path):
    write(tmp_path, task, 2)
    other = {**KEYS, "corpus": "documents-9", "encoder": "bert"}
    with pytest.raises(
        ValueError, match=r"of another corpus, encoder \(corpus: computed with documents-2, opened with"
    ):
        NeighbourTable.open(tmp_path, 2, **other)
    NeighbourTable.open(tmp_path, 2, corpus="documents-2")


@pytest.mark.parametrize("k", [0, 3])
def test_open__refuses_a_k_that_was_not_computed(k, task, tmp_path):
    write(tmp_path, task, 2)
    with pytest.raises(ValueError, match=rf"k = {k} neighbours .* which holds 2"):
        NeighbourTable.open(tmp_path, k)


@pytest.mark.parametrize("name", ["ids.npy", "scores.npy", "neighbours.json"])
def test_open__refuses_a_truncated_file(name, task, tmp_path):
    write(tmp_path, task, 2)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="no neighbours, or damaged ones"):
        NeighbourTable.open(tmp_path, 2)


def test_open__refuses_arrays_of_another_shape(task, tmp_path):
    write(tmp_path, task, 2)
    described = json.loads((tmp_path / "neighbours.json").read_text())
    np.save(tmp_path / "ids.npy", np.zeros((described["chunks"] - 1, 2), np.int64))
    with pytest.raises(ValueError, match=r"ids.npy is \(\d+, 2\), \(\d+, 2\) was written"):
        NeighbourTable.open(tmp_path, 2)
