"""A spaCy pipeline saved on disk, and tiny token classifiers, trained on a rule that they can learn."""

import random
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForTokenClassification, BertTokenizerFast

from rlm.data.config import TokenClassificationTagger
from rlm.data.conll import TaggedSentence
from rlm.data.salient_spans import CharSpan
from rlm.data.taggers import SpacyEntities, TokenClassifier, train_token_classifier
from rlm.errors import ConfigError

NAMES, PLACES = ["ada", "grace", "alan"], ["paris", "london", "oslo"]
WORDS = [*NAMES, *PLACES, "went", "to", "and", "saw", "mrs", "old", "##ton", "."]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def save_encoder(folder: Path, **labels) -> Path:
    """A tiny BERT from scratch."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=20,
        **labels,
    )
    BertForTokenClassification(config).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def write_conll(path: Path, count: int, seed: int) -> Path:
    """One to three times `Mrs ada went to paris .`; a name has a title before it, or `ton` at its end."""
    draw, lines = random.Random(seed), []
    for _ in range(count):
        for _ in range(draw.randrange(1, 4)):
            if draw.random() < 0.5:
                lines += ["Mrs\tB-PER", f"{draw.choice(NAMES)}\tI-PER"]
            else:
                lines += [f"{draw.choice(NAMES)}ton\tB-PER"]
            lines += ["went\tO", "to\tO", f"{draw.choice(PLACES)}\tB-LOC", ".\tO"]
        lines += [""]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ner")
    files = [write_conll(folder / "train.conll", 150, 0), write_conll(folder / "dev.conll", 30, 1)]
    encoder = save_encoder(folder / "encoder")
    logged, shown = [], []

    def train(seed: int):
        return train_token_classifier(
            TokenClassificationTagger(name=str(encoder), epochs=4, batch_size=8, learning_rate=5e-3),
            files,
            "cpu",
            False,
            seed,
            lambda metrics, step: logged.append((step, dict(metrics))),
            lambda done, total, **values: shown.append((done, total)),
        )

    tagger, scores = train(0)
    return tagger, scores, logged, shown, train


def test_train_token_classifier__learns_a_rule_and_logs_loss_and_f1(trained) -> None:
    _, scores, logged, shown, _ = trained
    assert scores["tagger_f1"] > 0.95
    assert [step for step, metrics in logged if "tagger_f1" in metrics] == [19, 38, 57, 76]
    losses = [metrics["tagger_loss"] for _, metrics in logged if "tagger_loss" in metrics]
    assert losses[-1] < 0.2 * losses[0]
    assert shown[-1] == (76, 76)


def test_train_token_classifier__is_the_same_for_the_same_seed(trained) -> None:
    tagger, _, _, _, train = trained
    again, other = train(0)[0], train(1)[0]
    weights = [t.model.classifier.weight.detach() for t in (tagger, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_token_classifier__finds_spans_in_characters_whatever_the_order_and_lengths(trained) -> None:
    tagger = trained[0]
    sentences = [
        ["Mrs Ada went to  Paris.", "Gracetón went to Oslo ."],
        ["Mrs Alan went to London . Mrs Alan went to London ."],
        ["Adaton went to Paris"],
    ]
    tagged = tagger(sentences)
    expected = [
        ["PER:Mrs Ada", "LOC:Paris"],
        ["PER:Gracetón", "LOC:Oslo"],
        ["PER:Mrs Alan", "LOC:London"] * 2,
        ["PER:Adaton", "LOC:Paris"],
    ]
    flat = [sentence for passage in sentences for sentence in passage]
    found = [[f"{s.label}:{text[s.start : s.end]}" for s in spans] for text, spans in zip(flat, tagged, strict=True)]
    assert found == expected
    assert tagged == [spans for text in flat for spans in tagger([[text]])]


def test_token_classifier__reads_to_its_longest_input(trained) -> None:
    tagger = trained[0]
    words = ("Mrs", "Ada", "went", "to", "Paris", ".") * 4
    gold = ("B-PER", "I-PER", "O", "O", "B-LOC", "O") * 4
    found = [span.label for span in tagger([[" ".join(words)]])[0]]
    assert found == ["PER", "LOC"] * 3  # 18 word pieces and two special tokens
    assert tagger.score([TaggedSentence(words, gold)]) == pytest.approx(
        {"precision": 1, "recall": 6 / 8, "f1": 12 / 14}
    )


def test_token_classifier__takes_words_as_conll_files_have_them(trained) -> None:
    tagger = trained[0]
    asked: list[list[str]] = []
    recording = TokenClassifier(tagger.model, tagger.tokenizer)
    object.__setattr__(recording, "tags", lambda sentences: asked.extend(sentences) or [["O"] * 99] * len(sentences))
    recording([["J. O'Brien's (U.S.) ex-wife, Ada’s", "vitamin C."]])
    assert asked == [
        ["J.", "O'Brien", "'s", "(", "U.S.", ")", "ex-wife", ",", "Ada", "’s"],
        ["vitamin", "C", "."],
    ]


def test_token_classifier__open_gives_what_was_saved(trained, tmp_path: Path) -> None:
    tagger = trained[0]
    tagger.model.save_pretrained(tmp_path)
    tagger.tokenizer.save_pretrained(tmp_path)
    opened = TokenClassifier.open(str(tmp_path), None, "cpu", False)
    passages = [["Mrs Grace went to Oslo.", "old Paris and Alanton."]]
    assert opened(passages) == tagger(passages)


def test_token_classifier__open_refuses_a_model_that_is_no_tagger(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder")
    with pytest.raises(ConfigError, match=r"\['LABEL_0', 'LABEL_1'\] and no `O`: not a trained tagger"):
        TokenClassifier.open(str(folder), None, "cpu", False)


def test_token_classifier__open_names_a_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"salient_spans\.name: `.*nowhere` is no folder with a checkpoint"):
        TokenClassifier.open(str(tmp_path / "nowhere"), None, "cpu", False)


def train_on(files: list[Path], name: str = "unused") -> None:
    config = TokenClassificationTagger(name=name)
    train_token_classifier(config, files, "cpu", False, 0, lambda *_: None, lambda *_, **__: None)


def test_train_token_classifier__refuses_too_few_missing_and_damaged_files(tmp_path: Path) -> None:
    good, bad = write_conll(tmp_path / "good.conll", 3, 0), tmp_path / "bad.conll"
    bad.write_text("Ada\tB-PER\nPER\n")
    with pytest.raises(ConfigError, match="at least two"):
        train_on([good])
    with pytest.raises(ConfigError, match=r"none\.conll is not there; paths are relative to `--data`"):
        train_on([good, tmp_path / "none.conll"])
    with pytest.raises(ValueError, match=r"bad\.conll:2"):
        train_on([good, bad])


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    spacy = pytest.importorskip("spacy")
    folder = tmp_path_factory.mktemp("spacy") / "pipeline"
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler")
    labels = {"Ada Lovelace": "PERSON", "Oslo": "GPE", "two": "CARDINAL"}
    ruler.add_patterns([{"label": label, "pattern": pattern} for pattern, label in labels.items()])
    nlp.to_disk(folder)
    return folder


def test_spacy_entities__are_the_pipelines_without_amounts(pipeline: Path) -> None:
    tag = SpacyEntities(str(pipeline))
    found = tag([["Ada Lovelace saw two maps.", "Nothing here."], ["To Oslo!"]])
    assert found == [[CharSpan(0, 12, "PERSON")], [], [CharSpan(3, 7, "GPE")]]


def test_spacy_entities__names_the_command_for_a_missing_pipeline() -> None:
    pytest.importorskip("spacy")
    with pytest.raises(ConfigError, match="python -m spacy download en_no_such_pipeline"):
        SpacyEntities("en_no_such_pipeline")


def test_spacy_entities__refuses_a_pipeline_without_entities(tmp_path: Path) -> None:
    spacy = pytest.importorskip("spacy")
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.to_disk(tmp_path / "pipeline")
    with pytest.raises(ConfigError, match=r"no component that finds entities \(it has: sentencizer\)"):
        SpacyEntities(str(tmp_path / "pipeline"))


def test_spacy_entities__names_the_extra_when_spacy_is_missing(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ConfigError, match=r"pip install 'rlm-lightning\[spacy\]'"):
        SpacyEntities("en_core_web_sm")
