"""Passages found for questions, learning from them and answering, as stages; a model that has learnt a few by heart."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rlm.data.chunks import Chunks
from rlm.data.documents import Documents
from rlm.data.encyclopedia import questions as asked_of
from rlm.data.qa import Question, read_questions, write_questions
from rlm.data.question_prompts import prompts
from rlm.metrics.answers import has_answer
from rlm.models.config import Training
from rlm.models.retro import Neighbours
from rlm.models.retro_answering import answer_greedily
from rlm.models.retro_config import RetroAnswerConfig, RetroFinetuneConfig
from rlm.models.retro_training import load_retro
from rlm.retrieval import neighbours as neighbours_of
from rlm.retrieval.bfloat16 import has_fast_bfloat16
from rlm.retrieval.config import ChunkEncoderConfig, ChunkIndexConfig, NeighboursConfig, ScratchEncoder
from rlm.retrieval.encoder import DualEncoder
from rlm.retrieval.neighbours import NeighbourTable
from rlm.stages import chunk_index, question_neighbours, retro_answer, retro_finetune
from rlm.stages.question_neighbours import open_passages
from rlm.stages.retro_finetune import answers_to_learn
from rlm.stages.retro_qa_experiment import retro_qa_columns
from rlm.stages.retro_train import WEIGHTS
from tests.stages.retro_world import CORPUS, MODEL, M, made, train, write_retro_world
from tests.worlds import Surroundings

STEPS, K = 60, 2
PASSAGES = NeighboursConfig(k=4)
FINETUNE = RetroFinetuneConfig(
    training=Training(steps=STEPS, batch_size=8, learning_rate=2e-2, warmup_steps=2, precision="float32"),
    k=K,
    prompt_chunks=4,
    answer_tokens=M,
)
ANSWER = RetroAnswerConfig(batch_size=3, precision="float32")
NEVER = Question("never", "what is nowhere", ("zzz+",), "regex")
NAME = Question("name", "who is meant", ("[A-Z][a-z]{5,}",), "regex")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    world = write_retro_world(folder)
    questions = folder / "questions-1"
    questions.mkdir()
    known = asked_of(CORPUS, "train")[:6]
    write_questions(questions / "train.jsonl", [*known, NEVER, NAME])
    write_questions(questions / "dev.jsonl", known[:5])
    inputs = {"questions": questions, "corpus": world.corpus}
    index = folder / "chunk_index-bm25"
    for split in ("train", "dev"):
        config = {"passages": PASSAGES, "split": split}
        made(folder / f"question_neighbours-{split}", question_neighbours, config, {**inputs, "index": index})
    model = train(folder / "retro_train-1", world.training)
    return SimpleNamespace(folder=folder, inputs=inputs, model=model)


def finetune(folder, world, settings=FINETUNE, context=None):
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model": MODEL, "passages": PASSAGES, "finetune": settings}
    inputs = {**world.inputs, "passages": world.folder / "question_neighbours-train", "model": world.model}
    return retro_finetune.run(config, inputs, folder, context or Surroundings())


def answer(folder, world, model, settings=FINETUNE):
    folder.mkdir()
    inputs = {**world.inputs, "model": model}
    if settings.k:
        inputs["passages"] = world.folder / "question_neighbours-dev"
    context = Surroundings()
    metrics = retro_answer.run({"model": MODEL, "finetune": settings, "answer": ANSWER}, inputs, folder, context)
    assert [done for done, _ in context.shown] == [3, 5]
    return metrics, [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def learnt(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("learnt") / "run"
    return folder, finetune(folder, world)


def test_question_neighbours__of_a_dense_index_are_the_nearest(world, tmp_path) -> None:
    encoder = ScratchEncoder(layers=1, hidden_size=32, heads=2, max_positions=64, initial_std=0.3)
    config = ChunkIndexConfig(chunk_tokens=M, encoder=ChunkEncoderConfig(encoder=encoder, max_tokens=32))
    index = made(tmp_path / "chunk_index-dense", chunk_index, config, {"corpus": world.inputs["corpus"]})
    inputs = {**world.inputs, "index": index}
    found = made(tmp_path / "found", question_neighbours, {"passages": PASSAGES, "split": "dev"}, inputs)
    model, documents = DualEncoder.load(index / "encoder").encoder.eval(), Documents.open(world.inputs["corpus"])
    embeddings = np.load(index / "index" / "embeddings.npy").astype(float)
    ids = np.asarray(NeighbourTable.open(found, 4).ids)
    close = 2e-2 if has_fast_bfloat16(torch.device("cpu")) else 1e-4
    for row, question in enumerate(read_questions(world.inputs["questions"] / "dev.jsonl")):
        pieces = documents.tokenizer(question.question)["input_ids"]
        read = torch.tensor([[documents.start, *pieces[:30], documents.start]])
        with torch.no_grad():
            mean = model(read, token_type_ids=torch.zeros_like(read)).last_hidden_state[0].double().mean(0)
        scores = embeddings @ (mean / mean.norm()).numpy()
        np.testing.assert_allclose(scores[ids[row]], -np.sort(-scores)[:4], atol=close)


def test_question_neighbours__of_a_sparse_index_have_the_best_scores(world) -> None:
    """Lucene's BM25 (k1 0.9, b 0.4) of the questions' tokens, from counts."""
    documents = Documents.open(world.inputs["corpus"])
    ids, mask = Chunks(documents, M).take(np.arange(len(Chunks(documents, M))))
    tokens = [row[keep & (row != documents.start)] for row, keep in zip(ids, mask, strict=True)]
    lengths = np.array([len(row) for row in tokens])
    table = NeighbourTable.open(world.folder / "question_neighbours-dev", 4)
    for row, question in enumerate(read_questions(world.inputs["questions"] / "dev.jsonl")):
        scores = np.zeros(len(tokens))
        for token in documents.tokenizer(question.question)["input_ids"]:
            tf = np.array([(chunk == token).sum() for chunk in tokens])
            idf = np.log(1 + (len(tokens) - (tf > 0).sum() + 0.5) / ((tf > 0).sum() + 0.5))
            scores += idf * tf / (tf + 0.9 * (0.6 + 0.4 * lengths / lengths.mean()))
        np.testing.assert_allclose(scores[table.ids[row]], -np.sort(-scores)[:4], rtol=1e-4)
        assert scores[table.ids[row, 0]] > 2


def test_question_neighbours__when_killed_go_on_with_the_same_result(world, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(neighbours_of.write_neighbours, "__defaults__", (None, 3, str))

    class Stops(Surroundings):
        def progress(self, done, total, **shown):
            super().progress(done, total, **shown)
            raise RuntimeError("killed")

    inputs = {**world.inputs, "index": world.folder / "chunk_index-bm25"}
    config = {"passages": PASSAGES, "split": "train"}
    with pytest.raises(RuntimeError, match="killed"):
        question_neighbours.run(config, inputs, tmp_path, Stops())
    again = Surroundings()
    question_neighbours.run(config, inputs, tmp_path, again)
    assert again.shown == [(6, 8), (8, 8)]
    for name in ("ids.npy", "scores.npy", "neighbours.json"):
        assert (tmp_path / name).read_bytes() == (world.folder / "question_neighbours-train" / name).read_bytes()


def test_open_passages__refuses_those_of_other_questions(world) -> None:
    inputs = {**world.inputs, "passages": world.folder / "question_neighbours-dev"}
    with pytest.raises(ValueError, match=r"another split \(split: computed with dev, opened with train\)"):
        open_passages(inputs, "train", 4, M)
    with pytest.raises(ValueError, match="k = 5 neighbours .* which holds 4"):
        open_passages(inputs, "dev", 5, M)
    with pytest.raises(ValueError, match="computed with 16, opened with 8"):
        open_passages(inputs, "dev", 4, 8)


LEARNT = {
    "each match once, best passage first": ([r"(18|19)\d\d", "PARIS"], ("1905", "Paris", "1871")),
    "a match that is no right answer by itself": ([r"(?<=in )Paris"], ()),
    "an empty match, and no regular expression": ([r"x*", "("], ()),
}


@pytest.mark.filterwarnings("ignore:answer pattern")
@pytest.mark.parametrize("name", LEARNT)
def test_answers_to_learn__of_patterns(name) -> None:
    patterns, expected = LEARNT[name]
    texts = [["Born 1905 in Paris,", "moved in 1871."], ["1905 again"]]
    passages = SimpleNamespace(sources=lambda rows: [texts[0] + texts[1]])
    strings = Question("s", "?", ("(18", "b"))
    found = answers_to_learn([Question("q", "?", tuple(patterns), "regex"), strings], passages)
    assert found == [expected, ("(18", "b")]


def test_finetune__says_what_it_was_not_trained_on(learnt) -> None:
    _, metrics = learnt
    assert (metrics["questions"], metrics["skipped_questions"], metrics["cut_questions"]) == (7, 1, 0)


def test_finetune__ends_with_the_same_bits_when_it_was_killed(world, learnt, tmp_path) -> None:
    class Stops(Surroundings):
        def progress(self, done, total, **shown):
            if done == STEPS // 2:
                raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        finetune(tmp_path / "run", world, context=Stops())
    finetune(tmp_path / "run", world)
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (learnt[0] / WEIGHTS).read_bytes()


def test_finetune__without_passages_changes_the_decoder_alone(world, tmp_path) -> None:
    settings = replace(FINETUNE, k=0, training=replace(FINETUNE.training, steps=2))
    finetune(tmp_path / "run", world, settings)
    before, after = (load_file(folder / WEIGHTS) for folder in (world.model, tmp_path / "run"))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder"}


def test_answer__is_right_where_it_was_learnt_by_heart(world, learnt, tmp_path) -> None:
    metrics, lines = answer(tmp_path / "run", world, learnt[0])
    assert metrics["exact_match"] == 100, lines
    assert (metrics["n"], metrics["cut_questions"]) == (5, 0)
    questions = read_questions(world.inputs["questions"] / "dev.jsonl")
    held = open_passages({**world.inputs, "passages": world.folder / "question_neighbours-dev"}, "dev", K, M)
    for row, (line, question) in enumerate(zip(lines, questions, strict=True)):
        assert (line["id"], line["answers"]) == (question.id, list(question.answers))
        assert line["passages"] == held.names(row) and len(line["passages"]) == K
        sources = held.sources(np.array([row]))[0]
        assert line["retrieved"] == any(has_answer(text, question.answers, "string") for text in sources)
    for column in retro_qa_columns(SimpleNamespace()):
        assert metrics[column.name] == pytest.approx(np.mean([column.read(line)[0] for line in lines]))


def test_answer__is_what_the_model_says_to_each_question_alone(world, learnt, tmp_path) -> None:
    """The model before fine-tuning, so that answers are wrong and long."""
    _, lines = answer(tmp_path / "run", world, world.model)
    documents = Documents.open(world.inputs["corpus"])
    model = load_retro(MODEL, documents.vocab_size, world.model / WEIGHTS)
    held = open_passages({**world.inputs, "passages": world.folder / "question_neighbours-dev"}, "dev", K, M, 4)
    for row, line in enumerate(lines):
        ids, _ = prompts(documents.tokenizer, [line["question"]], 4 * M, documents.start)
        read = Neighbours(*(torch.from_numpy(each) for each in held(np.array([row]))))
        found = answer_greedily(model, torch.from_numpy(ids), read, M, documents.start)[0].tolist()
        said = found[: found.index(documents.start)] if documents.start in found else found
        assert line["prediction"] == documents.tokenizer.decode(said).strip()
    assert any(line["prediction"] for line in lines)


def test_answer__without_passages_has_none(world, tmp_path) -> None:
    metrics, lines = answer(tmp_path / "run", world, world.model, replace(FINETUNE, k=0))
    assert metrics["recall"] == 0
    assert all((line["passages"], line["retrieved"]) == ([], 0) for line in lines)
