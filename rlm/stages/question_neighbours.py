"""Stage: the chunks of a retrieval corpus nearest to the questions of a split."""

from pathlib import Path
from typing import Any

import numpy as np

from rlm.data.chunks import Chunks
from rlm.data.documents import Documents, identities
from rlm.data.qa import read_questions
from rlm.data.question_prompts import PassageTokens
from rlm.data.sources import Passage
from rlm.data.tokenizer import encode
from rlm.data.tokens import Ragged
from rlm.retrieval.index import Search
from rlm.retrieval.neighbours import NeighbourTable, Origin, write_neighbours
from rlm.stages.chunk_index import describe, open_search
from rlm.stages.stage import Context
from rlm.stages.training import accelerator


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes what `NeighbourTable.open` reads, a row for each question; an interrupted run goes on.

    Raises:
        ValueError: an index of another corpus, or fewer chunks in it than are asked for.
    """
    described = describe(inputs["index"], inputs["corpus"])
    corpus = Chunks(Documents.open(inputs["corpus"]), described["chunk_tokens"])
    questions = read_questions(inputs["questions"] / f"{config['split']}.jsonl")
    keys = {
        "questions": inputs["questions"].name,
        "split": config["split"],
        "chunk_tokens": str(described["chunk_tokens"]),
        **described["keys"],
    }
    named = [identities(Passage(question.id, "", question.question)) for question in questions]
    asked = Origin(np.arange(len(questions) + 1), np.array(named, np.uint64))  # each a document of one chunk
    searched = Origin(corpus.first, corpus.documents.identity)
    search, own = open_search(inputs["index"], corpus, accelerator(context.runtime)), corpus.documents.tokenizer

    def queries(first: int, last: int) -> Search:
        return search(Ragged.from_rows(encode(own, [question.question for question in questions[first:last]])))

    k = config["passages"].k
    write_neighbours(folder, asked, searched, k, queries, keys, context.progress, name=lambda row: questions[row].id)
    table = NeighbourTable.open(folder, k)
    return {"questions": len(questions), "mean_best_score": float(table.scores[:, 0].mean(dtype=float))}


def open_passages(
    inputs: dict[str, Path], split: str, k: int, chunk_tokens: int, prompt_chunks: int = 1, tokens: int | None = None
) -> PassageTokens:
    """The k best passages of each question.

    Args:
        inputs: folders of the stages `questions`, `corpus` and `passages`.
        split: of the questions.
        k: passages of each.
        chunk_tokens: of a chunk.
        prompt_chunks: of a prompt.
        tokens: of a passage, see `PassageTokens`.

    Raises:
        ValueError: passages of something else (what differs), or fewer than k of them.
    """
    made_of = {role: inputs[role].name for role in ("questions", "corpus")}
    table = NeighbourTable.open(inputs["passages"], k, **made_of, split=split, chunk_tokens=str(chunk_tokens))
    return PassageTokens(table, Chunks(Documents.open(inputs["corpus"]), chunk_tokens), prompt_chunks, tokens)


def passages_to_read(inputs: dict[str, Path], split: str, finetune: Any, chunk_tokens: int) -> PassageTokens | None:
    """Those that a `RetroFinetuneConfig` reads; None where it reads none."""
    if not finetune.k:
        return None
    return open_passages(inputs, split, finetune.k, chunk_tokens, finetune.prompt_chunks, finetune.passage_tokens)
