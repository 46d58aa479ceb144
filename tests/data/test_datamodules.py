"""Batches against lists, and against each other: any step, any rank, any number of workers."""

import hashlib
import pickle
from collections import Counter
from itertools import chain, pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlm.data.config import CorpusConfig, RandomSpans, SalientSpans, UniformTokens
from rlm.data.corpus import Corpus, write_corpus
from rlm.data.datamodules import (
    IctBatches,
    MaskedSentences,
    Order,
    QuestionBatches,
    StepDataModule,
    passage_batch,
    remove,
    share,
    special_tokens,
)
from rlm.data.tokens import Ragged
from tests.worlds import SOURCE

SCHEMES = [UniformTokens(), UniformTokens(rate=0.4), RandomSpans(), RandomSpans(rate=0.4), SalientSpans()]


def of_epoch(epoch):
    """Examples of unequally long epochs, one of them empty."""
    return np.arange(100 * epoch, 100 * epoch + [10, 7, 0, 13][epoch % 4])


def lists(ragged):
    return [ragged[row].tolist() for row in range(len(ragged))]


def joined(rows):
    return list(chain.from_iterable(rows))


def contents(ids, mask, special):
    """What stands between the separators of each row."""
    found = []
    for row, real in zip(ids.tolist(), mask.tolist(), strict=True):
        row = row[: sum(real)]
        assert row[0] == special.cls and row[-1] == special.sep and set(real[sum(real) :]) <= {False}
        parts, part = [], []
        for piece in row[1:]:
            if piece == special.sep:
                parts, part = [*parts, part], []
            else:
                part.append(piece)
        found.append(parts)
    return found


