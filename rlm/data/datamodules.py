"""Batches that are pure functions of (seed, step), and the DataModule that serves them.

A resumed run asks for the step it stopped at, and one or several data workers or ranks see the same examples: nothing
depends on the state of an iterator.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Protocol, Self

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from rlm.data.config import MaskingConfig
from rlm.data.corpus import Corpus
from rlm.data.masking import choose_masks, eligible, example_keys, uniform
from rlm.data.salient_spans import SalientSpanTable
from rlm.data.tokens import Batch, Ragged, SpecialTokens, join


class Order:
    """Shuffled examples, epoch after epoch; `example(step)` needs no iteration.

    Args:
        examples: the examples of an epoch, `examples(epoch) -> ids`; epochs may differ in length.
        seed: of the shuffles.
    """

    def __init__(self, examples: Callable[[int], NDArray[np.int64]], seed: int) -> None:
        self._examples = examples
        self._seed = seed
        self._ends = [0]
        self._shuffled = lru_cache(maxsize=2)(self._shuffle)

    def _shuffle(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng((self._seed, epoch)).permutation(self._examples(epoch))

    def __call__(self, step: int, batch_size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids and epochs of the examples of a step, each [batch_size]."""
        first, last = step * batch_size, (step + 1) * batch_size
        while self._ends[-1] < last:
            self._ends.append(self._ends[-1] + len(self._examples(len(self._ends) - 1)))
        ids, epochs = [], []
        for epoch in range(np.searchsorted(self._ends, first, "right") - 1, len(self._ends) - 1):
            start = self._ends[epoch]
            if start >= last:
                break
            ids.append(self._shuffled(epoch)[max(first - start, 0) : last - start])
            epochs.append(np.full(len(ids[-1]), epoch))
        return np.concatenate(ids), np.concatenate(epochs)

    def __getstate__(self) -> dict[str, Any]:
        return {"_examples": self._examples, "_seed": self._seed, "_ends": self._ends}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shuffled = lru_cache(maxsize=2)(self._shuffle)


class Batches(Protocol):
    """A step's examples; `rank` of `world` gets every world-th of them."""

    def __call__(self, step: int, rank: int, world: int) -> dict[str, Any]: ...


def share(rank: int, world: int, *arrays: NDArray) -> tuple[NDArray, ...]:
    """The examples of a rank: contiguous shares, so that gathering them in rank order restores the batch."""
    return tuple(np.array_split(array, world)[rank] for array in arrays)


def to_tensors(batch: Batch) -> dict[str, torch.Tensor]:
    """Ids, mask and segments of a batch as tensors, each [batch, length]."""
    return {
        "ids": torch.from_numpy(batch.ids),
        "mask": torch.from_numpy(batch.mask),
        "segments": torch.from_numpy(batch.segments),
    }


