"""The inverse cloze loss against a softmax over passages in float64."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlm.data.datamodules import IctBatches
from rlm.models.config import IctConfig, Training
from rlm.models.ict import InverseCloze
from tests.models.reference import Reference
from tests.worlds import RETRIEVER, small_retriever

CONFIG = IctConfig(training=Training(steps=4, batch_size=6, learning_rate=1e-3))


def inverse_cloze(retriever, rank=0, world_size=1):
    """A module outside a Trainer."""
    module = InverseCloze(retriever, CONFIG)
    module.trainer = SimpleNamespace(world_size=world_size, global_rank=rank)
    module.logged = {}
    module.log_dict = lambda metrics, **_: module.logged.update(metrics)
    return module


@pytest.fixture(scope="module")
def case(world):
    """A retriever, a batch, and its queries and passages embedded in float64, each [batch, dim]."""
    retriever = small_retriever(world.corpus)
    batches = IctBatches(world.corpus, 6, 0.1, RETRIEVER.query_tokens, RETRIEVER.passage_tokens, seed=2)
    batch, reference, special = batches(0, 0, 1), Reference(world.corpus, retriever), world.corpus.special

    def embedded(rows):
        for ids, mask in zip(rows["ids"].tolist(), rows["mask"].tolist(), strict=True):
            parts, part = [], []
            for piece in ids[1 : sum(mask)]:
                if piece == special.sep:
                    parts, part = [*parts, part], []
                else:
                    part.append(piece)
            yield reference.embed(*parts)

    with torch.no_grad():
        queries, passages = (torch.stack(list(embedded(batch[name]))).numpy() for name in ("queries", "passages"))
    return retriever, batch, queries, passages


def losses(queries, passages, own):
    """-log softmax of each query's own passage."""
    scores = queries @ passages.T
    return -scores[np.arange(len(queries)), own] + np.log(np.exp(scores).sum(1)), scores


def test_training_step__is_the_cross_entropy_of_the_own_passage(case):
    retriever, batch, queries, passages = case
    module = inverse_cloze(retriever)
    loss = module.training_step(batch, 0)
    expected, scores = losses(queries, passages, np.arange(6))
    assert loss.item() == pytest.approx(expected.mean(), rel=1e-4)
    assert module.logged["loss"] == loss
    assert float(module.logged["in_batch_recall@1"]) == pytest.approx(np.mean(scores.argmax(1) == np.arange(6)))
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in retriever.parameters() if parameter.grad is not None)
    assert retriever.projection.weight.grad.abs().max() > 0
    retriever.zero_grad()


def test_training_step__takes_the_passages_of_all_ranks_for_negatives(case):
    retriever, batch, queries, passages = case
    others = np.random.default_rng(0).standard_normal(passages.shape)
    module = inverse_cloze(retriever, rank=1, world_size=2)
    module.all_gather = lambda ours, sync_grads: torch.stack([torch.from_numpy(others).float(), ours])
    loss = module.training_step(batch, 0)
    expected, _ = losses(queries, np.concatenate([others, passages]), 6 + np.arange(6))
    assert loss.item() == pytest.approx(expected.mean(), rel=1e-4)
