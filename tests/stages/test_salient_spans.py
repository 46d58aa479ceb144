"""The stage's table against a loop over passages, sentences and word pieces."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from rlm.config import Runtime
from rlm.data.config import CorpusConfig, EncyclopediaSource, RulesTagger, TokenClassificationTagger, TrainedTokenizer
from rlm.data.corpus import Corpus, write_corpus
from rlm.data.salient_spans import SalientSpanTable, find_dates, tag_capitalised
from rlm.data.sentences import sentence_spans
from rlm.data.sources import Passage
from rlm.data.tokenizer import make_tokenizer
from rlm.errors import ConfigError, StageError
from rlm.stages import salient_spans

TEXTS = [
    "It rained. Nothing here had a name. However, it did.",
    "Ada Lovelace was born in London on 10 December 1815. Lovelace wrote in 1843!",
    "  In the 1990s, Émile Zola's “Germinal” sold well. It was translated by Havelock Ellis (1859–1939).",
    "the naïve Café de la Paix opened on May 5, 1862; the Café Anglais closed in 1913. Paris wept.",
]
PASSAGES = [Passage(str(i), f"Title {i}", text) for i, text in enumerate(TEXTS * 3)]


@dataclass
class Recorder:
    """A context that remembers."""

    runtime: Runtime = field(default_factory=Runtime)
    seed: int = 0
    threads: int = 1
    logged: list = field(default_factory=list)
    shown: list = field(default_factory=list)

    def log(self, metrics, step: int) -> None:
        self.logged.append((step, dict(metrics)))

    def progress(self, done: int, total: int, **values: float) -> None:
        self.shown.append((done, total))

    def all_read(self) -> None:
        pass


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    tokenizer = make_tokenizer(TrainedTokenizer(vocab_size=120), lambda: TEXTS)
    write_corpus(folder, PASSAGES, tokenizer, CorpusConfig(source=EncyclopediaSource(), packing="as_is"))
    return Corpus.open(folder)


def by_loop(corpus: Corpus) -> dict[tuple[int, int, int], list[tuple[int, int, str]]]:
    """Spans in word pieces of each sentence, from the offsets of the whole passage's tokens."""
    table = {}
    for row in range(len(corpus)):
        text = corpus.passage(row).text
        pieces = corpus.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        bounds = sentence_spans(text)
        phrases = tag_capitalised([[text[a:b] for a, b in bounds]])
        for (begin, end), found in zip(bounds, phrases, strict=True):
            first = sum(a < begin for a, _ in pieces)
            last = sum(b <= end for _, b in pieces)
            spans = [(b - a, -a, a, b, label) for a, b, label in [*found, *find_dates(text[begin:end])]]
            kept: list[tuple[int, int, str]] = []
            for _, _, a, b, label in sorted(spans, reverse=True):
                if not any(a < other_b and other_a < b for other_a, other_b, _ in kept):
                    kept.append((a, b, label))
            inside = []
            for a, b, label in sorted(kept):
                own = [i for i in range(first, last) if begin + a <= pieces[i][0] and pieces[i][1] <= begin + b]
                inside.append((own[0] - first, own[-1] + 1 - first, label))
            if inside:
                table[row, first, last] = inside
    return table


