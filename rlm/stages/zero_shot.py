"""Stage: recall of a retriever that has seen no question."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlm.data.corpus import Corpus
from rlm.data.gold import question_tokens
from rlm.data.qa import Question, read_questions
from rlm.data.tokens import Ragged
from rlm.metrics.answers import AnswerMatcher
from rlm.metrics.retrieval import RecallAtK
from rlm.retrieval.encoder import DualEncoder, embed_queries
from rlm.retrieval.index import Index, open_index
from rlm.retrieval.refresh import open_snapshot
from rlm.stages.stage import Context
from rlm.stages.training import accelerator


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes `ranks.jsonl`, and `steps.jsonl` where pre-training kept its snapshots."""
    evaluate, device = config["evaluate"], accelerator(context.runtime)
    corpus = Corpus.open(inputs["corpus"])
    questions = read_questions(inputs["questions"] / f"{evaluate.split}.jsonl")
    tokens = question_tokens(corpus, questions)
    matches = Matches(corpus, questions)
    k = min(max(evaluate.recall_at), len(corpus))
    retriever = DualEncoder.load(inputs["retriever"] / "retriever", config["retriever"]).to(device)
    ranks = matches.ranks(search(retriever, open_index(inputs["index"] / "index", device=device), tokens, corpus, k))
    with open(folder / "ranks.jsonl", "w", encoding="utf-8") as file:
        for question, rank in zip(questions, ranks, strict=True):
            file.write(json.dumps({"id": question.id, "rank": int(rank) or None}) + "\n")
    snapshots = inputs["retriever"] / "snapshots"
    steps = sorted(int(path.name) for path in snapshots.iterdir()) if snapshots.is_dir() else []
    with open(folder / "steps.jsonl", "w", encoding="utf-8") as file:
        for done, step in enumerate(steps):
            snapshot = snapshots / str(step)
            live = DualEncoder.load(snapshot / "retriever", config["retriever"]).to(device)
            of_step = matches.ranks(search(live, open_snapshot(snapshot, device), tokens, corpus, k))
            file.write(json.dumps({"step": step, **recall(of_step, evaluate.recall_at, "recall")}) + "\n")
            context.progress(done + 1, len(steps))
    return {**recall(ranks, evaluate.recall_at, "zero_shot_recall"), "n": float(len(questions))}


def search(retriever: DualEncoder, index: Index, tokens: Ragged, corpus: Corpus, k: int) -> NDArray[np.int64]:
    """Ids of the k best passages of each question, [questions, k]."""
    cut = tokens.take(np.arange(len(tokens)), retriever.config.query_tokens - 2)
    return index.search(embed_queries(retriever, cut, corpus.special), k)[1].cpu().numpy()


def recall(ranks: NDArray[np.int64], at: Sequence[int], name: str) -> dict[str, float]:
    """Percent of questions with an answer among their first k passages, for each k."""
    metric = RecallAtK(at)
    metric.update(torch.from_numpy(ranks))
    return {recall.replace("recall", name): float(value) for recall, value in metric.compute().items()}


class Matches:
    """Which passages hold an answer to which question; each pair is looked at once."""

    def __init__(self, corpus: Corpus, questions: Sequence[Question]) -> None:
        self.corpus = corpus
        self.matchers = [AnswerMatcher(question.answers, question.answer_kind) for question in questions]
        self._known: dict[tuple[int, int], bool] = {}

    def _match(self, question: int, passage: int) -> bool:
        pair = question, passage
        if pair not in self._known:
            self._known[pair] = self.matchers[question].matches(self.corpus.passage(passage).text)
        return self._known[pair]

    def ranks(self, found: NDArray[np.int64]) -> NDArray[np.int64]:
        """1-based rank of the first passage with an answer, 0 where none has one, [questions]."""
        return np.array(
            [
                next((rank for rank, passage in enumerate(row, 1) if self._match(question, int(passage))), 0)
                for question, row in enumerate(found)
            ]
        )
