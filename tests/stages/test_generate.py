"""`rlm generate` on a tiny trained store: its look-ups against the computed neighbours, its text against the tokens."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from rlm.cli import main
from rlm.config import to_plain
from rlm.data.chunks import Chunks
from rlm.data.documents import Documents
from rlm.data.text_windows import NeighbourTokens
from rlm.data.tokenizer import encode
from rlm.errors import ConfigError
from rlm.models.generation import Sampling, generate
from rlm.models.retro import build_retro
from rlm.models.retro_config import PerplexityConfig, PretrainedDecoder
from rlm.models.retro_training import load_retro, save_retro
from rlm.retrieval.config import ChunkEncoderConfig, ChunkIndexConfig, NeighboursConfig, ScratchEncoder
from rlm.retrieval.neighbours import NeighbourTable
from rlm.stages import chunk_index, neighbours
from rlm.stages.generate import LookUp, end_tokens, open_look_up, shortened
from rlm.stages.retro_train import WEIGHTS
from rlm.stages.store import read_record
from tests.stages.retro_world import MODEL, TRAIN, M, made, train, write_retro_world

PROMPT = "The mayor of the town said that the bridge would be opened by"
GREEDY = Sampling(greedy=True)
DENSE = ChunkIndexConfig(
    chunk_tokens=M,
    encoder=ChunkEncoderConfig(
        encoder=ScratchEncoder(layers=1, hidden_size=32, heads=2, max_positions=64, initial_std=0.3), max_tokens=48
    ),
)


def record(folder: Path, config, inputs: dict[str, Path]) -> None:
    """Makes a folder the finished stage that its name says."""
    folder.mkdir(exist_ok=True)
    name, key = folder.name.split("-", 1)
    named = {role: source.name for role, source in inputs.items()}
    described = {"name": name, "key": key, "config": to_plain(config), "inputs": named, "files": {}}
    (folder / "stage.json").write_text(json.dumps(described))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_retro_world(tmp_path_factory.mktemp("store") / "stages")


@pytest.fixture(scope="module")
def stages(world) -> Path:
    """A trained RETRO, evaluations of it, a language model, and a GPT-2 of 40 positions, all with records."""
    stages = world.text.parent
    for each in (world.text, world.measured, world.corpus, stages / "chunk_index-bm25"):
        record(each, {}, {})
    index = {"corpus": world.corpus, "index": stages / "chunk_index-bm25"}
    for each, text in ((world.neighbours, world.text), (world.measured_neighbours, world.measured)):
        record(each, NeighboursConfig(k=3), {"text": text, **index})
    trained = train(stages / "retro_train-on", world.training)
    record(trained, {"model": MODEL, "train": TRAIN}, world.training)
    evaluated = {"model": MODEL, "evaluate": PerplexityConfig(k=3, part="continuation")}
    record(stages / "perplexity-k3", evaluated, world.evaluation(trained))
    evaluated = {"model": MODEL, "evaluate": PerplexityConfig(k=0)}
    record(stages / "perplexity-off", evaluated, {"text": world.measured, "model": trained})
    alone, settings = replace(MODEL, cca_layers=()), replace(TRAIN, k=0)
    record(train(stages / "retro_train-lm", {"text": world.text}, alone, settings), {"model": alone, "train": settings}, {"text": world.text})  # fmt: skip
    vocab_size, base = Documents.open(world.text).vocab_size, stages.parent / "gpt2"
    GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, n_positions=40, n_embd=16, n_layer=2, n_head=2)).save_pretrained(base)  # fmt: skip
    fitted = replace(MODEL, decoder=PretrainedDecoder(name=str(base)))
    record(stages / "retro_train-fitted", {"model": fitted, "train": TRAIN}, world.training)
    save_retro(build_retro(fitted, vocab_size), stages / "retro_train-fitted" / WEIGHTS)
    return stages


@pytest.fixture
def rlm(stages, capsys):
    """Runs `rlm generate` in this process and gives what it prints."""

    def run(*arguments: str, code: int = 0) -> tuple[str, str]:
        assert main(["generate", *arguments, "--store", str(stages.parent)]) == code
        return capsys.readouterr()

    return run


def open_trained(world, stages):
    documents = Documents.open(world.text)
    model = load_retro(MODEL, documents.vocab_size, stages / "retro_train-on" / WEIGHTS)
    return documents, model


def text_of(documents, prompt, look_up, tokens, model, sampling=GREEDY, seed=0):
    """The whole text, decoded at once."""
    own = encode(documents.tokenizer, [prompt])[0]
    ids = torch.tensor([documents.start, *own])
    found = generate(model, ids, look_up, tokens, sampling, torch.Generator().manual_seed(seed), end_tokens(documents))
    return documents.tokenizer.backend_tokenizer.decode([*own, *found], skip_special_tokens=False)


@pytest.mark.parametrize("kind", ["bm25", "dense"])
@pytest.mark.parametrize("part", ["both", "neighbour", "continuation"])
def test_look_up__finds_what_was_computed_for_the_same_chunks(world, stages, kind, part, tmp_path) -> None:
    """No article of the news is in the corpus, so that none of its neighbours was excluded."""
    table, index = NeighbourTable.open(world.measured_neighbours, 3), stages / "chunk_index-bm25"
    if kind == "dense":
        index = made(tmp_path / "chunk_index-dense", chunk_index, DENSE, {"corpus": world.corpus})
        inputs = {"text": world.measured, "corpus": world.corpus, "index": index}
        found = made(tmp_path / "neighbours-dense", neighbours, NeighboursConfig(k=3), inputs)
        table = NeighbourTable.open(found, 3)
    text, corpus = Chunks(Documents.open(world.measured), M), Chunks(Documents.open(world.corpus), M)
    for document in range(3):
        first = int(text.first[document])
        numbers = first + np.arange(int(text.documents.tokens.lengths[document]) // M)
        look_up = LookUp(chunk_index.open_search(index, corpus, "cpu"), corpus, 3, part)
        tokens = torch.from_numpy(text.take(numbers)[0])
        # The prompt's chunks, then one at a time.
        parts = [look_up(tokens[:2]), *(look_up(tokens[n : n + 1]) for n in range(2, len(numbers)))]
        assert len(parts) > 2
        assert np.concatenate([each.ids for each in look_up.found]).tolist() == table.ids[numbers].tolist()
        scores = np.concatenate([each.scores for each in look_up.found])
        np.testing.assert_allclose(scores, table.scores[numbers], atol=1e-5)
        expected = NeighbourTokens(table, corpus, part)(numbers[None])
        for field in (0, 1):
            assert torch.equal(torch.cat([each[field] for each in parts], 1), torch.from_numpy(expected[field]))


def test_generate__prints_the_decoded_tokens_and_the_neighbours_of_every_chunk(world, stages, rlm) -> None:
    out, err = rlm("retro_train-on", PROMPT, "--tokens", "24", "--greedy")
    documents, model = open_trained(world, stages)
    look_up = open_look_up(stages.parent, read_record(stages / "retro_train-on"), M, 2, "cpu")
    expected = text_of(documents, PROMPT, look_up, 24, model)
    assert expected.startswith(PROMPT)
    text, _, listed = out.rpartition("\n\n")
    assert text == expected
    lines, corpus = listed.splitlines(), look_up.corpus
    ids, scores = (np.concatenate([getattr(each, name) for each in look_up.found]) for name in ("ids", "scores"))
    read = len(encode(documents.tokenizer, [PROMPT])[0]) + 24
    assert len(ids) == read // M > 2 and len(lines) == 3 * len(ids)
    decode = documents.tokenizer.backend_tokenizer.decode
    for chunk in range(len(ids)):
        assert lines[3 * chunk].startswith(f'chunk {chunk + 1}: "')
        for n in range(2):
            held = int(corpus.document_of(ids[chunk, n]))
            tokens = [corpus.take(ids[chunk, n] + after) for after in (0, 1)]
            name = shortened(f"{corpus.documents.id(held)} ({corpus.documents.title(held)})")
            line = f'  {scores[chunk, n]:.3f}  {name}: "{shortened(decode(tokens[0][0][tokens[0][1]].tolist()))}" -> "'
            if ids[chunk, n] + 1 < corpus.first[held + 1]:
                line += shortened(decode(tokens[1][0][tokens[1][1]].tolist()))
            assert lines[3 * chunk + n + 1] == line + '"'
    assert "the text grows beyond 48 tokens" in err


def test_generate__writes_text_while_it_is_made(stages, monkeypatch) -> None:
    """When the second look-up is made, the text of the first chunk has been written and flushed."""
    shown: list[str] = []

    class Watched:
        def __init__(self):
            self.text = self.flushed = ""

        def write(self, text):
            self.text += text
            return len(text)

        def flush(self):
            self.flushed = self.text

    stream = Watched()
    ask = LookUp.__call__
    monkeypatch.setattr(LookUp, "__call__", lambda self, chunks: (shown.append(stream.flushed), ask(self, chunks))[1])
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["generate", "retro_train-on", "The", "--tokens", "40", "--store", str(stages.parent)]) == 0
    monkeypatch.undo()
    assert len(shown) == 2 and 3 < len(shown[0]) < len(shown[1])
    assert all(stream.text.startswith(each) for each in shown)


def test_generate__samples_by_its_options(world, stages, rlm) -> None:
    documents, model = open_trained(world, stages)
    options = ("--tokens", "20", "--temperature", "1.5", "--top-p", "0.7", "--seed", "3", "--off")
    (out, _), (again, _) = (rlm("retro_train-on", "", *options) for _ in range(2))
    assert out == again
    expected = text_of(documents, "", None, 20, model, Sampling(temperature=1.5, top_p=0.7), seed=3)
    assert out == f"{expected}\n\nno neighbours: switched off\n"
    assert rlm("retro_train-on", "", "--tokens", "20", "--seed", "4", "--off")[0] != out


def neighbours_in(out: str) -> int:
    """Listed of the first chunk."""
    lines = out[out.rindex("\n\n") + 2 :].splitlines()
    return [line.startswith("chunk") for line in [*lines[1:], "chunk"]].index(True)


@pytest.mark.parametrize(
    ("run", "options", "count"),
    [
        ("perplexity-k3", (), 3),
        ("perplexity-k3", ("--neighbours", "1"), 1),
        ("retro_train-on", (), 2),
        ("retro_train-on", ("--neighbours", "7"), 7),
        ("perplexity-off", ("--neighbours", "2"), 2),
    ],
)
def test_generate__looks_up_as_many_neighbours_as_the_run_read_or_as_asked_for(rlm, run, options, count) -> None:
    assert neighbours_in(rlm(run, PROMPT, "--tokens", "2", *options)[0]) == count


def test_generate__reads_the_part_of_neighbours_that_the_run_read(stages) -> None:
    parts = [open_look_up(stages.parent, read_record(stages / run), M, 2, "cpu").part for run in ("retro_train-on", "perplexity-k3")]  # fmt: skip
    assert parts == ["both", "continuation"]


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        ("perplexity-off", "switched off"),
        ("retro_train-lm", "retro_train-lm was trained without"),
        ("retro_train-on", f"no chunk of {M} tokens was finished"),
    ],
)
def test_generate__without_neighbours_says_why(rlm, run, reason) -> None:
    prompt = "a" if run == "retro_train-on" else PROMPT
    assert rlm(run, prompt, "--tokens", "3")[0].endswith(f"\n\nno neighbours: {reason}\n")


def test_generate__says_where_the_decoders_positions_end(rlm) -> None:
    out, err = rlm("retro_train-fitted", "a", "--tokens", "60", "--greedy")
    assert err.splitlines()[-1] == "rlm generate: the text ends after 39 tokens: the decoder has 40 positions"
    assert out.startswith("a")
    _, err = rlm("retro_train-fitted", "a " * 50, code=2)
    assert "tokens, but the decoder has 40 positions; shorten it" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("retro_train-x",), "retro_train-x: no such finished stage in "),
        (("neighbours-documents-text",), "neighbours-documents-text is no retro_train or perplexity stage; "),
        (("retro_train-on", "--top-p", "1.5"), "top-p: found 1.5; write a share above 0, at most 1"),
        (("retro_train-on", "--temperature", "0"), "temperature: found 0.0; write a number above 0"),
        (("retro_train-lm", "--neighbours", "2"), "--neighbours 2: retro_train-lm was trained without neighbours"),
        (("retro_train-on", "--neighbours", "100000"), "100000 neighbours of a retrieval corpus of "),
    ],
)
def test_generate__when_input_is_bad_one_line_says_so(rlm, arguments, message) -> None:
    run, *options = arguments
    out, err = rlm(run, PROMPT, *options, code=2)
    assert out == "" and message in err and len(err.splitlines()) == 1


def test_generate__refuses_fewer_than_no_neighbours(rlm, capsys) -> None:
    with pytest.raises(SystemExit):
        rlm("retro_train-on", PROMPT, "--neighbours", "-1")
    assert "found `-1`; write a whole number, 0 or more" in capsys.readouterr().err


def test_look_up__of_more_neighbours_than_the_corpus_has_is_refused(world) -> None:
    corpus = Chunks(Documents.open(world.corpus), M)
    with pytest.raises(
        ConfigError, match=f"{len(corpus) + 1} neighbours of a retrieval corpus of {len(corpus)} chunks"
    ):
        LookUp(lambda own: None, corpus, len(corpus) + 1, "both")
