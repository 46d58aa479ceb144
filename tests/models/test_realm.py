"""REALM against its equations in float64, enumerated passage by passage with Hugging Face's modules."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaForMaskedLM

from rlm.data.config import SalientSpans
from rlm.data.datamodules import MaskedSentences
from rlm.data.tokens import Ragged
from rlm.models.config import PretrainConfig, Training
from rlm.models.open_qa import MASKED, SpanReader
from rlm.models.realm import (
    GivenPassage,
    KnowledgeAugmentedEncoder,
    Realm,
    load_encoder,
    masked_language_model,
    reader_rows,
    save_encoder,
)
from rlm.retrieval import encoder as retrieval_encoder
from rlm.retrieval.config import ExactIndex, PretrainedEncoder, ScratchEncoder
from rlm.retrieval.index import build_index
from tests.models.reference import Reference, best
from tests.worlds import RETRIEVER, small_encoder, small_retriever

READ = 40
"""Word pieces of a passage that the reader takes; the retriever takes more."""
TRAINING = Training(steps=10, batch_size=4, learning_rate=1e-3, precision="float32")


@pytest.fixture(scope="module")
def models(world):
    """A retriever and an encoder, their twins in float64, and the twin's embeddings of all passages."""
    retriever, encoder = small_retriever(world.corpus), small_encoder(world.corpus)
    reference = Reference(world.corpus, retriever, encoder)
    return SimpleNamespace(
        retriever=retriever,
        encoder=encoder,
        reference=reference,
        embeddings=reference.passages(RETRIEVER.passage_tokens),
    )


def realm(world, models, embeddings=None, **changes):
    """A module outside a Trainer, its index made of the twin's embeddings unless others are given."""
    config = PretrainConfig(training=TRAINING, passage_tokens=READ, query_tokens=24, max_masks=4, **changes)
    module = Realm(models.retriever, models.encoder, world.corpus, config)
    embeddings = models.embeddings if embeddings is None else embeddings
    module.index, module.index_step = build_index(ExactIndex(dtype="float32"), embeddings.float().numpy()), 3
    module.trainer = SimpleNamespace(world_size=1, global_step=10)
    module.logged = {}
    module.log_dict = lambda metrics, **_: module.logged.update(metrics)
    return module


def sentences(world, count):
    """Masked sentences; those of the first passages, of which the corpus holds copies."""
    batches = MaskedSentences(world.corpus, world.spans, count, query_tokens=24, max_masks=4, seed=0)
    batches.scheme = SalientSpans()
    longest = sorted(batches.examples[:20], key=lambda example: -(world.spans.ends[example][-1]))
    return batches.batch(np.sort(longest[:count]), 0)


def masks(batch, i):
    """Positions and targets of a sentence."""
    real = batch["positions"][i] >= 0
    return batch["positions"][i][real].tolist(), batch["targets"][i][real].tolist()


def enumerated(reference, batch, i, candidates, null):
    """log softmax of the scores, and log p(y_j | z, x), of each candidate of a sentence: [z] and [z, masks]."""
    corpus, masked = reference.corpus, batch["masked"][i]
    query = reference.embed(masked)
    vectors = [reference.passage(int(z), RETRIEVER.passage_tokens) for z in candidates]
    bodies = [corpus.tokens[int(z)][: READ - 2] for z in candidates]
    if null:
        vectors, bodies = [reference.embed([], []), *vectors], [[], *bodies]
    likelihood = [reference.log_likelihood(masked, body, *masks(batch, i)) for body in bodies]
    return torch.stack([query @ vector for vector in vectors]).log_softmax(0), torch.stack(likelihood)


def brute_force(reference, batch, candidates, kind, null):
    """Loss (REALM, equations 1 and 2; or token by token, as released) and retrieval utility."""
    total = utility = count = 0
    for i, found in enumerate(candidates):
        prior, likelihood = enumerated(reference, batch, i, found, null)
        if kind == "joint":
            log_p = [(prior.exp() * likelihood.exp().prod(1)).sum().log()]
            without = [likelihood[0].sum()]
        else:
            log_p = [(prior.exp() * likelihood[:, j].exp()).sum().log() for j in range(likelihood.shape[1])]
            without = list(likelihood[0])
        total, count = total + sum(log_p), count + len(log_p)
        utility += sum(log_p) - sum(without)
    return -total / count, utility / count


