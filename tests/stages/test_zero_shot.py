"""Ranks and recall against a search in float64 and a search for the answers in lower-cased texts."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlm.data.qa import Question, write_questions
from rlm.models.config import EvaluateConfig
from rlm.retrieval import encoder as retrieval_encoder
from rlm.retrieval.config import ExactIndex
from rlm.retrieval.refresh import build_snapshot_index, write_snapshot
from rlm.stages import zero_shot
from tests.models.reference import Reference, best
from tests.worlds import RETRIEVER, Surroundings, small_retriever

AT = (1, 5, 40)
CONFIG = {"evaluate": EvaluateConfig(split="dev", recall_at=AT), "retriever": RETRIEVER}


@pytest.fixture(scope="module")
def asked(world):
    """The encyclopedia's questions, one that is too long, one without an answer, and one with a pattern."""
    extra = [
        Question("long", "where was it that " * 12 + "she was born?", ("born",), "string"),
        Question("nowhere", "Which letters are nowhere?", ("nowhere to be found",), "string"),
        Question("pattern", "Which year was it?", (r"1[78]\d\d",), "regex"),
    ]
    return [*world.questions[:20], *extra]


def run(folder, world, asked, retrievers, keep_snapshots):
    """The stage after pre-training that ended with the last of `retrievers`."""
    inputs = {name: folder / name for name in ("questions", "retriever", "index")}
    inputs["corpus"], out = world.folder, folder / "out"
    for path in (*inputs.values(), out):
        path.mkdir(exist_ok=True)
    write_questions(inputs["questions"] / "dev.jsonl", asked)
    retrievers[-1].save(inputs["retriever"] / "retriever")
    build_snapshot_index(inputs["retriever"], world.folder, ExactIndex(), out=inputs["index"])
    for step, retriever in enumerate(retrievers if keep_snapshots else []):
        snapshot = write_snapshot(retriever, inputs["retriever"] / "snapshots", 9 * step)
        build_snapshot_index(snapshot, world.folder, ExactIndex())
    context = Surroundings()
    metrics = zero_shot.run(CONFIG, inputs, out, context)
    ranks, steps = (
        [json.loads(line) for line in (out / name).read_text().splitlines()] for name in ("ranks.jsonl", "steps.jsonl")
    )
    return SimpleNamespace(metrics=metrics, ranks=ranks, steps=steps, shown=context.shown)


def expected_ranks(world, asked, retriever):
    """1-based rank of the first passage with an answer among the best 40, None where there is none."""
    reference = Reference(world.corpus, retriever)
    embeddings, ranks = reference.passages(RETRIEVER.passage_tokens), []
    for question in asked:
        pieces = world.corpus.tokenizer(question.question, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            found = best(embeddings @ reference.embed(pieces[: RETRIEVER.query_tokens - 2]), max(AT))
        answer = r"1[78]\d\d" if question.answer_kind == "regex" else rf"\b{re.escape(question.answers[0])}\b"
        texts = [world.corpus.passage(z).text for z in found]
        ranks.append(next((i for i, text in enumerate(texts, 1) if re.search(answer, text, re.IGNORECASE)), None))
    return ranks


def recall(ranks, k):
    return 100 * sum(rank is not None and rank <= k for rank in ranks) / len(ranks)


def test_ranks__are_those_of_brute_force(world, asked, tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval_encoder, "has_fast_bfloat16", lambda device: False)
    retriever = small_retriever(world.corpus)
    found = run(tmp_path, world, asked, [retriever], keep_snapshots=False)
    expected = expected_ranks(world, asked, retriever)
    assert found.ranks == [{"id": q.id, "rank": rank} for q, rank in zip(asked, expected, strict=True)]
    assert {rank is None for rank in expected} == {True, False} and len(set(expected)) > 3
    assert found.metrics == {**{f"zero_shot_recall@{k}": pytest.approx(recall(expected, k)) for k in AT}, "n": 23}
    assert found.steps == []


def test_steps__are_the_recall_of_every_snapshot(world, asked, tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval_encoder, "has_fast_bfloat16", lambda device: False)
    retrievers = [small_retriever(world.corpus, seed) for seed in range(3)]
    found = run(tmp_path, world, asked, retrievers, keep_snapshots=True)
    expected = [expected_ranks(world, asked, retriever) for retriever in retrievers]
    assert [line["step"] for line in found.steps] == [0, 9, 18]
    for line, ranks in zip(found.steps, expected, strict=True):
        assert line == {"step": line["step"], **{f"recall@{k}": pytest.approx(recall(ranks, k)) for k in AT}}
    assert len({tuple(line.values())[1:] for line in found.steps}) > 1, "all snapshots have the same recall"
    assert found.shown[-1] == (3, 3)


def test_recall__of_no_rank_is_no_hit():
    ranks = np.array([0, 1, 2, 6])
    assert zero_shot.recall(ranks, (1, 2, 5), "r") == {"r@1": 25, "r@2": 50, "r@5": 50}