def remove(rows: Ragged, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Ragged:
    """Each row without its values from `starts` to before `ends` (equal bounds remove nothing)."""
    row = np.repeat(np.arange(len(rows)), rows.lengths)
    position = np.arange(len(rows.values)) - rows.offsets[row]
    kept = (position < starts[row]) | (position >= ends[row])
    lengths = np.bincount(row[kept], minlength=len(rows))
    return Ragged(rows.values[kept], np.concatenate([[0], np.cumsum(lengths)]))


class IctBatches:
    """Inverse cloze pairs: a sentence, and its passage with the sentence removed most of the time (ORQA, section 4).

    A passage of one sentence appears only among the examples that keep their sentence, as in the released code.
    """

    def __init__(
        self, corpus: Corpus, batch_size: int, keep_sentence: float, query_tokens: int, passage_tokens: int, seed: int
    ) -> None:
        self.corpus, self.batch_size, self.keep_sentence, self.seed = corpus, batch_size, keep_sentence, seed
        self.query_tokens, self.passage_tokens = query_tokens, passage_tokens
        if not keep_sentence and np.all(corpus.sentences.lengths == 1):
            raise ValueError("every passage has one sentence, which is always removed; raise `ict.keep_sentence`")
        self.order = Order(self._examples, seed)

    def _keeps(self, passages: NDArray[np.int64], epoch: NDArray[np.int64] | int) -> NDArray[np.bool_]:
        return uniform(example_keys(self.seed, epoch, passages), 0) < self.keep_sentence

    def _examples(self, epoch: int) -> NDArray[np.int64]:
        passages = np.arange(len(self.corpus))
        return passages[(self.corpus.sentences.lengths > 1) | self._keeps(passages, epoch)]

    def __call__(self, step: int, rank: int, world: int) -> dict[str, Any]:
        passages, epochs = share(rank, world, *self.order(step, self.batch_size))
        corpus, keys = self.corpus, example_keys(self.seed, epochs, passages)
        body, first = corpus.tokens.take(passages), corpus.sentences.take(passages)
        chosen = np.floor(uniform(keys, 1) * first.lengths).astype(np.int64)
        index = first.offsets[:-1] + chosen
        starts = first.values[index].astype(np.int64)
        is_last = chosen + 1 == first.lengths
        ends = np.where(is_last, body.lengths, first.values[np.minimum(index + 1, len(first.values) - 1)])
        sentences = remove(remove(body, ends, body.lengths), np.zeros_like(starts), starts)
        removed_ends = np.where(self._keeps(passages, epochs), starts, ends)
        rows = np.arange(len(passages))
        queries = join([sentences.take(rows, self.query_tokens - 2)], corpus.special)
        blocks = passage_batch(corpus, remove(body, starts, removed_ends), passages, self.passage_tokens)
        return {"queries": to_tensors(queries), "passages": to_tensors(blocks)}


def passage_batch(corpus: Corpus, bodies: Ragged, passages: NDArray[np.int64], limit: int) -> Batch:
    """`[CLS] title [SEP] body [SEP]`: the title is cut to the limit first, then the body to what is left (ORQA)."""
    titles = corpus.titles.take(passages, limit - 3)
    room = limit - 3 - titles.lengths
    return join([titles, remove(bodies, room, bodies.lengths)], corpus.special)


class MaskedSentences:
    """Masked sentences of the pre-training text, and the passages they came from (REALM, section 3.4).

    Every scheme draws from the same sentences (those with a salient span within reach), so that rows compare fairly.
    """

    def __init__(
        self,
        text: Corpus,
        spans: SalientSpanTable,
        batch_size: int,
        query_tokens: int,
        max_masks: int,
        seed: int,
    ) -> None:
        self.text, self.spans, self.batch_size, self.seed = text, spans, batch_size, seed
        self.query_tokens, self.max_masks = query_tokens, max_masks
        self.scheme: MaskingConfig | None = None  # installed by the Masking callback
        self.examples = np.flatnonzero(eligible(spans, query_tokens - 2, max_masks))
        if not len(self.examples):
            raise ValueError(
                "no sentence of the pre-training text has a salient span; try another `salient_spans.kind`, "
                f"or raise `pretrain.query_tokens` ({query_tokens}) or `pretrain.max_masks` ({max_masks})"
            )
        self.order = Order(self._examples, seed)

    @classmethod
    def of(cls, text: Corpus, spans: SalientSpanTable, config: Any, seed: int) -> Self:
        """As a stage's configuration (of the warm start or of pre-training) says."""
        return cls(text, spans, config.training.batch_size, config.query_tokens, config.max_masks, seed)

    def _examples(self, epoch: int) -> NDArray[np.int64]:
        return self.examples

    def __call__(self, step: int, rank: int, world: int) -> dict[str, Any]:
        return self.batch(*share(rank, world, *self.order(step, self.batch_size)))

    def batch(self, examples: NDArray[np.int64], epochs: NDArray[np.int64] | int) -> dict[str, Any]:
        """The given sentences, masked.

        Returns:
            masked: Ragged sentences with [MASK] at the masked word pieces; whole: the same unmasked;
            positions [batch, masks]: of masked word pieces in the sentence, -1 beyond; targets [batch, masks];
            source [batch]: identity of the passage each came from.
        """
        if self.scheme is None:
            raise RuntimeError("no masking scheme installed: add the Masking callback to the Trainer")
        passage, start, end = self.spans.sentences[examples].T
        body = self.text.tokens.take(passage)
        limit = np.minimum(end, start + self.query_tokens - 2)
        whole = remove(remove(body, limit, body.lengths), np.zeros_like(start), start)
        keys = example_keys(self.seed, epochs, examples)
        chosen = choose_masks(
            self.scheme, whole, self.spans.starts.take(examples), self.spans.ends.take(examples), keys, self.max_masks
        )
        values = whole.values.astype(np.int64)
        row = np.repeat(np.arange(len(examples)), whole.lengths)[chosen]
        counts = np.bincount(row, minlength=len(examples))
        column = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        positions = np.full((len(examples), max(int(counts.max()), 1)), -1)
        positions[row, column] = np.flatnonzero(chosen) - whole.offsets[row]
        targets = np.zeros_like(positions)
        targets[row, column] = values[chosen]
        masked = np.where(chosen, self.text.special.mask, values)
        return {
            "masked": Ragged(masked, whole.offsets),
            "whole": whole,
            "positions": torch.from_numpy(positions),
            "targets": torch.from_numpy(targets),
            "source": self.text.identity[passage],
        }


class QuestionBatches:
    """Questions of a split, tokenised once."""

    def __init__(self, tokens: Ragged, batch_size: int, seed: int) -> None:
        self.tokens, self.batch_size = tokens, batch_size
        self.order = Order(self._examples, seed)

    def _examples(self, epoch: int) -> NDArray[np.int64]:
        return np.arange(len(self.tokens))

    def __call__(self, step: int, rank: int, world: int) -> dict[str, Any]:
        (questions,) = share(rank, world, self.order(step, self.batch_size)[0])
        return {"questions": questions, "tokens": self.tokens.take(questions)}


class _Steps(Dataset[dict[str, Any]]):
    def __init__(self, batches: Batches, rank: int, world: int) -> None:
        self.batches, self.rank, self.world = batches, rank, world

    def __getitem__(self, step: int) -> dict[str, Any]:
        return self.batches(step, self.rank, self.world)


def _unchanged(batch: Any) -> Any:
    return batch


class _From(Sampler[int]):
    """Steps from the one to resume at; its length counts those already done, as Lightning's progress does."""

    def __init__(self, first: int, total: int) -> None:
        self.first, self.total = first, total

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.total))

    def __len__(self) -> int:
        return self.total


class StepDataModule(pl.LightningDataModule):
    """Serves `batches(step)` for every optimizer step of a training run."""

    def __init__(self, batches: Batches, steps: int, workers: int = 0) -> None:
        super().__init__()
        self.batches, self.steps, self.workers = batches, steps, workers

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        assert trainer is not None
        dataset = _Steps(self.batches, trainer.global_rank, trainer.world_size)
        sampler = _From(trainer.global_step, self.steps)
        # without a collate function torch would turn every array into a tensor
        return DataLoader(dataset, batch_size=None, sampler=sampler, num_workers=self.workers, collate_fn=_unchanged)


def special_tokens(tokenizer: Any) -> SpecialTokens:
    """The ids of a BERT-like tokenizer's special tokens."""
    return SpecialTokens(
        cls=tokenizer.cls_token_id, sep=tokenizer.sep_token_id, pad=tokenizer.pad_token_id, mask=tokenizer.mask_token_id
    )
