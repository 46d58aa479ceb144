"""Taggers that need a library or a model: spaCy pipelines, and token classifiers, given or trained here."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlm.data.checkpoint_files import positions_of
from rlm.data.config import TokenClassificationTagger
from rlm.data.conll import TaggedSentence, read_conll, span_f1, tag_spans
from rlm.data.pretrained import load_model, load_tokenizer
from rlm.data.salient_spans import CharSpan
from rlm.errors import ConfigError

if TYPE_CHECKING:
    import torch

BATCH = 64  # sentences tagged at a time
HEADS = ("classifier.", "score.")  # names of what is trained on top of an encoder
WARMUP = 0.1  # share of the training steps, as BERT's fine-tuning
LOG_EVERY = 10  # training steps
# The words of CoNLL's files: U.S. and O'Brien whole, the possessive 's and other marks apart.
_WORD = re.compile(r"(?:[^\W\d_]\.){2,}|[A-Z]\.(?=\s)|\w+(?:[-'’](?!s\b)\w+)*|['’]s\b|[^\w\s]")
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
        own, positions = self.tokenizer.model_max_length, positions_of(self.model.config.to_dict())
        return own if positions is None else min(own, positions)

    def encode(self, sentences: Sequence[Sequence[str]]) -> Any:
        """Word pieces of the words of sentences, cut to what the model reads."""
        words = [list(sentence) for sentence in sentences]
        return self.tokenizer(words, is_split_into_words=True, truncation=True, max_length=self.longest)

    def precision(self) -> torch.autocast:
        """Autocast to bfloat16, where it is fast."""
        import torch

        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.half)

    def batch(self, encoded: Any, rows: Sequence[int]) -> Any:
        """The given rows, padded, on the model's device."""
        inputs = {name: [encoded[name][row] for row in rows] for name in self.tokenizer.model_input_names}
        return self.tokenizer.pad(inputs, return_tensors="pt").to(self.model.device)

    def tags(self, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        """The tag of each word of sentences; those of like length are computed together."""
        import torch

        names = self.model.config.id2label
        encoded = self.encode(sentences)
        order = sorted(range(len(sentences)), key=lambda row: len(encoded["input_ids"][row]))
        found = [["O"] * len(sentence) for sentence in sentences]
        for first in range(0, len(order), BATCH):
            rows = order[first : first + BATCH]
            with torch.inference_mode(), self.precision():
                best = self.model(**self.batch(encoded, rows)).logits.argmax(-1).tolist()
            for row, labels in zip(rows, best, strict=True):
                for piece, word in _first_pieces(encoded.word_ids(row)):
                    found[row][word] = names[labels[piece]]
        return found

    def __call__(self, passages: Sequence[Sequence[str]]) -> list[list[CharSpan]]:
        """Entities of each sentence, in characters."""
        words = [list(_WORD.finditer(sentence)) for sentence in chain.from_iterable(passages)]
        tags = self.tags([[word.group() for word in sentence] for sentence in words])
        return [
            [CharSpan(found[start].start(), found[end - 1].end(), kind) for start, end, kind in tag_spans(row)]
            for found, row in zip(words, tags, strict=True)
        ]

    def score(self, sentences: Sequence[TaggedSentence]) -> dict[str, float]:
        """Span precision, recall and F1; words beyond what the model reads count as `O`."""
        return span_f1([sentence.tags for sentence in sentences], self.tags([sentence.words for sentence in sentences]))


def _first_pieces(word_ids: Sequence[int | None]) -> Iterator[tuple[int, int]]:
    """The first word piece of each word, and the word."""
    for piece, word in enumerate(word_ids):
        if word is not None and (piece == 0 or word != word_ids[piece - 1]):
            yield piece, word


def _load(name: str, revision: str | None, untrained: tuple[str, ...] = (), **options: Any) -> tuple[Any, Any]:
    """Model and tokenizer of a checkpoint; weights whose names start with `untrained` need not be in it.

    Raises:
        ConfigError: there is none, or its tokenizer is not a fast one.
    """
    from transformers import AutoModelForTokenClassification

    named = TokenClassificationTagger(name=name, revision=revision)
    failure = "is no folder with a checkpoint and the hub did not give one"
    with _quiet():
        model = load_model(AutoModelForTokenClassification, named, "salient_spans.name", failure, untrained, **options)
        tokenizer = load_tokenizer(named, "salient_spans.name", failure, add_prefix_space=True)
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
    tagger REALM uses); the first word piece of each word is labelled, as there.

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
    model, tokenizer = _load(config.name, config.revision, HEADS, ignore_mismatched_sizes=True, **labels)
    tagger = TokenClassifier(model.to(device), tokenizer, half)
    encoded = tagger.encode([sentence.words for sentence in sentences])
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
    """The label of each first word piece, -100 elsewhere."""
    targets = [-100] * len(word_ids)
    for piece, word in _first_pieces(word_ids):
        targets[piece] = ids[tags[word]]
    return targets
