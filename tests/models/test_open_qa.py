"""Open-QA fine-tuning against loops over questions, passages and spans in float64."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlm.data.gold import GoldAnswers, question_tokens
from rlm.data.qa import Question
from rlm.models.config import FinetuneConfig, Training
from rlm.models.open_qa import OpenQa, SpanReader, passage_positions
from rlm.models.realm import reader_rows
from rlm.retrieval.config import ExactIndex
from rlm.retrieval.index import build_index
from tests.models.reference import SpanReference, best
from tests.worlds import RETRIEVER, small_encoder, small_retriever

READ, EARLY, LIMIT, WIDTH = 4, 30, 24, 5
LONG = "where was it that " * 12 + "she was born?"
QUESTIONS = [
    Question("0", "Where was she born?", ("born", "was born", "the medal of merit in the town of"), "string"),
    Question("1", "Which year was it?", (r"1[78]\d\d", r"\bthe \w+"), "regex"),
    Question("2", "Which letters are nowhere?", ("nowhere to be found",), "string"),
    Question("3", LONG, ("was",), "string"),
]


def new_reader(corpus):
    """A reader whose weights are wide enough that spans differ."""
    reader = SpanReader(small_encoder(corpus), hidden_size=12, max_span=WIDTH)
    with torch.no_grad():
        for parameter in (reader.start.weight, reader.end.weight, reader.output.weight):
            parameter.mul_(20)
        for parameter in (reader.start.bias, reader.output.bias, reader.norm.bias):
            parameter.add_(0.1)
    return reader


@pytest.fixture
def models(world):
    retriever, reader = small_retriever(world.corpus), new_reader(world.corpus)
    reference = SpanReference(world.corpus, retriever, reader)
    embeddings = reference.passages(RETRIEVER.passage_tokens)
    return SimpleNamespace(retriever=retriever, reader=reader, reference=reference, embeddings=embeddings)


def open_qa(world, models, **changes):
    """A module outside a Trainer."""
    training = Training(steps=10, batch_size=4, learning_rate=1e-3, precision="float32")
    sizes = {"passages_read": READ, "early_candidates": EARLY, "max_span": WIDTH, "passage_tokens": LIMIT}
    config = FinetuneConfig(training=training, **{**sizes, **changes})
    embeddings = models.embeddings.float()
    index = build_index(ExactIndex(dtype="float32"), embeddings.numpy().copy())
    gold = GoldAnswers(world.corpus, QUESTIONS)
    module = OpenQa(models.retriever, models.reader, world.corpus, index, embeddings, config, gold)
    module.trainer = SimpleNamespace(world_size=1)
    module.logged = {}
    module.log_dict = lambda metrics, **_: module.logged.update(metrics)
    return module


def batch_of(world, rows):
    rows = np.array(rows)
    return {"questions": rows, "tokens": question_tokens(world.corpus, QUESTIONS).take(rows)}


def asked(world, row):
    """Word pieces of a question as the query encoder takes them."""
    return world.corpus.tokenizer(QUESTIONS[row].question, add_special_tokens=False)["input_ids"][:30]


def answer_spans(corpus, question, passage):
    """Occurrences of the answers in a passage by sliding windows; patterns by hand."""
    pieces = corpus.tokenizer.convert_ids_to_tokens(corpus.tokens[passage])
    if question.answer_kind == "regex":
        text = corpus.passage(passage).text
        offsets = corpus.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        matches = [match for answer in question.answers for match in re.finditer(answer, text, re.IGNORECASE)]
        touched = [[i for i, (a, b) in enumerate(offsets) if a < m.end() and b > m.start()] for m in matches]
        return {(inside[0], inside[-1] + 1) for inside in touched}
    runs = [corpus.tokenizer.tokenize(answer) for answer in question.answers]
    return {(i, i + len(run)) for run in runs for i in range(len(pieces)) if pieces[i : i + len(run)] == run}


def brute_force(world, models, rows):
    """Reader loss and early loss, each averaged over the questions (ORQA, section 5)."""
    reader = early = torch.zeros((), dtype=torch.float64)
    for row in rows:
        pieces = asked(world, row)
        scores = models.embeddings @ models.reference.embed(pieces)
        found = best(scores, EARLY)
        gold = {z: answer_spans(world.corpus, QUESTIONS[row], z) for z in found}
        right = [z for z in found if gold[z]]
        if right:
            early = early - (scores[right].exp().sum() / scores[found].exp().sum()).log()
        spans = models.reference.scored_spans(pieces, found[:READ], models.embeddings, LIMIT)
        correct = [value for (z, *span), value in spans.items() if tuple(span) in gold[z]]
        if correct:
            reader = reader - (torch.stack(correct).exp().sum() / torch.stack(list(spans.values())).exp().sum()).log()
    return reader / len(rows), early / len(rows)


# ---- the reader ----


def test_span_reader__scores_every_span_inside_the_passage_and_masks_the_others(world, models):
    corpus = world.corpus
    questions, passages = batch_of(world, [0, 1])["tokens"], np.array([[0, len(corpus) - 1], [20, 310]])
    rows = reader_rows(questions, corpus, passages, LIMIT, null=False)
    with torch.no_grad():
        logits = models.reader(rows)
        assert logits.shape == (*rows["ids"].shape, WIDTH)
        for row, passage in enumerate(passages.ravel()):
            question = questions[row // 2]
            first = len(question) + 2
            expected = models.reference.spans(question, corpus.tokens[passage][: LIMIT - 2])
            inside = {(start + first, end - start - 1): value for (start, end), value in expected.items()}
            for start in range(logits.shape[1]):
                for width in range(WIDTH):
                    found = logits[row, start, width].item()
                    if (start, width) in inside:
                        assert found == pytest.approx(inside[start, width].item(), abs=2e-4)
                    else:
                        assert -11_000 < found < -9_000


def test_passage_positions__are_the_body_without_its_separator():
    #          [CLS] q [SEP] b b [SEP] pad pad
    segments = [[0, 0, 0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1, 1]]
    mask = [[1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0], [1] * 8]
    expected = [[0, 0, 0, 1, 1, 0, 0, 0], [0] * 8, [0, 0, 0, 0, 0, 1, 1, 0]]
    found = passage_positions(torch.tensor(mask, dtype=torch.bool), torch.tensor(segments))
    assert found.int().tolist() == expected


# ---- training ----


def test_training_step__is_the_marginal_over_correct_spans_plus_the_early_loss(world, models):
    module, rows = open_qa(world, models), [0, 1, 2, 3]
    with torch.no_grad():
        loss = module.training_step(batch_of(world, rows), 0)
        reader, early = brute_force(world, models, rows)
    assert reader > 0 and early > 0, "no question can be answered"
    assert float(module.logged["reader_loss"]) == pytest.approx(reader.item(), rel=1e-4)
    assert float(module.logged["early_loss"]) == pytest.approx(early.item(), rel=1e-4)
    assert loss.item() == pytest.approx((reader + early).item(), rel=1e-4)


def test_gold_spans__are_those_that_the_reader_can_answer_with(world, models):
    """Occurrences as wide as the widest span, up to the last word piece read, after questions of unequal lengths."""
    long, rows = len(world.corpus) - 1, [0, 3]
    pieces = world.corpus.tokenizer.convert_ids_to_tokens(world.corpus.tokens[long])
    words = world.corpus.tokenizer.convert_tokens_to_string
    given = [pieces[3 : 3 + WIDTH], pieces[3 : 4 + WIDTH], pieces[20:22], pieces[20:23]]
    answers = tuple(words(run) for run in given)
    module = open_qa(world, models)
    module.gold = GoldAnswers(world.corpus, [question._replace(answers=answers) for question in QUESTIONS])
    correct = np.stack(module.gold_spans(batch_of(world, rows), np.array([[long, 0]] * 2))).T.tolist()
    for i, row in enumerate(rows):
        first = len(asked(world, row)) + 2
        found = {(z, s - first, s - first + w + 1) for of, z, s, w in correct if of == i}
        assert found == {(0, 3, 3 + WIDTH), (0, 20, 22)}


def test_training_step__reads_only_questions_that_it_can_learn_from(world, models):
    module = open_qa(world, models)
    read = []
    module.reader.register_forward_pre_hook(lambda _, inputs: read.append(len(inputs[0]["ids"])))
    for rows in ([2, 0, 2], [2]):
        module.training_step(batch_of(world, rows), 0)
    assert read == [READ, READ]


def test_training_step__counts_questions_with_an_answer(world, models):
    module, rows = open_qa(world, models), [0, 1, 2, 3]
    module.training_step(batch_of(world, rows), 0)
    retrieved = readable = 0
    for row in rows:
        with torch.no_grad():
            found = best(models.embeddings @ models.reference.embed(asked(world, row)), READ)
        spans = [span for z in found for span in answer_spans(world.corpus, QUESTIONS[row], z)]
        retrieved += bool(spans)
        readable += any(end <= LIMIT - 2 and end - start <= WIDTH for start, end in spans)
    assert float(module.logged[f"recall@{READ}"]) == retrieved / 4
    assert float(module.logged["readable"]) == readable / 4


def test_training_step__without_early_candidates_is_the_reader_s_loss(world, models):
    module = open_qa(world, models, early_candidates=0)
    with torch.no_grad():
        loss = module.training_step(batch_of(world, [0, 1]), 0)
        reader, _ = brute_force(world, models, [0, 1])
    assert loss.item() == pytest.approx(reader.item(), rel=1e-4)
    assert float(module.logged["early_loss"]) == 0


def test_training_step__of_a_question_without_an_answer_is_zero_and_moves_nothing(world, models):
    module = open_qa(world, models)
    loss = module.training_step(batch_of(world, [2]), 0)
    assert loss.item() == 0
    loss.backward()
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    assert gradients and all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients)


def test_gradients__reach_the_question_encoder_and_the_reader_but_no_passage(world, models):
    module, rows = open_qa(world, models), [0, 1, 3]
    embeddings = module.embeddings.clone()
    module.training_step(batch_of(world, rows), 0).backward()
    sum(brute_force(world, models, rows)).backward()
    reference = models.reference
    for ours, twin in ((module.retriever, reference.retriever), (module.reader, reference.reader)):
        expected = dict(twin.named_parameters())
        assert any(p.grad is not None and p.grad.abs().max() > 1e-3 for p in ours.parameters())
        for name, parameter in ours.named_parameters():
            if expected[name].grad is None:
                assert parameter.grad is None, name
            else:
                close = {"atol": 2e-4, "rtol": 2e-3}
                torch.testing.assert_close(parameter.grad.double(), expected[name].grad, **close, msg=name)
    assert not module.embeddings.requires_grad and torch.equal(module.embeddings, embeddings)
    assert all(parameter is not module.embeddings for parameter in module.parameters())


def test_train_retriever__false_leaves_the_question_encoder_as_it_is(world, models):
    module = open_qa(world, models, train_retriever=False)
    before = {name: value.clone() for name, value in module.retriever.state_dict().items()}
    optimizer = module.configure_optimizers()["optimizer"]
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    module.training_step(batch_of(world, [0, 1]), 0).backward()
    weight = module.reader.output.weight.detach().clone()
    optimizer.step()
    assert not trained & {id(parameter) for parameter in module.retriever.parameters()}
    assert all(torch.equal(value, before[name]) for name, value in module.retriever.state_dict().items())
    assert not torch.equal(module.reader.output.weight, weight)


# ---- prediction ----


def test_predict__is_the_best_span_by_logit_and_score(world, models):
    module, rows = open_qa(world, models), [0, 1, 2, 3]
    prediction, found = module.predict(batch_of(world, rows)["tokens"])
    for i, row in enumerate(rows):
        pieces = asked(world, row)
        with torch.no_grad():
            expected = best(models.embeddings @ models.reference.embed(pieces), READ)
            spans = models.reference.scored_spans(pieces, expected, models.embeddings, LIMIT)
        assert found[i].tolist() == expected
        answer = max(spans, key=lambda span: float(spans[span]))
        assert (prediction.passage[i], prediction.start[i], prediction.end[i]) == answer
        assert prediction.score[i] == pytest.approx(float(spans[answer]), rel=1e-4)
