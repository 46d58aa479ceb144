"""Predictions against the best span of brute force in float64, cut out of the text by hand."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_model

from rlm.data.config import CorpusConfig
from rlm.data.corpus import Corpus, write_corpus
from rlm.data.qa import Question, write_questions
from rlm.data.sources import Passage
from rlm.metrics.answers import exact_match
from rlm.models.config import EvaluateConfig, FinetuneConfig, Training
from rlm.models.open_qa import Prediction, SpanReader
from rlm.retrieval import encoder as retrieval_encoder
from rlm.retrieval.config import ExactIndex
from rlm.retrieval.refresh import build_snapshot_index
from rlm.stages import evaluate
from tests.models.reference import Reference, SpanReference, best
from tests.worlds import ENCODER, RETRIEVER, SOURCE, Surroundings, small_encoder, small_retriever

READ, LIMIT = 3, 24
TRAINING = Training(steps=1, batch_size=2, learning_rate=1e-3, precision="float32")
FINETUNE = FinetuneConfig(training=TRAINING, passages_read=READ, max_span=4, span_hidden_size=12, passage_tokens=LIMIT)
CONFIG = {
    "evaluate": EvaluateConfig(split="test", batch_size=3),
    "finetune": FINETUNE,
    "retriever": RETRIEVER,
    "encoder": ENCODER,
}


def expected_lines(world, asked, reference, embeddings):
    """Prediction, passages and score of each question."""
    for question in asked:
        pieces = world.corpus.tokenizer(question.question, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            found = best(embeddings @ reference.embed(pieces), READ)
            spans = reference.scored_spans(pieces, found, embeddings, LIMIT)
        passage, start, end = max(spans, key=lambda span: spans[span].item())
        text = world.corpus.passage(passage).text
        offsets = world.corpus.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        yield SimpleNamespace(
            text=text[offsets[start][0] : offsets[end - 1][1]],
            passage=passage,
            found=found,
            score=spans[passage, start, end].item(),
        )


@pytest.fixture(scope="module")
def case(world, tmp_path_factory):
    """What is expected of a fine-tuned reader and question encoder, and what the stage wrote."""
    folder, corpus = tmp_path_factory.mktemp("evaluate"), world.corpus
    inputs = {name: folder / name for name in ("questions", "finetune", "index")}
    for path in inputs.values():
        path.mkdir()
    pretrained, tuned = small_retriever(corpus), small_retriever(corpus)
    reader = SpanReader(small_encoder(corpus), FINETUNE.span_hidden_size, FINETUNE.max_span)
    with torch.no_grad():
        tuned.projection.bias.add_(torch.linspace(-0.2, 0.2, tuned.dim))
        reader.output.weight.mul_(50)
    embeddings = Reference(corpus, pretrained).passages(RETRIEVER.passage_tokens)
    lines = list(expected_lines(world, world.questions[:36:6], SpanReference(corpus, tuned, reader), embeddings))
    # right, right but not in these words, right by its pattern, retrieved but wrong, neither, neither
    answers = [
        ((lines[0].text.upper(),), "string"),
        (("no such answer", f"The {lines[1].text}!"), "string"),
        ((f"no such answer|{lines[2].text[:3]}",), "regex"),
        ((corpus.passage(lines[3].found[-1]).text,), "string"),
        (("nowhere to be found",), "string"),
        ((r"nowhere \w+", r"^\d{9}"), "regex"),
    ]
    asked = [
        Question(question.id, question.question, given, kind)
        for question, (given, kind) in zip(world.questions[:36:6], answers, strict=True)
    ]
    write_questions(inputs["questions"] / "test.jsonl", asked)
    pretrained.save(folder / "pretrained" / "retriever")
    tuned.save(inputs["finetune"] / "retriever")
    save_model(reader, inputs["finetune"] / "reader.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval_encoder, "has_fast_bfloat16", lambda device: False)
        build_snapshot_index(folder / "pretrained", world.folder, ExactIndex(), out=inputs["index"])
    context = Surroundings()
    metrics = evaluate.run(CONFIG, {**inputs, "corpus": world.folder}, folder, context)
    written = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    return SimpleNamespace(asked=asked, lines=lines, written=written, metrics=metrics, shown=context.shown)


def test_predictions__are_the_best_spans_as_written_in_the_passages(world, case):
    for question, line, expected in zip(case.asked, case.written, case.lines, strict=True):
        assert line["id"] == question.id and line["question"] == question.question
        assert (line["answers"], line["answer_kind"]) == (list(question.answers), question.answer_kind)
        assert line["prediction"] == expected.text
        assert line["passage_id"] == world.corpus.passage(expected.passage).id
        assert line["score"] == pytest.approx(expected.score, rel=1e-4)
        assert expected.text and expected.text in world.corpus.passage(expected.passage).text
    assert len({line.passage for line in case.lines}) > 1


def test_exact_match__is_that_of_the_metric(case):
    flags = [line["exact_match"] for line in case.written]
    judged = [
        exact_match(line["prediction"], q.answers, q.answer_kind)
        for q, line in zip(case.asked, case.written, strict=True)
    ]
    assert flags == judged == [1, 1, 1, 0, 0, 0]
    assert case.metrics["exact_match"] == pytest.approx(50)


def test_retrieved__tells_whether_a_passage_read_holds_an_answer(case):
    assert [line["retrieved"] for line in case.written] == [1, 0, 1, 1, 0, 0]
    assert case.metrics[f"recall@{READ}"] == pytest.approx(50)
    assert case.metrics["n"] == 6 and case.shown[-1] == (6, 6)


def test_answer_texts__keep_case_and_spaces_of_the_passage(tmp_path, world):
    text = "Café  Müller,\tthe O'Hara  House (1901)."
    tokenizer = world.corpus.tokenizer
    write_corpus(tmp_path, [Passage("0", "", text)], tokenizer, CorpusConfig(source=SOURCE, packing="as_is"))
    corpus = Corpus.open(tmp_path)
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    spans = [(i, j) for i in range(len(offsets)) for j in range(i + 1, len(offsets) + 1)]
    start, end = np.array(spans).T
    prediction = Prediction(np.zeros(len(spans), np.int64), start, end, np.zeros(len(spans), np.float32))
    found = evaluate.answer_texts(corpus, prediction)
    assert len(offsets) == len(corpus.tokens[0])
    assert found == [text[offsets[i][0] : offsets[j - 1][1]] for i, j in spans]
    assert "Café  Müller" in found and "(1901)" in found
