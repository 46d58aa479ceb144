"""Taggers that need a library or a model: spaCy pipelines, and token classifiers, given or trained here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlm.data.config import TokenClassificationTagger
from rlm.data.conll import TaggedSentence, read_conll, span_f1, tag_spans
from rlm.data.pretrained import locate
from rlm.data.salient_spans import CharSpan
from rlm.errors import ConfigError

if TYPE_CHECKING:
    import torch

BATCH = 64  # sentences tagged at a time
WARMUP = 0.1  # share of the training steps, as BERT's fine-tuning
LOG_EVERY = 10  # training steps
_AMOUNTS = {"CARDINAL", "MONEY", "ORDINAL", "PERCENT", "QUANTITY", "TIME"}


class SpacyEntities:
    """Entities of a spaCy pipeline, amounts left out: REALM masks named entities and dates.

    Raises:
        ConfigError: spaCy or the pipeline is not installed, or the pipeline finds no entities.
    """

    def __init__(self, pipeline: str) -> None:
        try:
            import spacy
        except ImportError as error:
            raise ConfigError(
                "salient_spans.kind: spacy is not installed: pip install 'rlm-lightning[spacy]'"
            ) from error
        try:
            self._pipeline = spacy.load(pipeline, exclude=["parser", "lemmatizer"])
        except OSError as error:
            raise ConfigError(
                f"salient_spans.pipeline: `{pipeline}` is no installed spaCy pipeline and no folder of one: "
                f"python -m spacy download {pipeline}"
            ) from error
        if not any("doc.ents" in self._pipeline.get_pipe_meta(name).assigns for name in self._pipeline.pipe_names):
            raise ConfigError(
                f"salient_spans.pipeline: `{pipeline}` has no component that finds entities "
                f"(it has: {', '.join(self._pipeline.pipe_names) or 'none'}); name one with `ner`"
            )

    def __call__(self, passages: Sequence[Sequence[str]]) -> list[list[CharSpan]]:
        return [
            [CharSpan(e.start_char, e.end_char, e.label_) for e in document.ents if e.label_ not in _AMOUNTS]
            for document in self._pipeline.pipe(chain.from_iterable(passages))
        ]


@dataclass(frozen=True)
class TokenClassifier:
    """A token-classification model with BIO or IO labels; a word has the label of its first word piece."""

    model: Any
    tokenizer: Any
    half: bool = False
    """Whether to tag and train under bfloat16 autocast."""

    @classmethod
    def open(cls, name: str, revision: str | None, device: str, half: bool) -> TokenClassifier:
        """A trained tagger, by folder or hub name.

        Raises:
            ConfigError: there is none, or its labels are not BIO or IO.
        """
        model, tokenizer = _load(name, revision)
        if "O" not in model.config.id2label.values():
            raise ConfigError(
                f"salient_spans.name: `{name}` has the labels {sorted(model.config.id2label.values())} and no `O`: "
                "not a trained tagger; give one, or `train_files` to train it"
            )
        return cls(model.to(device).eval(), tokenizer, half)

    @property
    def longest(self) -> int:
        """Word pieces that the model reads at once; it sees no entities beyond."""
        return min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings)

    def encode(self, texts: Sequence[Any], **options: Any) -> Any:
        """Word pieces of sentences, or of their words with `is_split_into_words`, cut to what the model reads."""
        return self.tokenizer(list(texts), truncation=True, max_length=self.longest, **options)

    def precision(self) -> torch.autocast:
        """Autocast to bfloat16, where it is fast."""
        import torch

        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.half)

    def batch(self, encoded: Any, rows: Sequence[int]) -> Any:
        """The given rows, padded, on the model's device."""
        inputs = {name: [encoded[name][row] for row in rows] for name in self.tokenizer.model_input_names}
        return self.tokenizer.pad(inputs, return_tensors="pt").to(self.model.device)

    def piece_labels(self, encoded: Any) -> list[list[str]]:
        """The label of each word piece; rows of like length are computed together."""
        import torch

        names = self.model.config.id2label
        lengths = np.array([len(ids) for ids in encoded["input_ids"]])
        order = np.argsort(lengths, kind="stable").tolist()
        found: list[list[str]] = [[] for _ in order]
        for first in range(0, len(order), BATCH):
            rows = order[first : first + BATCH]
            with torch.inference_mode(), self.precision():
                best = self.model(**self.batch(encoded, rows)).logits.argmax(-1).tolist()
            for row, labels in zip(rows, best, strict=True):
                found[row] = [names[label] for label in labels[: lengths[row]]]
        return found

    def __call__(self, passages: Sequence[Sequence[str]]) -> list[list[CharSpan]]:
        """Entities of each sentence, in characters."""
        encoded = self.encode(list(chain.from_iterable(passages)), return_offsets_mapping=True)
        spans = []
        for row, labels in enumerate(self.piece_labels(encoded)):
            words = _words(encoded.word_ids(row))
            offsets = encoded["offset_mapping"][row]
            tags = [labels[first] for first, _ in words]
            spans.append(
                [
                    CharSpan(offsets[words[start][0]][0], offsets[words[end - 1][1] - 1][1], kind)
                    for start, end, kind in tag_spans(tags)
                ]
            )
        return spans

    def score(self, sentences: Sequence[TaggedSentence]) -> dict[str, float]:
        """Span precision, recall and F1; words beyond what the model reads count as `O`."""
        encoded = self.encode([sentence.words for sentence in sentences], is_split_into_words=True)
        predicted = []
        for row, labels in enumerate(self.piece_labels(encoded)):
            tags = ["O"] * len(sentences[row].words)
            word_ids = encoded.word_ids(row)
            for first, _ in _words(word_ids):
                tags[word_ids[first]] = labels[first]
            predicted.append(tags)
        return span_f1([sentence.tags for sentence in sentences], predicted)