@pytest.mark.parametrize("chunk", [1, 5, 512])
def test_run__writes_the_table_that_a_loop_finds(corpus: Corpus, tmp_path: Path, monkeypatch, chunk: int) -> None:
    monkeypatch.setattr(salient_spans, "CHUNK", chunk)
    context = Recorder()
    metrics = salient_spans.run(RulesTagger(), {"text": corpus.folder}, tmp_path, context)
    table, report = SalientSpanTable.open(tmp_path), json.loads((tmp_path / "report.json").read_text())
    found = {
        tuple(table.sentences[i].tolist()): [
            (start, end, report["labels"][label])
            for start, end, label in zip(table.starts[i], table.ends[i], table.labels[i], strict=True)
        ]
        for i in range(len(table))
    }
    expected = by_loop(corpus)
    assert found == expected
    assert list(found) == sorted(found)
    counts = [len(spans) for spans in expected.values()]
    assert metrics == {
        "sentences": 27,
        "sentences_with_spans": len(counts),
        "spans": sum(counts),
        "spans_per_sentence": pytest.approx(sum(counts) / len(counts)),
    }
    assert report["label_counts"] == {
        label: sum(span[2] == label for spans in expected.values() for span in spans) for label in ("PHRASE", "DATE")
    }
    assert context.shown[-1] == (12, 12) and len(context.shown) == -(-12 // chunk)
    assert context.logged == [(12, {"spans_per_sentence": metrics["spans_per_sentence"]})]


def test_run__masks_what_it_says(corpus: Corpus, tmp_path: Path) -> None:
    salient_spans.run(RulesTagger(), {"text": corpus.folder}, tmp_path, Recorder())
    table = SalientSpanTable.open(tmp_path)
    passage, start, _ = table.sentences[0]
    body = corpus.tokens[passage][start:]
    spans = [corpus.tokenizer.decode(body[a:b]) for a, b in zip(table.starts[0], table.ends[0], strict=True)]
    assert spans == ["ada lovelace", "london", "10 december 1815"]


def test_run__writes_an_empty_table_where_nothing_is_salient(tmp_path: Path) -> None:
    folder, out = tmp_path / "corpus", tmp_path / "spans"
    folder.mkdir(), out.mkdir()
    texts = [Passage("0", "Title", "It rained. Nothing had a name.")]
    config = CorpusConfig(source=EncyclopediaSource(), packing="as_is")
    write_corpus(folder, texts, make_tokenizer(TrainedTokenizer(vocab_size=60), lambda: TEXTS), config)
    metrics = salient_spans.run(RulesTagger(), {"text": folder}, out, Recorder())
    assert metrics["sentences"] == 2 and metrics["spans"] == metrics["spans_per_sentence"] == 0
    table = SalientSpanTable.open(out)
    assert table.sentences.shape == (0, 3) and len(table.starts) == 0


def test_run__refuses_word_pieces_that_its_tokenizer_does_not_give(corpus: Corpus, tmp_path: Path, monkeypatch) -> None:
    changed = np.array(corpus.tokens.values)
    changed[3] += 1
    opened = Corpus.open(corpus.folder)
    object.__setattr__(opened.tokens, "values", changed)
    monkeypatch.setattr(Corpus, "open", lambda folder: opened)
    with pytest.raises(StageError, match=r"passages 0 to 11 do not give the word pieces stored beside them"):
        salient_spans.run(RulesTagger(), {"text": corpus.folder}, tmp_path, Recorder())


def test_run__asks_for_the_data_folder_of_train_files(corpus: Corpus, tmp_path: Path) -> None:
    config = TokenClassificationTagger(name="any", train_files=("train.conll", "dev.conll"))
    with pytest.raises(ConfigError, match="--data FOLDER"):
        salient_spans.run(config, {"text": corpus.folder}, tmp_path, Recorder())


def save_encoder(folder: Path, tokenizer) -> Path:
    """A tiny BERT from scratch."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_run__trains_a_tagger_from_conll_files_and_can_use_it_again(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "train.conll").write_text("Ada\tB-PER\nLovelace\tI-PER\nwas\tO\nin\tO\nLondon\tB-LOC\n\n" * 40)
    (tmp_path / "dev.conll").write_text("Ada\tB-PER\nwas\tO\nin\tO\nLondon\tB-LOC\n")
    encoder = save_encoder(tmp_path / "encoder", corpus.tokenizer)
    config = TokenClassificationTagger(
        name=str(encoder), train_files=("train.conll", "dev.conll"), epochs=2, batch_size=8, learning_rate=1e-2
    )
    context = Recorder(runtime=Runtime(data=tmp_path, device="cpu"))
    trained, again = tmp_path / "trained", tmp_path / "again"
    trained.mkdir(), again.mkdir()
    metrics = salient_spans.run(config, {"text": corpus.folder}, trained, context)
    report = json.loads((trained / "report.json").read_text())
    assert metrics["tagger_f1"] == report["tagger_f1"] > 0.5
    assert {"PER", "LOC", "DATE"} == set(report["labels"])
    assert [step for step, logged in context.logged if "tagger_f1" in logged] == [5, 10]
    given = TokenClassificationTagger(name=str(trained / "tagger"))
    salient_spans.run(given, {"text": corpus.folder}, again, Recorder(runtime=Runtime(device="cpu")))
    first, second = SalientSpanTable.open(trained), SalientSpanTable.open(again)
    assert np.array_equal(first.sentences, second.sentences)
    assert np.array_equal(first.starts.values, second.starts.values)
    assert np.array_equal(first.labels.values, second.labels.values)