# ---- the encoder ----


def test_forward__is_the_log_softmax_of_bert_for_masked_lm(world, models):
    batch = sentences(world, 3)
    passages = np.array([[5, 316], [17, 40], [0, 2]])
    rows = reader_rows(batch["masked"], world.corpus, passages, READ, null=True)
    ours = models.encoder(rows, batch["positions"], batch["targets"])
    assert ours.shape == (3, 3, batch["positions"].shape[1])
    assert len({len(masks(batch, i)[0]) for i in range(3)}) > 1, "all sentences have as many masks"
    for i in range(3):
        _, expected = enumerated(models.reference, batch, i, passages[i], null=True)
        real = batch["positions"][i] >= 0
        torch.testing.assert_close(ours[i][:, real].double(), expected, atol=1e-4, rtol=1e-4)
        assert not ours[i][:, ~real].any()


@pytest.mark.parametrize("null", [False, True])
def test_reader_rows__leave_out_the_title_and_cut_the_body(null, world, models):
    corpus, special = world.corpus, world.corpus.special
    queries = Ragged.from_rows([[7, 8], [9]])
    passages = np.array([[len(corpus) - 1, 3], [4, len(corpus) - 2]])
    rows = reader_rows(queries, corpus, passages, READ, null)
    expected = []
    for query, found in zip(([7, 8], [9]), passages, strict=True):
        bodies = [[]] * null + [corpus.tokens[z][: READ - 2].tolist() for z in found]
        expected += [[special.cls, *query, special.sep, *body, special.sep] for body in bodies]
    for row, ids in enumerate(expected):
        assert rows["ids"][row][rows["mask"][row]].tolist() == ids
        assert not rows["mask"][row][len(ids) :].any()
        first = ids.index(special.sep) + 1
        assert rows["segments"][row][: len(ids)].tolist() == [0] * first + [1] * (len(ids) - first)


def test_reader_rows__fit_into_query_and_passage_tokens(world):
    """What checks promise of `max_positions`: `[CLS] query [SEP] body [SEP]` within query_tokens + passage_tokens."""
    query = Ragged.from_rows([range(5, 27)])  # query_tokens 24
    rows = reader_rows(query, world.corpus, np.array([[len(world.corpus) - 1]]), READ, null=False)
    assert rows["ids"].shape[1] <= 24 + READ


def test_load_encoder__gives_what_was_saved(world, models, tmp_path):
    save_encoder(models.encoder, tmp_path)
    batch = sentences(world, 2)
    rows = reader_rows(batch["masked"], world.corpus, np.array([[1], [2]]), READ, null=False)
    with torch.no_grad():
        found, expected = (
            m(rows, batch["positions"], batch["targets"]) for m in (load_encoder(tmp_path), models.encoder)
        )
    assert torch.equal(found, expected)


def test_pretrained_encoder__must_be_a_bert_with_the_corpus_s_vocabulary(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForMaskedLM(BertConfig(vocab_size=50, **sizes)).save_pretrained(tmp_path / "bert")
    RobertaForMaskedLM(RobertaConfig(vocab_size=50, **sizes)).save_pretrained(tmp_path / "roberta")
    bert = PretrainedEncoder(name=str(tmp_path / "bert"), dropout=0.3)
    model = masked_language_model(bert, 50)
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.3}
    with pytest.raises(ValueError, match="vocabulary of 50, the corpus of 51; set `tokenizer: {kind: pretrained"):
        masked_language_model(bert, 51)
    with pytest.raises(ValueError, match="is a roberta, not a bert"):
        masked_language_model(PretrainedEncoder(name=str(tmp_path / "roberta")), 50)