def _words(word_ids: Sequence[int | None]) -> list[tuple[int, int]]:
    """First and last (exclusive) word piece of each word; special tokens belong to none."""
    words: list[tuple[int, int]] = []
    for i, word in enumerate(word_ids):
        if word is not None and i and word == word_ids[i - 1]:
            words[-1] = (words[-1][0], i + 1)
        elif word is not None:
            words.append((i, i + 1))
    return words


def _load(name: str, revision: str | None, **options: Any) -> tuple[Any, Any]:
    """Model and tokenizer of a checkpoint.

    Raises:
        ConfigError: there is none, or its tokenizer is not a fast one.
    """
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    try:
        with _quiet():
            model = AutoModelForTokenClassification.from_pretrained(locate(name), revision=revision, **options)
            tokenizer = AutoTokenizer.from_pretrained(locate(name), revision=revision)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"salient_spans.name: `{name}` is no folder with a checkpoint and the hub did not give one ({error}); "
            "write the path of a downloaded one"
        ) from error
    if not tokenizer.is_fast:
        raise ConfigError(f"salient_spans.name: `{name}` has no fast tokenizer, which tells where word pieces lie")
    return model, tokenizer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars and the warning that a new head is untrained: it is trained next."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


def train_token_classifier(
    config: TokenClassificationTagger,
    files: Sequence[Path],
    device: str,
    half: bool,
    seed: int,
    log: Callable[[Mapping[str, float], int], None],
    progress: Callable[..., None],
) -> tuple[TokenClassifier, dict[str, float]]:
    """Train a token classifier on all files but the last, and score it on the last after each epoch.

    AdamW, linear decay after a warm-up over the first tenth of the steps (Devlin et al. 2019, section 5.3, whose
    tagger REALM uses). Every piece of a word is trained, so that tagging does not depend on where words are split.

    Returns:
        The tagger after the last epoch, and its precision, recall and F1 on the last file.

    Raises:
        ConfigError: fewer than two files, one that is not there, or an encoder that cannot be had.
        ValueError: a file that is not in CoNLL's form, with file and line.
    """
    import torch

    if len(files) < 2:
        raise ConfigError("salient_spans.train_files: give at least two, those to train on and then one to score")
    for path in files:
        if not path.is_file():
            raise ConfigError(f"salient_spans.train_files: {path} is not there; paths are relative to `--data`")
    *train, dev = [read_conll(path) for path in files]
    sentences = list(chain.from_iterable(train))
    kinds = sorted({tag[2:] for sentence in sentences for tag in sentence.tags if tag != "O"})
    ids = {name: i for i, name in enumerate(["O", *(f"{prefix}-{kind}" for kind in kinds for prefix in "BI")])}
    torch.manual_seed(seed)
    labels = {"num_labels": len(ids), "label2id": ids, "id2label": {i: name for name, i in ids.items()}}
    # a tagger of other labels is an encoder to start from, too
    model, tokenizer = _load(config.name, config.revision, ignore_mismatched_sizes=True, **labels)
    tagger = TokenClassifier(model.to(device), tokenizer, half)
    encoded = tagger.encode([sentence.words for sentence in sentences], is_split_into_words=True)
    targets = [_targets(encoded.word_ids(row), sentence.tags, ids) for row, sentence in enumerate(sentences)]

    steps = config.epochs * -(-len(sentences) // config.batch_size)
    warmup = max(1, round(WARMUP * steps))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
    )
    order = torch.Generator().manual_seed(seed)
    step = 0
    for _ in range(config.epochs):
        model.train()
        for rows in torch.randperm(len(sentences), generator=order).split(config.batch_size):
            batch = tagger.batch(encoded, rows.tolist())
            wanted = torch.full_like(batch["input_ids"], -100)
            for i, row in enumerate(rows.tolist()):
                wanted[i, : len(targets[row])] = torch.tensor(targets[row])
            with tagger.precision():
                loss = model(**batch, labels=wanted).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            if step % LOG_EVERY == 0 or step == steps:
                log({"tagger_loss": loss.item()}, step)
                progress(step, steps, loss=loss.item())
        model.eval()
        scores = {f"tagger_{name}": value for name, value in tagger.score(dev).items()}
        log(scores, step)
    return tagger, scores


def _targets(word_ids: Sequence[int | None], tags: Sequence[str], ids: Mapping[str, int]) -> list[int]:
    """Label of each word piece: its word's, continued by the pieces after the first; -100 where there is no word."""
    found = []
    for i, word in enumerate(word_ids):
        if word is None:
            found.append(-100)
        elif i and word == word_ids[i - 1] and tags[word] != "O":
            found.append(ids[f"I-{tags[word][2:]}"])
        else:
            found.append(ids[tags[word]])
    return found