def assert_equal(a, b):
    """Batches of tensors, arrays and ragged arrays."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            assert_equal(a[name], b[name])
    elif isinstance(a, Ragged):
        assert lists(a) == lists(b)
    else:
        assert np.array_equal(a, b)


# ---- Order ----


@pytest.mark.parametrize("batch_size", [1, 3, 10, 37])
def test_order__gives_every_example_once_an_epoch(batch_size):
    order = Order(of_epoch, seed=4)
    steps = [order(step, batch_size) for step in range(-(-90 // batch_size))]
    ids, epochs = (np.concatenate([step[part] for step in steps]) for part in (0, 1))
    for epoch, examples in enumerate(of_epoch(epoch) for epoch in range(8)):
        assert sorted(ids[epochs == epoch]) == examples.tolist()
    assert np.all(np.diff(epochs) >= 0)


def test_order__gives_any_step_without_the_ones_before():
    iterated = Order(of_epoch, seed=4)
    steps = [iterated(step, 4) for step in range(40)]
    for step in (39, 0, 17, 3):
        assert_equal(dict(enumerate(Order(of_epoch, seed=4)(step, 4))), dict(enumerate(steps[step])))


def test_order__differs_between_epochs_and_seeds():
    def order_of(seed, step):
        return Order(lambda epoch: np.arange(50), seed)(step, 50)[0].tolist()

    assert order_of(0, 0) != order_of(0, 1) != order_of(1, 1)
    assert sorted(order_of(0, 1)) == list(range(50))
    assert order_of(1, 1) == order_of(1, 1)


def test_order__survives_pickling():
    order = Order(of_epoch, seed=4)
    order(5, 4)
    copy = pickle.loads(pickle.dumps(order))
    assert_equal(dict(enumerate(copy(9, 4))), dict(enumerate(order(9, 4))))


# ---- parts ----


def test_remove__deletes_a_stretch_of_each_row():
    rows = [[1, 2, 3, 4], [], [5, 6], [7, 8, 9]]
    starts, ends = np.array([1, 0, 0, 2]), np.array([3, 0, 2, 2])
    removed = remove(Ragged.from_rows(rows), starts, ends)
    assert lists(removed) == [row[:a] + row[b:] for row, a, b in zip(rows, starts, ends, strict=True)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_share__of_all_ranks_is_the_batch(world_size):
    ids, epochs = np.arange(7), np.arange(7) * 10
    parts = [share(rank, world_size, ids, epochs) for rank in range(world_size)]
    assert np.concatenate([part[0] for part in parts]).tolist() == ids.tolist()
    assert np.concatenate([part[1] for part in parts]).tolist() == epochs.tolist()


@pytest.mark.parametrize("limit", [20, 64, 256])
def test_passage_batch__cuts_the_title_first_and_then_the_body(limit, world):
    corpus = world.corpus
    rows = np.arange(len(corpus))[::-3]
    rows = np.append(rows, len(corpus) - 2)  # a title of 104 word pieces
    batch = passage_batch(corpus, corpus.tokens.take(rows), rows, limit)
    for row, (title, body) in zip(rows, contents(batch.ids, batch.mask, corpus.special), strict=True):
        expected = corpus.titles[row].tolist()[: limit - 3]
        assert title == expected
        assert body == corpus.tokens[row].tolist()[: limit - 3 - len(expected)]


def test_special_tokens__are_the_tokenizer_s(world):
    tokenizer = world.corpus.tokenizer
    found = special_tokens(tokenizer)
    ids = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", "[PAD]", "[MASK]"])
    assert [found.cls, found.sep, found.pad, found.mask] == ids


# ---- IctBatches ----


def sentences_of(corpus, passage):
    body = corpus.tokens[passage].tolist()
    starts = [*corpus.sentences[passage].tolist(), len(body)]
    return [body[a:b] for a, b in pairwise(starts)]


def test_ict__asks_for_a_sentence_that_is_removed_nine_times_in_ten(world):
    corpus = world.corpus
    batches = IctBatches(corpus, 600, 0.1, query_tokens=200, passage_tokens=400, seed=3)
    removed, chosen, seen = Counter(), Counter(), 0
    for step in range(8):
        passages, _ = batches.order(step, 600)
        batch = batches(step, 0, 1)
        queries = contents(batch["queries"]["ids"], batch["queries"]["mask"], corpus.special)
        rows = contents(batch["passages"]["ids"], batch["passages"]["mask"], corpus.special)
        for passage, (query,), (title, body) in zip(passages, queries, rows, strict=True):
            found = sentences_of(corpus, passage)
            assert title == corpus.titles[passage].tolist()
            places = [place for place, sentence in enumerate(found) if sentence == query]
            rests = [joined(found[:place] + found[place + 1 :]) for place in places]
            kept = body == joined(found)
            assert places and (kept or body in rests)
            assert kept or len(found) > 1, "a passage of one sentence lost it"
            if len(found) > 1:
                removed[not kept] += 1
                chosen[places[0] == 0] += len(found) == 2
            seen += 1
    assert seen == 4800
    # three standard deviations
    assert removed[True] / removed.total() == pytest.approx(0.9, abs=3 * (0.09 / removed.total()) ** 0.5)
    assert chosen[True] / chosen.total() == pytest.approx(0.5, abs=3 * (0.25 / chosen.total()) ** 0.5)


@pytest.mark.parametrize(("keep", "single"), [(0.0, False), (1.0, True)])
def test_ict__has_passages_of_one_sentence_only_where_it_is_kept(keep, single, world):
    corpus = world.corpus
    batches = IctBatches(corpus, 300, keep, query_tokens=200, passage_tokens=400, seed=0)
    passages, epochs = batches.order(0, 300)
    first_epoch = set(passages[epochs == 0]) | set(batches.order(1, 300)[0][batches.order(1, 300)[1] == 0])
    of_one = np.flatnonzero(corpus.sentences.lengths == 1)
    assert (first_epoch >= set(of_one)) == single and len(of_one) == 40
    assert len(first_epoch) == (len(corpus) if single else len(corpus) - 40)


def test_ict__refuses_a_corpus_that_never_gives_an_example(world, tmp_path):
    single = [world.corpus.passage(row) for row in np.flatnonzero(world.corpus.sentences.lengths == 1)]
    write_corpus(tmp_path, single, world.corpus.tokenizer, CorpusConfig(source=SOURCE))
    with pytest.raises(ValueError, match=r"one sentence.*`ict.keep_sentence`"):
        IctBatches(Corpus.open(tmp_path), 4, 0.0, 16, 32, seed=0)
    assert IctBatches(Corpus.open(tmp_path), 4, 0.1, 16, 32, seed=0)(0, 0, 1)["queries"]["ids"].shape[0] == 4


def test_ict__cuts_queries_and_passages(world):
    batches = IctBatches(world.corpus, 400, 1.0, query_tokens=12, passage_tokens=24, seed=0)
    whole = IctBatches(world.corpus, 400, 1.0, query_tokens=500, passage_tokens=500, seed=0)
    special = world.corpus.special
    for cut, long in zip(
        *(contents(b(0, 0, 1)["queries"]["ids"], b(0, 0, 1)["queries"]["mask"], special) for b in (batches, whole)),
        strict=True,
    ):
        assert cut == [long[0][:10]]
    lengths = batches(0, 0, 1)["passages"]["mask"].sum(1)
    assert lengths.max() == 24
    assert torch.equal(lengths, whole(0, 0, 1)["passages"]["mask"].sum(1).clamp(max=24))


# ---- MaskedSentences ----


def masked_sentences(world, scheme, batch_size=64, query_tokens=14, max_masks=4, seed=5):
    batches = MaskedSentences(world.corpus, world.spans, batch_size, query_tokens, max_masks, seed)
    batches.scheme = scheme
    return batches


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_masked_sentences__hold_the_original_at_the_masks(scheme, world):
    corpus, batches = world.corpus, masked_sentences(world, scheme)
    examples, _ = batches.order(2, 64)
    batch = batches(2, 0, 1)
    for i, example in enumerate(examples):
        passage, start, end = world.spans.sentences[example]
        original = corpus.tokens[passage][start:end].tolist()[:12]
        positions = [p for p in batch["positions"][i].tolist() if p >= 0]
        assert batch["whole"][i].tolist() == original
        assert 1 <= len(positions) <= 4 and positions == sorted(set(positions))
        assert batch["positions"][i].tolist()[: len(positions)] == positions, "padding is at the end"
        assert batch["targets"][i].tolist()[: len(positions)] == [original[p] for p in positions]
        assert batch["masked"][i].tolist() == [
            corpus.special.mask if p in positions else piece for p, piece in enumerate(original)
        ]
        _, title, text = corpus.passage(int(passage))
        assert int(batch["source"][i]) == int.from_bytes(
            hashlib.sha1(f"{title}\n{text}".encode()).digest()[:8], "little"
        )


def test_masked_sentences__of_salient_spans_are_whole_spans_within_reach(world):
    batches = masked_sentences(world, SalientSpans())
    examples, _ = batches.order(0, 64)
    positions = batches(0, 0, 1)["positions"]
    for i, example in enumerate(examples):
        spans = [list(range(a, b)) for a, b in zip(world.spans.starts[example], world.spans.ends[example], strict=True)]
        assert [p for p in positions[i].tolist() if p >= 0] in [s for s in spans if s[-1] < 12 and len(s) <= 4]


def test_masked_sentences__are_the_same_sentences_for_every_scheme(world):
    found = [masked_sentences(world, scheme)(3, 0, 1) for scheme in SCHEMES]
    for batch in found[1:]:
        assert lists(batch["whole"]) == lists(found[0]["whole"])
        assert np.array_equal(batch["source"], found[0]["source"])
    matched = [(batch["positions"] >= 0).sum(1).tolist() for batch in (found[0], found[2], found[4])]
    assert matched[0] == matched[1] == matched[2], "schemes without a rate mask as many word pieces as the span has"
    assert lists(found[0]["masked"]) != lists(found[4]["masked"])


def test_masked_sentences__masks_differ_between_epochs(world):
    batches = masked_sentences(world, UniformTokens(rate=0.4))
    examples = batches.examples[:64]
    assert lists(batches.batch(examples, 0)["masked"]) != lists(batches.batch(examples, 1)["masked"])


def test_masked_sentences__without_a_span_or_a_scheme_say_what_to_do(world):
    with pytest.raises(
        ValueError, match=r"salient_spans.kind.*pretrain.query_tokens` \(3\).*pretrain.max_masks` \(10\)"
    ):
        MaskedSentences(world.corpus, world.spans, 4, query_tokens=3, max_masks=10, seed=0)
    with pytest.raises(RuntimeError, match="add the Masking callback"):
        MaskedSentences(world.corpus, world.spans, 4, query_tokens=20, max_masks=10, seed=0)(0, 0, 1)


# ---- ranks, workers, resuming ----


def kinds(world):
    rows = Ragged.from_rows([[i] * (i % 5 + 1) for i in range(30)])
    return {
        "ict": IctBatches(world.corpus, 12, 0.1, 16, 32, seed=1),
        "masked": masked_sentences(world, SalientSpans(), batch_size=12),
        "questions": QuestionBatches(rows, 12, seed=1),
    }


def rows_of(part, special):
    """The examples of a part of a batch as lists, whatever the padding."""
    if isinstance(part, Ragged):
        return lists(part)
    if isinstance(part, dict):
        return contents(part["ids"], part["mask"], special)
    rows = part.tolist()
    return [[v for v in row if v >= 0] for row in rows] if part.ndim == 2 else rows


@pytest.mark.parametrize("kind", ["ict", "masked", "questions"])
@pytest.mark.parametrize("world_size", [2, 5])
def test_batches__of_all_ranks_are_the_batch_of_one(kind, world_size, world):
    batches, special = kinds(world)[kind], world.corpus.special
    whole = batches(3, 0, 1)
    parts = [batches(3, rank, world_size) for rank in range(world_size)]
    for name in whole.keys() - {"targets"}:  # a target of 0 looks like padding
        assert joined(rows_of(part[name], special) for part in parts) == rows_of(whole[name], special), name


def test_question_batches__are_the_questions_tokens(world):
    batches = kinds(world)["questions"]
    seen = []
    for step in range(5):
        batch = batches(step, 0, 1)
        seen += batch["questions"].tolist()
        assert lists(batch["tokens"]) == [batches.tokens[q].tolist() for q in batch["questions"]]
    assert sorted(seen) == sorted(2 * list(range(30)))


def served(batches, workers, start, total=6, world_size=1):
    module = StepDataModule(batches, total, workers)
    module.trainer = SimpleNamespace(global_rank=0, world_size=world_size, global_step=start)
    loader = module.train_dataloader()
    assert len(loader) == total, "Lightning counts the steps done too"
    return list(loader)


@pytest.mark.parametrize("kind", ["ict", "masked", "questions"])
def test_step_data_module__serves_the_same_steps_resumed_and_by_workers(kind, world):
    batches = kinds(world)[kind]
    expected = [batches(step, 0, 1) for step in range(6)]
    for workers, start in ((0, 0), (0, 4), (2, 0), (2, 3)):
        found = served(batches, workers, start)
        assert len(found) == 6 - start
        for a, b in zip(found, expected[start:], strict=True):
            assert_equal(a, b)


def test_step_data_module__serves_the_rank_s_share(world):
    batches = kinds(world)["questions"]
    found = served(batches, workers=0, start=0, world_size=2)
    assert [batch["questions"].tolist() for batch in found] == [
        batches(s, 0, 1)["questions"][:6].tolist() for s in range(6)
    ]
