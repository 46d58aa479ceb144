"""Sharded search by two processes against exact search by one."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from rlm.retrieval.config import ExactIndex, ShardedExact
from rlm.retrieval.index import build_index, open_index, search_excluding
from rlm.retrieval.sharded import Sharded

RANKS = 2


def small_integers(rows, seed):
    """Many ties, within a share and across shares."""
    return np.random.default_rng(seed).integers(-1, 2, (rows, 8)).astype(np.float32)


def compare(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=RANKS)
    embeddings = small_integers(1001, 0)
    exact, index = build_index(ExactIndex(), embeddings), build_index(ShardedExact(), embeddings)
    assert len(index) == 1001 and len(index.local) == 500 + rank
    for batches in ((3, 5), (0, 4), (4, 4)):
        queries = torch.from_numpy(small_integers(batches[rank], 1 + rank))
        for k in (1, 10, 700, 1001):
            found, expected = index.search(queries, k), exact.search(queries, k)
            assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1]), (batches, k)
    index.save(folder / "index")
    opened = open_index(folder / "index")
    queries = torch.from_numpy(small_integers(6, 9))
    assert torch.equal(opened.search(queries, 9)[1], exact.search(queries, 9)[1])
    # this rank alone needs a second, deeper search: half of its passages are copies of the one to leave out
    identity = np.where(np.arange(1001) % 2, np.arange(1001), 0).astype(np.uint64)
    excluded = np.array([1 if rank else 0] * 3, np.uint64)
    found = search_excluding(opened, queries[:3], 40, excluded, identity)
    expected = search_excluding(exact, queries[:3], 40, excluded, identity)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    if rank == 0:  # one rank writes what all then open
        build_index(ShardedExact(), embeddings, whole=True).save(folder / "whole")
    dist.barrier()
    assert torch.equal(open_index(folder / "whole").search(queries, 9)[1], exact.search(queries, 9)[1])
    share = Sharded(ShardedExact(), embeddings[:100] if rank == 0 else embeddings[100:])
    assert share.size == 1001 and torch.equal(share.search(queries, 200)[1], exact.search(queries, 200)[1])
    with pytest.raises(ValueError, match="1 passages for 2 ranks"):
        build_index(ShardedExact(), embeddings[:1])
    dist.destroy_process_group()


def test_sharded__equals_exact_when_each_of_two_ranks_asks_its_own_queries(tmp_path):
    mp.spawn(compare, (tmp_path,), nprocs=RANKS)
    np.testing.assert_array_equal(np.load(tmp_path / "index" / "embeddings.npy"), small_integers(1001, 0))


def test_sharded__equals_exact_without_a_process_group(topics):
    embeddings, queries = topics
    found = build_index(ShardedExact(), embeddings).search(queries, 7)
    expected = build_index(ExactIndex(), embeddings).search(queries, 7)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
