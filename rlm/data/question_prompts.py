"""Questions as prompts of whole chunks, passages as neighbours of a prompt, answers after it.

RETRO's form (Borgeaud et al. 2021, 2112.04426, section 4.3): "question: {question} \\n answer:" fills a chunk, whose
last token is the first to read the passages found for the question, and predicts the answer's first.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlm.data.chunks import Chunks
from rlm.data.datamodules import Order, share
from rlm.data.masking import example_keys, uniform
from rlm.data.text_windows import Table
from rlm.data.tokenizer import encode

PROMPT = "question: {} \n answer:"
TITLE = "title: {}, source:"


def prompts(tokenizer: Any, questions: Sequence[str], tokens: int, start: int) -> tuple[NDArray[np.int64], int]:
    """Prompts of equal length; what is in front of a short one is the token that starts documents, again and again.

    Args:
        tokenizer: of the language model.
        questions: as asked.
        tokens: of a prompt; a longer one loses its beginning.
        start: fills a shorter one.

    Returns:
        ids [questions, tokens], and how many questions were cut.
    """
    rows = encode(tokenizer, [PROMPT.format(question) for question in questions])
    ids = np.full((len(rows), tokens), start)
    for filled, row in zip(ids, rows, strict=True):
        filled[max(tokens - len(row), 0) :] = row[-tokens:]
    return ids, sum(len(row) > tokens for row in rows)


def answer_tokens(tokenizer: Any, answers: Sequence[str], end: int, limit: int) -> list[list[int]]:
    """Answers as they follow a prompt, each with `end` after it; those of more than `limit` tokens are left out."""
    rows = [[*row, end] for row in encode(tokenizer, [f" {answer}" for answer in answers])]
    return [row for row in rows if 1 < len(row) <= limit]


class PassageTokens:
    """The passages found for questions, as "title: {title}, source: {source}" and neighbours of their prompts.

    The source is the chunk found and its continuation, cut to what the title leaves. Only the last chunk of a prompt
    has neighbours.

    Args:
        table: chunks found for each question, [questions, k].
        corpus: chunks that the table numbers.
        prompt_chunks: of a prompt.
        tokens: of a passage (r); None takes two chunks, the length of a neighbour.
    """

    def __init__(self, table: Table, corpus: Chunks, prompt_chunks: int = 1, tokens: int | None = None) -> None:
        self.table, self.corpus, self.prompt_chunks = table, corpus, prompt_chunks
        self.tokens = 2 * corpus.chunk_tokens if tokens is None else tokens

    @cached_property
    def _tokenizer(self) -> Any:
        return self.corpus.documents.tokenizer

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_tokenizer"}

    def _rows(self, questions: NDArray[np.int64]) -> list[tuple[list[int], list[int]]]:
        """Title and source of each passage, together of at most `tokens`; k for each question."""
        chunks, documents = self.corpus, self.corpus.documents
        found = np.asarray(self.table.ids[questions]).ravel()
        owners = chunks.document_of(found)
        titles = encode(self._tokenizer, [TITLE.format(documents.title(int(owner))) for owner in owners])
        begins, ends = chunks.starts(found), chunks.stops(found, 2)
        begins += found == chunks.first[owners]  # without the token that starts the document
        rows = []
        for title, begin, end in zip((title[: self.tokens] for title in titles), begins, ends, strict=True):
            rows.append((title, documents.tokens.values[begin:end][: self.tokens - len(title)].tolist()))
        return rows

    def __call__(self, questions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Ids, padded, and mask, True on tokens: each [batch, prompt chunks, k, r]."""
        k = self.table.ids.shape[1]
        shape = (len(questions), self.prompt_chunks, k, self.tokens)
        ids, mask = np.full(shape, self.corpus.documents.pad), np.zeros(shape, bool)
        for place, (title, source) in enumerate(self._rows(questions)):
            row, where = [*title, *source], (place // k, -1, place % k)
            ids[where][: len(row)], mask[where][: len(row)] = row, True
        return ids, mask

    def sources(self, questions: NDArray[np.int64]) -> list[list[str]]:
        """Text of the passages of each question, without titles, as far as it is read."""
        decoder, k = self._tokenizer.backend_tokenizer, self.table.ids.shape[1]
        texts = decoder.decode_batch([source for _, source in self._rows(questions)])
        return [texts[first : first + k] for first in range(0, len(texts), k)]

    def names(self, question: int) -> list[str]:
        """`document#chunk` of each passage; the first chunk of a document is 0."""
        found = np.asarray(self.table.ids[question])
        owners = self.corpus.document_of(found)
        places = found - self.corpus.first[owners]
        return [f"{self.corpus.documents.id(int(o))}#{place}" for o, place in zip(owners, places, strict=True)]


class AnswerBatches:
    """Prompts with answers to train on: a pure function of seed and step, as other `Batches`.

    A question with several answers is trained on one of them, drawn anew in each epoch.

    Args:
        prompts: ids, [questions, tokens].
        answers: tokens of each question's answers, its end included; one without any is never asked.
        passages: as neighbours; None reads none.
        batch_size: questions of a step.
        seed: of order and draws.

    Raises:
        ValueError: no question has an answer.
    """

    def __init__(
        self,
        prompts: NDArray[np.int64],
        answers: Sequence[Sequence[Sequence[int]]],
        passages: PassageTokens | None,
        batch_size: int,
        seed: int,
    ) -> None:
        self.prompts, self.answers, self.passages = prompts, answers, passages
        self.batch_size, self.seed = batch_size, seed
        self.asked = np.array([row for row, known in enumerate(answers) if known], np.int64)
        if not len(self.asked):
            raise ValueError(
                f"none of {len(answers)} questions has an answer to train on: each is longer than "
                "`finetune.answer_tokens`, or a pattern that matches nothing in the passages found"
            )
        self.order = Order(self._examples, seed)

    def _examples(self, epoch: int) -> NDArray[np.int64]:
        return self.asked

    def __call__(self, step: int, rank: int, world: int) -> dict[str, Any]:
        return self.batch(*share(rank, world, *self.order(step, self.batch_size)))

    def batch(self, questions: NDArray[np.int64], epochs: NDArray[np.int64] | int = 0) -> dict[str, Any]:
        """The given questions.

        Returns:
            ids, targets (the token after each): int64 [batch, length]; scored: True on the answer and its end, bool
            [batch, length]; with passages, neighbour_ids and neighbour_mask: [batch, prompt chunks, k, r].
        """
        drawn = uniform(example_keys(self.seed, epochs, questions), 0)
        known = [self.answers[question] for question in questions.tolist()]
        chosen = [answers[int(draw * len(answers))] for answers, draw in zip(known, drawn, strict=True)]
        asked, longest = self.prompts.shape[1], max(map(len, chosen))
        whole = np.zeros((len(questions), asked + longest), np.int64)
        whole[:, :asked] = self.prompts[questions]
        scored = np.zeros((len(questions), asked + longest - 1), bool)
        for row, answer in enumerate(chosen):
            whole[row, asked : asked + len(answer)] = answer
            scored[row, asked - 1 : asked - 1 + len(answer)] = True
        found = {"ids": whole[:, :-1], "targets": whole[:, 1:], "scored": scored}
        if self.passages is not None:
            found["neighbour_ids"], found["neighbour_mask"] = self.passages(questions)
        return {name: torch.from_numpy(value) for name, value in found.items()}
