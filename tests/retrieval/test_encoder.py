"""The dual encoder against Hugging Face's BertModel called by hand, and a corpus against one passage at a time."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from transformers import BertModel

from rlm.data.tokens import Ragged
from rlm.retrieval import encoder as module
from rlm.retrieval.config import DualEncoderConfig, PretrainedEncoder, ScratchEncoder
from rlm.retrieval.encoder import DualEncoder, embed_corpus, embed_queries, length_sorted_batches, passage_rows

SCRATCH = ScratchEncoder(layers=1, hidden_size=16, heads=2, max_positions=32)


def by_hand(dual: DualEncoder, tokens: Ragged, titles: Ragged, special, passage: int) -> torch.Tensor:
    """[CLS] title [SEP] body [SEP] through BertModel in float32, without padding: [dim]."""
    limit = dual.config.passage_tokens
    title = titles[passage].tolist()[: limit - 3]
    body = tokens[passage].tolist()[: limit - 3 - len(title)]
    ids = [special.cls, *title, special.sep, *body, special.sep]
    segments = [0] * (len(title) + 2) + [1] * (len(body) + 1)
    bert = BertModel(dual.encoder.config, add_pooling_layer=False)
    bert.load_state_dict(dual.encoder.state_dict())
    with torch.no_grad():
        hidden = bert.eval()(torch.tensor([ids]), token_type_ids=torch.tensor([segments])).last_hidden_state[0]
        pooled = hidden[0] if dual.config.pooling == "cls" else hidden.mean(0)
        if dual.config.projection:
            pooled = dual.projection.weight @ pooled + dual.projection.bias
        if dual.config.layer_norm:
            pooled = (pooled - pooled.mean()) / torch.sqrt(pooled.var(correction=0) + 1e-3)
            pooled = pooled * dual.layer_norm.weight + dual.layer_norm.bias
        if dual.config.normalize:
            pooled = pooled / pooled.norm() * dual.config.scale**0.5
    return pooled


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pooling": "mean"},
        {"projection": None, "layer_norm": False},
        {"pooling": "mean", "normalize": True, "scale": 9.0},
    ],
    ids=str,
)
def test_embed_passage__is_bert_pooled_and_projected(settings, small_corpus):
    tokens, titles, special = small_corpus
    torch.manual_seed(0)
    config = DualEncoderConfig(encoder=SCRATCH, **{"projection": 8, "passage_tokens": 24, **settings})
    dual = DualEncoder(config, 90).eval()
    for parameter in dual.parameters():  # so that no bias is zero and no scale one
        parameter.data += 0.1 * torch.randn_like(parameter)
    batch = passage_rows(titles, tokens, np.arange(20), config.passage_tokens, special)
    ids, mask, segments = (torch.from_numpy(part) for part in (batch.ids, batch.mask, batch.segments))
    with torch.no_grad():
        found = dual.embed_passage(ids, mask, segments)
    expected = torch.stack([by_hand(dual, tokens, titles, special, passage) for passage in range(20)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    if config.normalize:
        torch.testing.assert_close(found.norm(dim=1), torch.full((20,), 3.0))


def test_embed_corpus__equals_one_passage_at_a_time(dual_encoder, small_corpus):
    tokens, titles, special = small_corpus
    out, reported = np.zeros((60, 16), np.float32), []
    embed_corpus(
        dual_encoder, tokens, titles, special, out, lambda done, total: reported.append((done, total)), batch_tokens=256
    )
    expected = torch.stack([by_hand(dual_encoder, tokens, titles, special, passage) for passage in range(60)]).numpy()
    exact = not module.has_fast_bfloat16(torch.device("cpu"))
    np.testing.assert_allclose(out, expected, atol=1e-4 if exact else 0.1)
    cosine = (out * expected).sum(1) / np.linalg.norm(out, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > 0.999
    assert len(reported) > 3 and reported[-1] == (60, 60) and reported == sorted(reported)


def test_embed_corpus__continues_where_it_was_interrupted(dual_encoder, small_corpus, monkeypatch):
    tokens, titles, special = small_corpus
    monkeypatch.setattr(module, "CHUNK", 25)
    whole, resumed = torch.zeros(60, 16), torch.full((60, 16), 7.0)
    embed_corpus(dual_encoder, tokens, titles, special, whole)
    embed_corpus(dual_encoder, tokens, titles, special, resumed, start=25)
    assert torch.equal(resumed[25:], whole[25:]) and bool((resumed[:25] == 7).all())


def test_embed_corpus__refuses_an_array_of_another_shape(dual_encoder, small_corpus):
    with pytest.raises(ValueError, match=r"out is \(60, 8\), the embeddings \(60, 16\)"):
        embed_corpus(dual_encoder, *small_corpus, np.zeros((60, 8), np.float32))


def test_embed_queries__cuts_queries_and_keeps_their_order(dual_encoder, small_corpus):
    tokens, _, special = small_corpus
    limit = dual_encoder.config.query_tokens - 2
    found = embed_queries(dual_encoder, tokens, special)
    for row in range(len(tokens)):
        ids = torch.tensor([[special.cls, *tokens[row][:limit].tolist(), special.sep]])
        with torch.no_grad():
            expected = dual_encoder.embed_query(ids, torch.ones_like(ids, dtype=torch.bool))[0]
        assert float(torch.nn.functional.cosine_similarity(found[row], expected, dim=0)) > 0.999


def test_passage_rows__cuts_the_body_and_then_the_title(small_corpus):
    *_, special = small_corpus
    titles, tokens = Ragged.from_rows([[10, 11, 12], [10] * 9]), Ragged.from_rows([[20] * 9, [20, 21]])
    batch = passage_rows(titles, tokens, np.array([0, 1]), 8, special)
    assert batch.ids.tolist() == [[1, 10, 11, 12, 2, 20, 20, 2], [1, 10, 10, 10, 10, 10, 2, 2]]
    assert batch.segments.tolist() == [[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, 1]]


def test_length_sorted_batches__hold_each_row_once_within_the_budget():
    lengths = np.random.default_rng(0).integers(1, 100, 500)
    batches = length_sorted_batches(lengths, 300)
    assert sorted(np.concatenate(batches)) == list(range(500))
    for batch in batches:
        assert len(batch) * (-(-lengths[batch].max() // 8) * 8) <= 300
    assert all(lengths[a].min() >= lengths[b].max() for a, b in itertools.pairwise(batches))
    assert [len(batch) for batch in length_sorted_batches(np.array([50, 50]), 10)] == [1, 1]


# ---- checkpoints ----


def test_load__gives_what_was_saved(dual_encoder, small_corpus, tmp_path):
    dual_encoder.save(tmp_path)
    loaded = DualEncoder.load(tmp_path)
    assert loaded.config == dual_encoder.config and not loaded.training
    tokens, titles, special = small_corpus
    outs = [torch.zeros(60, 16), torch.zeros(60, 16)]
    for encoder, out in zip((dual_encoder, loaded), outs, strict=True):
        embed_corpus(encoder, tokens, titles, special, out)
    assert torch.equal(*outs)


def test_load__takes_lengths_and_dropout_from_the_configuration(dual_encoder, tmp_path):
    dual_encoder.save(tmp_path)
    encoder = dataclasses.replace(dual_encoder.config.encoder, dropout=0.25)
    config = dataclasses.replace(dual_encoder.config, encoder=encoder, passage_tokens=20)
    loaded = DualEncoder.load(tmp_path, config)
    assert loaded.config.passage_tokens == 20 and loaded.encoder.config.hidden_dropout_prob == 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"projection": 8}, "projection: 16 saved, 8 wanted"),
        ({"pooling": "mean"}, "pooling: cls saved, mean wanted"),
        ({"encoder": ScratchEncoder(layers=3, hidden_size=32, heads=2)}, "encoder.layers: 2 saved, 3 wanted"),
        ({"encoder": PretrainedEncoder(name="bert-base-uncased")}, "encoder.kind: scratch saved, pretrained wanted"),
    ],
    ids=["projection", "pooling", "layers", "kind"],
)
def test_load__names_the_fields_of_another_architecture(change, message, dual_encoder, tmp_path):
    dual_encoder.save(tmp_path)
    with pytest.raises(ValueError, match=f"another architecture.*{message}"):
        DualEncoder.load(tmp_path, dataclasses.replace(dual_encoder.config, **change))


@pytest.mark.parametrize("file", ["model.safetensors", "dual_encoder.json", "encoder/config.json"])
def test_load__says_that_a_checkpoint_is_damaged(file, dual_encoder, tmp_path):
    dual_encoder.save(tmp_path)
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"build .* again"):
        DualEncoder.load(tmp_path)


def test_build_encoder__refuses_a_checkpoint_with_another_vocabulary(dual_encoder, tmp_path):
    dual_encoder.encoder.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="vocabulary of 90, the corpus of 91; set `tokenizer"):
        DualEncoder(DualEncoderConfig(encoder=PretrainedEncoder(name=str(tmp_path))), 91)
