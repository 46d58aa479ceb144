"""What the tests of retrieval share: a brute-force twin, and embeddings of several kinds."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rlm.data.tokens import Ragged, SpecialTokens
from rlm.retrieval import datastore_search, exact
from rlm.retrieval.config import DualEncoderConfig, ExactIndex, ScratchEncoder
from rlm.retrieval.encoder import DualEncoder

VOCABULARY = 90
Twin = Callable[[NDArray, NDArray, int], tuple[NDArray, NDArray]]


@pytest.fixture(scope="session")
def brute_force() -> Twin:
    """The k best passages of each query in float64, ties by lower id: scores and ids, [queries, k]."""

    def search(embeddings: NDArray, queries: NDArray, k: int) -> tuple[NDArray, NDArray]:
        # one passage at a time, so that equal passages have equal scores
        passages = np.asarray(embeddings, np.float64)
        scores = np.stack([(passages * query).sum(1) for query in np.asarray(queries, np.float64)])
        ids = np.lexsort((np.broadcast_to(np.arange(len(passages)), scores.shape), -scores), axis=1)[:, :k]
        return np.take_along_axis(scores, ids, 1), ids

    return search


@pytest.fixture
def scan(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ExactIndex]:
    """An exact index whose scan is in a type; float16, which is a GPU's, on the CPU, too."""

    def config(dtype: str) -> ExactIndex:
        if dtype != "float16":
            return ExactIndex(dtype=dtype)
        for module in (exact, datastore_search):
            monkeypatch.setattr(module, "scanned_type", lambda config, device: torch.float16)
        return ExactIndex()

    return config


@pytest.fixture(scope="session")
def topics() -> tuple[NDArray[np.float32], torch.Tensor]:
    """Embeddings around 30 directions, [3000, 32] of length 1, and 20 queries near some of them."""
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((30, 32))[rng.integers(30, size=3000)] + 0.6 * rng.standard_normal((3000, 32))
    embeddings = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)
    queries = embeddings[rng.integers(3000, size=20)] + 0.1 * rng.standard_normal((20, 32))
    return embeddings, torch.from_numpy(queries.astype(np.float32))


@pytest.fixture(scope="session")
def small_corpus() -> tuple[Ragged, Ragged, SpecialTokens]:
    """Word pieces of 60 bodies and their titles, of very unequal lengths, and the special tokens."""
    rng = np.random.default_rng(0)
    bodies = [rng.integers(4, VOCABULARY, length).tolist() for length in [0, 1, 70, *rng.integers(2, 40, 57)]]
    titles = [rng.integers(4, VOCABULARY, length).tolist() for length in rng.integers(0, 6, 60)]
    return Ragged.from_rows(bodies, np.uint8), Ragged.from_rows(titles, np.uint8), SpecialTokens(1, 2, 0, 3)


@pytest.fixture(scope="session")
def corpus_folder(small_corpus, tmp_path_factory) -> Path:
    """The files of a corpus stage that embedding it needs."""
    folder = tmp_path_factory.mktemp("corpus")
    tokens, titles, special = small_corpus
    tokens.save(folder, "tokens")
    titles.save(folder, "titles")
    described = {"special": dataclasses.asdict(special), "vocab_size": VOCABULARY}
    (folder / "corpus.json").write_text(json.dumps(described))
    return folder


@pytest.fixture(scope="session")
def dual_encoder() -> DualEncoder:
    """Random weights: two layers of width 32, projected to 16."""
    torch.manual_seed(0)
    encoder = ScratchEncoder(layers=2, hidden_size=32, heads=2, max_positions=64)
    return DualEncoder(DualEncoderConfig(encoder=encoder, projection=16, passage_tokens=48), VOCABULARY).eval()
