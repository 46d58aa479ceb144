"""RETRO: what may read what, what equals what, and Hugging Face's GPT-2 as the base of RETRO-fitting."""

import random
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertLMHeadModel, GPT2Config, GPT2LMHeadModel

from rlm.models.decoders import Cache, FrozenGpt2
from rlm.models.retro import Neighbours, Retro, build_retro
from rlm.models.retro_config import (
    NeighbourEncoderConfig,
    PretrainedDecoder,
    RetroConfig,
    ScratchDecoder,
    attending_layers,
)
from tests.models import retro_reference

VOCABULARY, M = 23, 4
ENCODER = NeighbourEncoderConfig(layers=2, hidden_size=12, heads=2)


def gpt2(**changes):
    torch.manual_seed(1)
    settings = dict(vocab_size=VOCABULARY, n_positions=40, n_embd=16, n_layer=3, n_head=2, initializer_range=0.2)
    return GPT2LMHeadModel(GPT2Config(**(settings | changes)))


def retro(kind="scratch", trained=True, encoder=ENCODER, cca_layers=(2, 3), m=M, **changes):
    """A model of three layers with large weights, so that everything it reads shows in its logits."""
    torch.manual_seed(0)
    config = RetroConfig(
        decoder=ScratchDecoder(layers=3, hidden_size=16, heads=2, initial_std=0.3, **changes),
        encoder=encoder,
        chunk_tokens=m,
        cca_layers=cca_layers,
        initial_std=0.3,
    )
    model = build_retro(config, VOCABULARY) if kind == "scratch" else Retro(FrozenGpt2(gpt2()), config)
    for cross in model.cross_attentions:
        if trained:
            torch.nn.init.normal_(cross.attention.output.weight, std=0.5)
    return model.eval()


