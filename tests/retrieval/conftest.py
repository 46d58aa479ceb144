"""What the tests of retrieval share: a brute-force twin, and embeddings of several kinds."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

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


@pytest.fixture(scope="session")
def topics() -> tuple[NDArray[np.float32], torch.Tensor]:
    """Embeddings around 30 directions, [3000, 32] of length 1, and 20 queries near some of them."""
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((30, 32))[rng.integers(30, size=3000)] + 0.6 * rng.standard_normal((3000, 32))
    embeddings = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)
    queries = embeddings[rng.integers(3000, size=20)] + 0.1 * rng.standard_normal((20, 32))
    return embeddings, torch.from_numpy(queries.astype(np.float32))