def test_pretrained_encoder__with_one_kind_of_segment_reads_segment_0_throughout(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    own = BertForMaskedLM(BertConfig(vocab_size=50, type_vocab_size=1, **sizes)).eval()
    own.save_pretrained(tmp_path)
    encoder = KnowledgeAugmentedEncoder(PretrainedEncoder(name=str(tmp_path)), 50).eval()
    ids = torch.tensor([[1, 7, 8, 2, 9, 10, 2]])
    rows = {"ids": ids, "mask": torch.ones_like(ids, dtype=torch.bool), "segments": (torch.arange(7) > 3).long()[None]}
    with torch.no_grad():
        expected = own.bert(ids, token_type_ids=torch.zeros_like(ids)).last_hidden_state
        torch.testing.assert_close(encoder.hidden(**rows), expected)
        spans = SpanReader(encoder, 8, 3)(rows)
    assert (spans[0, 4:6, 0] > MASKED / 2).all() and (spans[0, :4, 0] < MASKED / 2).all(), (
        "the passage is still told apart"
    )


def test_scratch_encoder__has_the_size_asked_for():
    config = ScratchEncoder(layers=3, hidden_size=24, heads=4, max_positions=40, dropout=0.2, initial_std=0.3)
    encoder = KnowledgeAugmentedEncoder(config, 70)
    bert = encoder.model.config
    assert (bert.num_hidden_layers, bert.hidden_size, bert.num_attention_heads, bert.vocab_size) == (3, 24, 4, 70)
    assert (bert.intermediate_size, bert.hidden_dropout_prob, bert.attention_probs_dropout_prob) == (96, 0.2, 0.2)
    assert encoder.max_positions == 40
    assert encoder.model.bert.encoder.layer[0].output.dense.weight.std().item() == pytest.approx(0.3, rel=0.1)


# ---- training ----


@pytest.mark.parametrize("kind", ["joint", "per_token"])
def test_training_step__marginalises_over_all_passages(kind, world, models):
    count = len(world.corpus)
    module = realm(world, models, candidates=count + 1, exclude_source=False, marginal=kind)
    batch = sentences(world, 2)
    with torch.no_grad():
        loss = module.training_step(batch, 0)
        expected, utility = brute_force(models.reference, batch, [range(count)] * 2, kind, null=True)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert module.logged["loss"] == loss
    assert float(module.logged["retrieval_utility"]) == pytest.approx(utility.item(), rel=1e-3)
    assert module.logged["index_age"] == 10 - 3


def test_training_step__without_a_null_passage(world, models):
    module = realm(world, models, candidates=5, null_passage=False)
    batch = sentences(world, 3)
    with torch.no_grad():
        retrieval = module.retrieve(batch["masked"], batch["source"])
        loss = module.training_step(batch, 0)
        expected, _ = brute_force(models.reference, batch, retrieval.passages, "per_token", null=False)
    assert retrieval.passages.shape == retrieval.scores.shape == (3, 5)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert "retrieval_utility" not in module.logged and "null_mass" not in module.logged


def test_training_step__with_one_candidate_is_the_reader_alone(world, models):
    module = realm(world, models, candidates=1, null_passage=False)
    batch = sentences(world, 3)
    with torch.no_grad():
        passages = module.retrieve(batch["masked"], batch["source"]).passages
        loss = module.training_step(batch, 0)
        found = [enumerated(models.reference, batch, i, passages[i], null=False)[1].flatten() for i in range(3)]
    assert loss.item() == pytest.approx(-torch.cat(found).mean().item(), rel=1e-4)
    assert float(module.logged["entropy"]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", ["joint", "per_token"])
def test_gradients__reach_queries_passages_and_reader(kind, world, models):
    """Equal to those of the equations, in which one tower embeds both sides; neither side alone gives them."""
    module = realm(world, models, candidates=5, marginal=kind)
    batch = sentences(world, 2)
    passages = module.retrieve(batch["masked"], batch["source"]).passages
    module.zero_grad()
    module.training_step(batch, 0).backward()
    reference = Reference(world.corpus, models.retriever, models.encoder)
    brute_force(reference, batch, passages, kind, null=True)[0].backward()
    for ours, twin in ((module.retriever, reference.retriever), (module.encoder.model, reference.model)):
        expected = dict(twin.named_parameters())
        assert any(p.grad is not None and p.grad.abs().max() > 1e-3 for p in ours.parameters())
        for name, parameter in ours.named_parameters():
            if expected[name].grad is None:
                assert parameter.grad is None, name
            else:
                torch.testing.assert_close(parameter.grad.double(), expected[name].grad, atol=2e-4, rtol=2e-3, msg=name)
    module.zero_grad()


def test_gradients__to_both_sides_are_those_of_the_inner_product(world, models):
    module = realm(world, models, candidates=4)
    batch = sentences(world, 2)
    queries = module.embed_queries(batch["masked"]).detach().requires_grad_()
    passages = np.array([[3, 9], [9, 200]])
    embeddings = []
    forward = models.retriever.embed_passage
    module.retriever.embed_passage = lambda **rows: embeddings.append(forward(**rows)) or embeddings[-1]
    try:
        scores = module.score(queries, passages)
    finally:
        del module.retriever.embed_passage
    distinct, null = embeddings  # passages 3, 9 and 200, and the null passage
    gradients = torch.autograd.grad(scores[0].sum() + 2 * scores[1].sum(), [queries, distinct, null])
    torch.testing.assert_close(
        gradients[0], torch.stack([null[0] + distinct[0] + distinct[1], 2 * (null[0] + distinct[1] + distinct[2])])
    )
    torch.testing.assert_close(gradients[1], torch.stack([queries[0], queries[0] + 2 * queries[1], 2 * queries[1]]))
    torch.testing.assert_close(gradients[2], (queries[0] + 2 * queries[1]).unsqueeze(0))


# ---- retrieval ----


def test_retrieve__never_proposes_the_source_nor_a_copy_of_it(world, models):
    batch, identity = sentences(world, 12), world.corpus.identity
    module = realm(world, models, candidates=150)
    with torch.no_grad():
        retrieval = module.retrieve(batch["masked"], batch["source"])
        kept = realm(world, models, candidates=150, exclude_source=False).retrieve(batch["masked"], batch["source"])
    assert retrieval.passages.shape == (12, 149) and retrieval.scores.shape == (12, 150)
    assert max(np.sum(identity == source) for source in batch["source"]) == 2, "no source has a copy"
    for i, source in enumerate(batch["source"]):
        with torch.no_grad():
            scores = models.embeddings @ models.reference.embed(batch["masked"][i])
        assert retrieval.passages[i].tolist() == best(scores, 149, lambda z, source=source: identity[z] != source)
        assert kept.passages[i].tolist() == best(scores, 149)
    assert any(source in identity[found] for source, found in zip(batch["source"], kept.passages, strict=True))


def test_retrieve__scores_are_inner_products_of_the_live_encoder_not_of_the_index(world, models):
    stale = torch.from_numpy(np.random.default_rng(0).standard_normal(models.embeddings.shape))
    module = realm(world, models, embeddings=stale, candidates=6)
    batch = sentences(world, 4)
    with torch.no_grad():
        retrieval = module.retrieve(batch["masked"], None)
        for i in range(4):
            query = models.reference.embed(batch["masked"][i])
            assert retrieval.passages[i].tolist() == best(stale @ query, 5)
            live = torch.stack([models.reference.embed([], []), *models.embeddings[retrieval.passages[i]]]) @ query
            torch.testing.assert_close(retrieval.scores[i].double(), live, atol=1e-4, rtol=1e-4)


def test_top__searches_the_index_and_rescored_top_the_live_encoder(world, models, monkeypatch):
    monkeypatch.setattr(retrieval_encoder, "has_fast_bfloat16", lambda device: False)
    generator = torch.Generator().manual_seed(0)
    stale = models.embeddings + 0.3 * torch.randn(models.embeddings.shape, generator=generator).double()
    module = realm(world, models, embeddings=stale)
    queries = sentences(world, 4)["masked"]
    top, rescored = module.top(queries, 5), module.rescored_top(queries, 5)
    for i in range(4):
        with torch.no_grad():
            query = models.reference.embed(queries[i])
        wide = best(stale @ query, 20)
        assert top[i].tolist() == wide[:5]
        live = models.embeddings[wide] @ query
        assert rescored[i].tolist() == [wide[place] for place in live.argsort(descending=True)[:5]]


# ---- warm start ----


def test_given_passage__is_trained_on_the_log_likelihood_beside_it(world, models):
    batch, passages = sentences(world, 3), np.array([[30], [31], [32]])
    module = GivenPassage(models.encoder, TRAINING)
    module.trainer = SimpleNamespace(world_size=1)
    module.log_dict = lambda metrics, **_: None
    rows = reader_rows(batch["masked"], world.corpus, passages, READ, null=False)
    with torch.no_grad():
        loss = module.training_step({**batch, "rows": rows}, 0)
        found = [enumerated(models.reference, batch, i, passages[i], null=False)[1].flatten() for i in range(3)]
    assert loss.item() == pytest.approx(-torch.cat(found).mean().item(), rel=1e-4)