def batch(length, k=2, r=2 * M, rows=2, seed=0, extra=0, m=M):
    """Ids [rows, length] and neighbours of which a third are padded at the end; every token of the first is real."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, length // m + extra, k, r)
    lengths = torch.randint(r // 2, r + 1, shape[:3], generator=generator)
    lengths[:, :, 0] = r
    mask = torch.arange(r) < lengths[..., None]
    ids = torch.randint(VOCABULARY, (rows, length), generator=generator)
    return ids, Neighbours(torch.randint(VOCABULARY, shape, generator=generator), mask)


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def embedded(model, ids, neighbours):
    """Logits, and the embeddings of ids and neighbours that they have gradients to."""
    leaves = []

    def keep(module, inputs, output):
        leaves.append(output.requires_grad_())  # that of frozen weights has none of its own
        output.retain_grad()

    hooks = [m.register_forward_hook(keep) for m in (model.decoder.token_embedding(), model.encoder.embedding)]
    logits = model(ids, neighbours)
    for hook in hooks:
        hook.remove()
    return logits, *leaves


@pytest.mark.parametrize(("length", "cca_layers"), [(9, (2, 3)), (8, (1,)), (11, (1, 3)), (3, (2,))])
def test_retro__equals_the_papers_algorithm_in_float64(length, cca_layers):
    model = retro(cca_layers=cca_layers)
    ids, neighbours = batch(length)
    neighbours.mask[0, :1] = False
    found = model(ids, neighbours)
    for row in range(2):
        real = retro_reference.unpadded(neighbours.ids[row], neighbours.mask[row])
        expected = retro_reference.logits(model, ids[row], real)
        torch.testing.assert_close(found[row].double(), expected, atol=1e-5, rtol=1e-5)


class Shape(NamedTuple):
    """What causality may not depend on."""

    m: int
    length: int
    k: int
    r: int
    cca_layers: tuple[int, ...]

    def batch(self, rows):
        return batch(self.length, self.k, self.r, rows, seed=self.length, m=self.m)


def shapes(count):
    """Each m from 1 to 7, and lengths of at least a chunk, up to four and a part."""
    draw = random.Random(0)
    for number in range(count):
        m = number % 7 + 1
        layers = draw.choice([(1,), (2,), (3,), (1, 3), (2, 3), (1, 2, 3)])
        yield Shape(m, draw.randint(m, 5 * m + 4), draw.randint(1, 3), draw.randint(1, 3 * m), layers)


SHAPES = list(shapes(10))


@pytest.mark.parametrize("kind", ["scratch", "fitted"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_causality__no_output_has_a_gradient_to_a_later_token_or_a_neighbour_of_an_unfinished_chunk(kind, shape):
    model = retro(kind, cca_layers=shape.cca_layers, m=shape.m)
    logits, tokens, found = embedded(model, *shape.batch(rows=1))
    for t in range(shape.length):
        tokens.grad = found.grad = None
        logits[0, t].square().sum().backward(retain_graph=True)
        assert tokens.grad[0, : t + 1].any(dim=1).all()
        assert not tokens.grad[0, t + 1 :].any()
        # [chunks, k * r, width]; chunk u is first read by its last token.
        by_chunk = found.grad.view(shape.length // shape.m, shape.k * shape.r, -1)
        finished = (t + 1) // shape.m
        # What an earlier layer read reaches all later tokens; what the last layer reads, those that read it.
        first = max(finished - 1, 0) if shape.cca_layers == (3,) else 0
        assert by_chunk.flatten(1).any(dim=1).nonzero().flatten().tolist() == list(range(first, finished))


@pytest.mark.parametrize("kind", ["scratch", "fitted"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_causality__a_changed_token_or_neighbour_changes_no_output_before_it(kind, shape):
    model = retro(kind, cca_layers=shape.cca_layers, m=shape.m)
    ids, neighbours = shape.batch(rows=2)
    logits = model(ids, neighbours)
    for t in random.Random(shape.length).sample(range(shape.length), min(3, shape.length)):
        changed = ids.clone()
        changed[:, t] = (changed[:, t] + 1) % VOCABULARY
        difference = (model(changed, neighbours) - logits).abs().amax(dim=2)
        assert not t or difference[:, :t].max() < 1e-5
        assert (difference[:, t] > 1e-3).all()
    for u in range(shape.length // shape.m):
        other = neighbours.ids.clone()
        other[:, u, 0] = (other[:, u, 0] + 1) % VOCABULARY
        difference = (model(ids, neighbours._replace(ids=other)) - logits).abs().amax(dim=2)
        last = (u + 1) * shape.m - 1
        assert not last or difference[:, :last].max() < 1e-5
        assert (difference[:, last] > 1e-3).all()


def test_neighbours__of_one_chunk_are_read_by_the_last_token_and_the_next_chunk_alone_in_one_layer():
    model = retro(cca_layers=(3,))
    ids, neighbours = batch(5 * M + 2)
    other = neighbours.ids.clone()
    other[:, 1] = (other[:, 1] + 1) % VOCABULARY
    difference = (model(ids, neighbours._replace(ids=other)) - model(ids, neighbours)).abs().amax(dim=(0, 2))
    assert [t for t in range(len(difference)) if difference[t] > 1e-5] == [2 * M - 1, 2 * M, 2 * M + 1, 2 * M + 2]


@pytest.mark.parametrize("kind", ["scratch", "fitted"])
def test_off__equals_an_untrained_model_and_a_model_without_cross_attention(kind):
    ids, neighbours = batch(18)
    on, untrained, without = retro(kind), retro(kind, trained=False), retro(kind, cca_layers=())
    off = on(ids)
    assert torch.equal(off, without(ids))
    assert torch.equal(off, untrained(ids, neighbours))
    assert (off - on(ids, neighbours))[:, M - 1 :].abs().amax(dim=2).min() > 1e-3
    assert torch.equal(on(ids, neighbours._replace(mask=torch.zeros_like(neighbours.mask))), off)


def test_neighbours__order_does_not_matter():
    model = retro()
    ids, neighbours = batch(18, k=4)
    order = torch.tensor([2, 0, 3, 1])
    close(model(ids, Neighbours(*(each[:, :, order] for each in neighbours))), model(ids, neighbours))


def test_neighbours__padding_changes_nothing():
    model = retro()
    ids, neighbours = batch(18)
    logits = model(ids, neighbours)
    rubbish = torch.where(neighbours.mask, neighbours.ids, (neighbours.ids + 7) % VOCABULARY)
    assert not torch.equal(rubbish, neighbours.ids)
    close(model(ids, neighbours._replace(ids=rubbish)), logits)
    longer = Neighbours(*(F.pad(each, (0, 3)) for each in neighbours))
    close(model(ids, longer), logits)
    more = Neighbours(*(F.pad(each, (0, 0, 0, 2)) for each in neighbours))
    close(model(ids, more), logits)


@pytest.mark.parametrize("length", [3, 7, 8, 13])
def test_documents__padded_at_the_end_have_the_logits_of_the_document_alone(length):
    model = retro()
    ids, neighbours = batch(length)
    padded = F.pad(ids, (0, 17 - length), value=5)
    spare = 17 // M - length // M
    filled = Neighbours(*(F.pad(each, (0, 0, 0, 0, 0, spare)) for each in neighbours))
    close(model(padded, filled)[:, :length], model(ids, neighbours))


def test_gradients__are_finite_where_chunks_have_no_neighbours():
    model = retro()
    ids, neighbours = batch(18)
    neighbours.mask[0], neighbours.mask[1, 2] = False, False
    model(ids, neighbours).square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(
    "encoder", [ENCODER, NeighbourEncoderConfig(layers=1, hidden_size=16, heads=4, share_embeddings=True)]
)
@pytest.mark.parametrize("tied", [True, False])
def test_parameters__all_train(encoder, tied):
    model = retro(encoder=encoder, tie_embeddings=tied)
    ids, neighbours = batch(18)
    model(ids, neighbours).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    assert (model.decoder.head.weight is model.decoder.embedding.weight) == tied


def test_encoder__reads_the_chunk_that_found_the_neighbours_only_where_it_is_conditioned():
    """Each chunk's own activations condition its neighbours, so that another chunk changes nothing."""
    _, neighbours = batch(3 * M)
    for condition in (True, False):
        model = retro(encoder=NeighbourEncoderConfig(layers=2, hidden_size=12, heads=2, condition=condition))
        activations = torch.randn(2, 3 * M, 16)
        changed = activations.clone()
        changed[:, M : 2 * M] += torch.randn(16)
        difference = (
            (model.encode(neighbours, changed) - model.encode(neighbours, activations)).abs().amax(dim=(2, 3, 4))
        )
        assert not difference[:, [0, 2]].any()
        assert (difference[:, 1] > 1e-3).all() == condition and difference[:, 1].any() == condition
        assert ("encoder.cross_attention.query.weight" in model.state_dict()) == condition


