"""Stage: salient spans of every sentence of a corpus, found by a tagger and by a regular expression for dates."""

import json
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlm.data.config import RulesTagger, SpacyTagger, TaggerConfig
from rlm.data.corpus import Corpus
from rlm.data.salient_spans import Tagger, align, find_dates, tag_capitalised, without_overlaps
from rlm.data.sentences import sentence_spans
from rlm.data.taggers import SpacyEntities, TokenClassifier, train_token_classifier
from rlm.data.tokens import ArrayWriter, Ragged, RaggedWriter
from rlm.errors import ConfigError, StageError
from rlm.retrieval.bfloat16 import has_fast_bfloat16
from rlm.stages.stage import Context
from rlm.stages.training import accelerator

CHUNK = 512  # passages tagged together


def run(config: TaggerConfig, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes what `SalientSpanTable.open` reads, report.json, and `tagger/` where one is trained.

    Raises:
        ConfigError: the tagger cannot be had.
        StageError: the text's word pieces are not what its tokenizer gives.
    """
    corpus = Corpus.open(inputs["text"])
    tagger, metrics = _tagger(config, folder, context)
    context.all_read()
    report = {**write_spans(corpus, tagger, folder, context), **metrics}
    context.log({"spans_per_sentence": report["spans_per_sentence"]}, len(corpus))
    (folder / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    return {name: float(value) for name, value in report.items() if isinstance(value, int | float)}


def _tagger(config: TaggerConfig, folder: Path, context: Context) -> tuple[Tagger, dict[str, float]]:
    """The tagger, and its scores where the stage trains it."""
    if isinstance(config, RulesTagger):
        return tag_capitalised, {}
    if isinstance(config, SpacyTagger):
        return SpacyEntities(config.pipeline), {}
    device = accelerator(context.runtime)
    half = has_fast_bfloat16(torch.device(device))
    if not config.train_files:
        return TokenClassifier.open(config.name, config.revision, device, half), {}
    data = context.runtime.data
    if data is None:
        raise ConfigError("salient_spans.train_files: needs the folder they are in; give `--data FOLDER`")
    files = [data / name for name in config.train_files]
    tagger, scores = train_token_classifier(config, files, device, half, context.seed, context.log, context.progress)
    tagger.model.save_pretrained(folder / "tagger")
    tagger.tokenizer.save_pretrained(folder / "tagger")
    return tagger, scores


def write_spans(corpus: Corpus, tagger: Tagger, folder: Path, context: Context) -> dict[str, Any]:
    """Tag a corpus in memory that does not grow with it.

    Returns:
        sentences, sentences_with_spans, spans, spans_per_sentence (of those with spans), label_counts and labels.
    """
    sentences_file = ArrayWriter(folder / "sentences.npy", np.int64)
    ragged: dict[str, RaggedWriter] = {
        name: RaggedWriter(folder, name, np.int32) for name in ("starts", "ends", "labels")
    }
    labels: dict[str, int] = {}
    counts: Counter[str] = Counter()
    sentences = 0
    for first in range(0, len(corpus), CHUNK):
        rows = range(first, min(first + CHUNK, len(corpus)))
        passages = [_sentences(corpus.passage(row).text) for row in rows]
        flat = list(chain.from_iterable(passages))
        found = [
            without_overlaps([*spans, *find_dates(sentence)])
            for sentence, spans in zip(flat, tagger(passages), strict=True)
        ]
        starts, ends = _pieces(corpus, rows, passages, flat)
        sentence, start, end, position = align(found, starts, ends).T
        label = [name for spans in found for *_, name in spans]
        ids = np.array([labels.setdefault(label[i], len(labels)) for i in position], np.int64)
        counts.update(label[i] for i in position)
        held, begins = np.unique(sentence, return_index=True)
        passage = np.repeat(rows, [len(sentences) for sentences in passages])[held]
        body = corpus.tokens.offsets[passage] - corpus.tokens.offsets[first]
        sentences_file.append(
            np.stack([passage, starts.offsets[held] - body, starts.offsets[held + 1] - body], axis=1).ravel()
        )
        for name, values in (("starts", start), ("ends", end), ("labels", ids)):
            ragged[name].append([row.tolist() for row in np.split(values, begins)[1:]])
        sentences += len(flat)
        context.progress(rows[-1] + 1, len(corpus))
    sentences_file.close()
    for writer in ragged.values():
        writer.close()
    with_spans, spans = sentences_file.count // 3, sum(counts.values())
    return {
        "sentences": sentences,
        "sentences_with_spans": with_spans,
        "spans": spans,
        "spans_per_sentence": spans / max(with_spans, 1),
        "label_counts": dict(counts.most_common()),
        "labels": list(labels),
    }


def _sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


def _pieces(corpus: Corpus, rows: range, passages: Sequence[Sequence[str]], flat: list[str]) -> tuple[Ragged, Ragged]:
    """First and last (exclusive) character of each word piece of each sentence.

    Raises:
        StageError: the word pieces or the sentences are not those of the corpus.
    """
    encoded = corpus.tokenizer(
        flat,
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    pieces = Ragged.from_rows(encoded["input_ids"])
    low, high = corpus.tokens.offsets[[rows.start, rows.stop]]
    first, last = corpus.sentences.offsets[[rows.start, rows.stop]]
    bodies = np.repeat(corpus.tokens.offsets[rows.start : rows.stop] - low, [len(found) for found in passages])
    if not (
        np.array_equal(pieces.values, corpus.tokens.values[low:high])
        and np.array_equal(pieces.offsets[:-1] - bodies, corpus.sentences.values[first:last])
    ):
        raise StageError(
            f"{corpus.folder}: passages {rows.start} to {rows.stop - 1} do not give the word pieces stored beside them "
            "(written by another version of the tokenizer); delete the folder, and the corpus is written anew"
        )
    characters = np.fromiter(chain.from_iterable(chain.from_iterable(encoded["offset_mapping"])), np.int64)
    return Ragged(characters[::2], pieces.offsets), Ragged(characters[1::2], pieces.offsets)
