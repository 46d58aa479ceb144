"""Chunked cross-attention against the paper's equations in float64, token by token."""

import pytest
import torch

from rlm.models.chunked_attention import ChunkedCrossAttention, attend, rotate
from tests.models import retro_reference


def layer_and_inputs(m, length, k, r, batch=2, width=8, heads=2, encoded_width=6):
    torch.manual_seed(length)
    layer = ChunkedCrossAttention(width, heads, encoded_width, m)
    torch.nn.init.normal_(layer.norm.weight)
    chunks = length // m
    hidden = torch.randn(batch, length, width)
    encoded = torch.randn(batch, chunks, k, r, encoded_width)
    return layer, hidden, encoded, torch.arange(r) < torch.randint(1, r + 1, (batch, chunks, k, 1))


@pytest.mark.parametrize(
    ("m", "length", "k", "r"), [(4, 16, 2, 8), (4, 11, 1, 8), (4, 15, 3, 5), (3, 4, 2, 6), (5, 5, 2, 10), (1, 4, 2, 2)]
)
def test_cca__equals_the_papers_equations(m, length, k, r):
    layer, hidden, encoded, mask = layer_and_inputs(m, length, k, r)
    mask[0, 0], mask[1, -1, 0] = False, False
    found = layer(hidden, *layer.keys_values(encoded), mask.flatten(2))
    for row in range(len(hidden)):
        real = retro_reference.unpadded(encoded[row].double(), mask[row])
        expected = retro_reference.cross_attention(layer, hidden[row].double(), real)
        torch.testing.assert_close(found[row].double(), expected, atol=1e-5, rtol=1e-5)
    assert found[:, m - 1 :].abs().max() > 0.01


@pytest.mark.parametrize("length", [1, 3])
def test_cca__passes_tokens_before_the_first_chunk_ends(length):
    layer, hidden, encoded, mask = layer_and_inputs(4, length, 2, 8)
    assert torch.equal(layer(hidden, *layer.keys_values(encoded), mask.flatten(2)), torch.zeros_like(hidden))


def test_cca__is_exactly_zero_and_without_nan_where_a_chunk_has_no_neighbours():
    layer, hidden, encoded, mask = layer_and_inputs(4, 12, 2, 8)
    mask[:], mask[0, 1] = True, False
    hidden.requires_grad_(), encoded.requires_grad_()
    update = layer(hidden, *layer.keys_values(encoded), mask.flatten(2))
    assert torch.equal(update[0, 7:11], torch.zeros(4, 8))
    assert (update[0, 3:7].abs().sum(dim=1) > 0).all() and (update[1, 3:].abs().sum(dim=1) > 0).all()
    update.square().sum().backward()
    gradients = [hidden.grad, encoded.grad, *(p.grad for p in layer.parameters())]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not encoded.grad[0, 1].any() and not hidden.grad[0, 7:11].any()


@pytest.mark.parametrize("cuts", [[1] * 13, [3, 1, 4, 5], [4, 4, 5], [7, 6], [5, 8]])
def test_cca__in_parts_equals_cca_at_once(cuts):
    layer, hidden, encoded, mask = layer_and_inputs(4, 13, 2, 8)
    keys, values = layer.keys_values(encoded)
    whole, start, parts = layer(hidden, keys, values, mask.flatten(2)), 0, []
    for cut in cuts:
        ended = (start + cut) // 4
        known = (each[:, :ended] for each in (keys, values, mask.flatten(2)))
        parts.append(layer(hidden[:, start : start + cut], *known, start=start))
        start += cut
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-6, rtol=1e-5)


def test_rotate__makes_products_depend_on_distance_alone():
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 8, dtype=torch.float64)

    def product(i, j):
        return (rotate(query, torch.tensor([i])) * rotate(key, torch.tensor([j]))).sum().item()

    assert product(5, 8) == pytest.approx(product(0, 3), abs=1e-5)
    assert product(900, 903) == pytest.approx(product(0, 3), abs=1e-3)
    assert product(0, 4) != pytest.approx(product(0, 3), abs=1e-2)


def test_attend__reads_no_hidden_key():
    torch.manual_seed(0)
    queries, keys, values = torch.randn(3, 2, 5, 2, 4)
    visible = torch.tensor([[True, True, False, True, False], [False] * 5])
    before = attend(queries, keys, values, visible)
    keys[:, [2, 4]], values[:, [2, 4]] = 100.0, 100.0
    assert torch.equal(attend(queries, keys, values, visible), before)
    assert before[0].all() and not before[1].any()