def test_encoder__equals_one_neighbour_at_a_time():
    model = retro()
    _, neighbours = batch(3 * M, k=3)
    activations = torch.randn(2, 3 * M, 16)
    encoded = model.encode(neighbours, activations)
    for row, u, n in [(0, 0, 0), (1, 2, 1), (0, 1, 2)]:
        real = neighbours.mask[row, u, n]
        alone = Neighbours(*(each[row, u, n][real].view(1, 1, 1, -1) for each in neighbours))
        chunk = activations[row : row + 1, u * M : (u + 1) * M]
        close(encoded[row, u, n][real], model.encode(alone, chunk)[0, 0, 0])


CUTS = [[1] * 19, [5, 1, 1, 1, 1, 4, 6], [12, 7], [3, 16], [8, 8, 3]]


@pytest.mark.parametrize("cuts", CUTS, ids=str)
@pytest.mark.parametrize("kind", ["scratch", "fitted"])
@pytest.mark.parametrize("on", [True, False])
def test_cache__decoding_in_parts_equals_the_whole(kind, cuts, on):
    model = retro(kind)
    ids, neighbours = batch(19)
    whole, cache, parts = model(ids, neighbours if on else None), Cache(), []
    for cut in cuts:
        start, end = cache.length, cache.length + cut
        ended = slice(start // M, end // M)
        new = Neighbours(*(each[:, ended] for each in neighbours)) if on and end // M > start // M else None
        parts.append(model(ids[:, start:end], new, cache))
    assert cache.length == 19
    close(torch.cat(parts, dim=1), whole)


def test_cache__keeps_the_neighbours_of_one_chunk_and_the_activations_of_an_unfinished_one():
    model = retro()
    ids, neighbours = batch(18)
    cache = Cache()
    model(ids, neighbours, cache)
    assert cache.kept["activations"].shape[1] == 2
    assert {name: kept.shape[1] for name, kept in cache.kept.items() if "neighbours" in name} == {
        f"neighbours {place} {part}": 1 for place in (0, 1) for part in (0, 1, 2)
    }


def test_neighbours__more_than_the_finished_chunks_are_not_read():
    model = retro()
    ids, neighbours = batch(18, extra=1)
    exact = Neighbours(*(each[:, :4] for each in neighbours))
    assert torch.equal(model(ids, neighbours), model(ids, exact))


def test_neighbours__of_another_number_of_chunks_are_refused():
    model, cache = retro(), Cache()
    ids, neighbours = batch(18)
    message = "4 chunks end in tokens 0 to 18, but neighbours are given for 3; give those of each chunk that ends"
    with pytest.raises(ValueError, match=message):
        model(ids, Neighbours(*(each[:, :3] for each in neighbours)))
    model(ids, neighbours, cache)
    with pytest.raises(ValueError, match="1 chunks end in tokens 18 to 20, but neighbours are given for 0"):
        model(ids[:, :2], None, cache)
    with pytest.raises(ValueError, match="1 chunks end in tokens 18 to 20, but neighbours are given for 4"):
        model(ids[:, :2], neighbours, cache)
    assert cache.length == 18


@pytest.mark.parametrize("length", [1, M - 1])
def test_short_sequence__is_read_without_neighbours(length):
    model = retro()
    ids, neighbours = batch(length)
    assert torch.equal(model(ids, neighbours), model(ids))


@pytest.fixture
def checkpoint(tmp_path):
    gpt2().save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


def test_fitting__untrained_equals_hugging_faces_logits(checkpoint):
    base = GPT2LMHeadModel.from_pretrained(checkpoint).eval()
    model = build_retro(
        RetroConfig(decoder=PretrainedDecoder(name=str(checkpoint)), encoder=ENCODER, chunk_tokens=M), VOCABULARY
    )
    ids, neighbours = batch(18)
    for each in (model.train(), model.eval()):
        assert torch.equal(each(ids, neighbours), base(ids).logits)
        assert torch.equal(each(ids), base(ids).logits)


def test_fitting__leaves_base_weights_bit_identical(checkpoint):
    config = RetroConfig(
        decoder=PretrainedDecoder(name=str(checkpoint)), encoder=ENCODER, chunk_tokens=M, cca_layers=(1, 3)
    )
    model = build_retro(config, VOCABULARY).train()
    base = GPT2LMHeadModel.from_pretrained(checkpoint)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    ids, neighbours = batch(18)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1)
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(model(ids, neighbours)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    kept, trained = model.decoder.model.state_dict(), dict(model.named_parameters())
    assert all(torch.equal(kept[name], value) for name, value in base.state_dict().items())
    new = [name for name in before if not name.startswith("decoder.")]
    assert all(not torch.equal(before[name], trained[name]) for name in new)
    assert torch.equal(model(ids), base.eval()(ids).logits)


def test_fitting__refuses_other_checkpoints_and_vocabularies(checkpoint, tmp_path):
    config = RetroConfig(decoder=PretrainedDecoder(name=str(checkpoint)), encoder=ENCODER)
    with pytest.raises(ValueError, match="has a vocabulary of 23, the corpus of 24; set `tokenizer: {kind: pretrained"):
        build_retro(config, VOCABULARY + 1)
    bert = BertConfig(vocab_size=23, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    BertLMHeadModel(bert).save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="is a bert, not a gpt2; name a GPT-2 checkpoint"):
        build_retro(RetroConfig(decoder=PretrainedDecoder(name=str(tmp_path / "bert"))), VOCABULARY)
    with pytest.raises(ValueError, match="scales its attention in a way of its own"):
        FrozenGpt2(gpt2(scale_attn_by_inverse_layer_idx=True))


def test_fitting__refuses_sequences_beyond_the_bases_positions():
    model, cache = retro("fitted"), Cache()
    ids, _ = batch(41)
    with pytest.raises(ValueError, match="41 tokens, but this GPT-2 has 40 positions; cut sequences to that"):
        model(ids)
    model(ids[:, :40], None, cache)
    with pytest.raises(ValueError, match="41 tokens"):
        model(ids[:, 40:], None, cache)


@pytest.mark.parametrize("kind", ["scratch", "fitted"])
def test_attention__materialises_no_matrix_of_the_sequences_length(kind, monkeypatch):
    """Self-attention takes the fused causal path, and masks have a row for all queries of a chunk together."""
    calls, fused = [], F.scaled_dot_product_attention

    def watched(queries, keys, values, attn_mask=None, is_causal=False):
        calls.append((queries.shape[2], attn_mask, is_causal))
        return fused(queries, keys, values, attn_mask=attn_mask, is_causal=is_causal)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    model = retro(kind)
    ids, neighbours = batch(18)
    model(ids, neighbours)
    own = [call for call in calls if call[0] == 18]
    assert len(own) == 3 and all(mask is None and causal for _, mask, causal in own)
    masks = [mask for _, mask, _ in calls if mask is not None]
    assert len(masks) == 2 + 2 and all(mask.shape[1:3] == (1, 1) for mask in masks)


def test_bfloat16__autocast_stays_near_float32():
    model = retro()
    ids, neighbours = batch(18)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(ids, neighbours)
    exact = model(ids, neighbours)
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


@pytest.mark.parametrize(
    ("layers", "numbers"),
    [(1, (1,)), (2, (1,)), (4, (2,)), (5, (3,)), (6, (6,)), (12, (6, 9, 12)), (24, (6, 9, 12, 15, 18, 21, 24))],
)
def test_attending_layers__are_every_third_from_the_sixth(layers, numbers):
    assert attending_layers(None, layers) == numbers


def test_attending_layers__beyond_the_decoder_are_refused():
    assert attending_layers((3, 1), 3) == (1, 3) and attending_layers((), 3) == ()
    assert attending_layers((-1, 1, -3), 6) == (1, 4, 6) and attending_layers("all", 3) == (1, 2, 3)
    with pytest.raises(ValueError, match=r"cca_layers names \[0, 4\], but the decoder's layers are 1 to 3"):
        attending_layers((0, 2, 4), 3)


def test_heads__that_rotary_positions_cannot_have_are_refused():
    with pytest.raises(ValueError, match=r"hidden_size 15 is no multiple of 2 \* heads = 6"):
        build_retro(RetroConfig(decoder=ScratchDecoder(hidden_size=15, heads=3)), VOCABULARY)
