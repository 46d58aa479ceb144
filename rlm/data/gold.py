"""Where answers stand in passages: the supervision of open-QA fine-tuning."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlm.answer_patterns import usable_patterns
from rlm.data.corpus import Corpus
from rlm.data.qa import Question
from rlm.data.tokens import Ragged


class _Lookup:
    """Where every word piece stands in a corpus's token array; much memory, for as long as strings are looked up."""

    def __init__(self, corpus: Corpus) -> None:
        self._tokens = np.asarray(corpus.tokens.values)
        self.owner = np.repeat(np.arange(len(corpus)), corpus.tokens.lengths)
        self._by_token = np.argsort(self._tokens, kind="stable")
        self._token_ends = np.cumsum(np.bincount(self._tokens, minlength=corpus.vocab_size))

    def positions(self, pieces: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where a run of word pieces starts."""
        counts = np.diff(self._token_ends, prepend=0)[pieces]
        rarest = int(np.argmin(counts))
        last = self._token_ends[pieces[rarest]]
        starts = self._by_token[last - counts[rarest] : last] - rarest
        starts = starts[(starts >= 0) & (starts + len(pieces) <= len(self._tokens))]
        for shift, piece in enumerate(pieces):
            starts = starts[self._tokens[starts + shift] == piece]
        return np.sort(starts[self.owner[starts] == self.owner[starts + len(pieces) - 1]])


class GoldAnswers:
    """Occurrences of each question's answers in the corpus.

    Strings are matched as word pieces (so `Lee` does not match `leeds`), regular expressions by search in the passage
    text, whose matches become gold spans (the released code cannot train on them). A string with unknown word pieces
    is nowhere, for [UNK] is any word; nor is a regular expression that is invalid or takes too long, of which a
    warning tells once. Strings are looked up once in a list of the positions of every word piece; regular expressions
    only in what is retrieved.
    """

    def __init__(self, corpus: Corpus, questions: Sequence[Question]) -> None:
        self.corpus = corpus
        lookup = _Lookup(corpus)
        self._found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] | None] = [
            self._strings(question, lookup) if question.answer_kind == "string" else None for question in questions
        ]
        self._patterns = {
            row: usable_patterns(question.answers)
            for row, question in enumerate(questions)
            if question.answer_kind == "regex"
        }
        self._matches = lru_cache(maxsize=200_000)(self._search)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_matches"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._matches = lru_cache(maxsize=200_000)(self._search)

    def _strings(
        self, question: Question, lookup: _Lookup
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Passage, start and end of every occurrence, by passage."""
        encoded = self.corpus.tokenizer(list(question.answers), add_special_tokens=False)["input_ids"]
        unknown = self.corpus.tokenizer.unk_token_id
        runs = [np.array(pieces) for pieces in dict.fromkeys(map(tuple, encoded)) if pieces and unknown not in pieces]
        starts = [lookup.positions(pieces) for pieces in runs]
        lengths = np.repeat([len(pieces) for pieces in runs], [len(found) for found in starts]).astype(np.int64)
        absolute = np.concatenate([*starts, np.zeros(0, np.int64)]).astype(np.int64)
        passage = lookup.owner[absolute]
        order = np.argsort(passage, kind="stable")
        begin = absolute - self.corpus.tokens.offsets[passage]
        return passage[order], begin[order], (begin + lengths)[order]

    def _search(self, row: int, passage: int) -> tuple[tuple[int, int], ...]:
        """Word-piece spans of a regular expression's matches in a passage; empty matches do not count."""
        text = self.corpus.passage(passage).text
        spans = {span for pattern in self._patterns[row] for span in pattern.spans(text)}
        if not (spans := {span for span in spans if span[0] < span[1]}):
            return ()
        offsets = np.asarray(
            self.corpus.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        )
        first = np.searchsorted(offsets[:, 1], [start for start, _ in spans], "right")
        last = np.searchsorted(offsets[:, 0], [end for _, end in spans], "left")
        return tuple(sorted({(int(a), int(b)) for a, b in zip(first, last, strict=True) if a < b}))

    def contained(self, questions: NDArray[np.int64], passages: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each passage holds an answer to its question, [questions, passages]."""
        return np.stack([self._contained(int(q), row) for q, row in zip(questions, passages, strict=True)])

    def _contained(self, row: int, passages: NDArray[np.int64]) -> NDArray[np.bool_]:
        if (found := self._found[row]) is not None:
            return np.isin(passages, found[0])
        return np.array([bool(self._matches(row, int(passage))) for passage in passages])

    def occurrences(
        self, questions: NDArray[np.int64], passages: NDArray[np.int64], limit: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Every occurrence of an answer within the first `limit` word pieces of the given passages.

        Args:
            questions: rows of the questions, [batch].
            passages: ids, [batch, count].
            limit: word pieces read of a passage.

        Returns:
            Arrays of [occurrences]: row of the batch, column of `passages`, first word piece, one after the last.
        """
        batch: list[tuple[int, int, int, int]] = []
        for i, (question, row) in enumerate(zip(questions, passages, strict=True)):
            found = self._found[int(question)]
            for j, passage in enumerate(row):
                if found is None:
                    spans = self._matches(int(question), int(passage))
                else:
                    first, last = np.searchsorted(found[0], [passage, passage + 1])
                    spans = tuple(zip(found[1][first:last], found[2][first:last], strict=True))
                batch += [(i, j, int(start), int(end)) for start, end in spans if end <= limit]
        columns = np.asarray(batch, np.int64).reshape(-1, 4).T
        return columns[0], columns[1], columns[2], columns[3]


def question_tokens(corpus: Corpus, questions: Sequence[Question]) -> Ragged:
    """Word pieces of the questions, without special tokens."""
    encoded = corpus.tokenizer([question.question for question in questions], add_special_tokens=False)["input_ids"]
    return Ragged.from_rows(encoded)
