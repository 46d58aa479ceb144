"""Interpolation at each step of beam search, against float64 loops and transformers' own `generate`."""

import math

import pytest
import torch
from transformers import LogitsProcessorList

from rlm.models.knn_mt import NeighbourInterpolation, interpolated
from rlm.models.translation import IGNORED, DecoderStates, token_states
from rlm.models.translation_config import NearestTokens
from tests.models.test_translation import EOS, KINDS, PAD, V, batch, made

BEAMS = {"num_beams": 3, "max_new_tokens": 9, "do_sample": False}


def by_hand(log_p, distances, tokens, config):
    """p(y) = lambda sum_i [token_i = y] exp(-d_i / T) / Z + (1 - lambda) p(y), in Python's floats."""
    rows = []
    for row in range(len(log_p)):
        shares = [math.exp(-float(d) / config.temperature) for d in distances[row].double()]
        knn = [0.0] * log_p.shape[1]
        for share, token in zip(shares, tokens[row].tolist(), strict=True):
            knn[token] += share / sum(shares)
        mixed = [
            config.weight * knn[token] + (1 - config.weight) * math.exp(float(log_p[row, token].double()))
            for token in range(log_p.shape[1])
        ]
        rows.append([math.log(p) if p > 0 else -math.inf for p in mixed])
    return torch.tensor(rows)


@pytest.mark.parametrize("temperature", [0.5, 10.0])
@pytest.mark.parametrize("weight", [0.0, 1e-6, 0.2, 0.9, 1.0])
def test_interpolated__is_the_equation(weight: float, temperature: float) -> None:
    torch.manual_seed(0)
    log_p = torch.randn(4, V).log_softmax(-1)
    distances, tokens = torch.rand(4, 12) * 8, torch.randint(0, 6, (4, 12))  # tokens occur more than once
    tokens[0, :3], tokens[1] = 39, 5
    config = NearestTokens(weight=weight, k=12, temperature=temperature)
    found = interpolated(log_p, distances, tokens, config)
    torch.testing.assert_close(found, by_hand(log_p, distances, tokens, config).float(), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(4))


def test_interpolated__keeps_what_is_forbidden() -> None:
    log_p = torch.zeros(1, V).log_softmax(-1)
    log_p[0, 7] = -torch.inf
    found = interpolated(log_p, torch.zeros(1, 2), torch.tensor([[7, 8]]), NearestTokens(weight=0.5))
    assert found[0, 7] == -torch.inf and torch.isfinite(found[0, 8])


def test_interpolated__with_lambda_1_of_neighbours_that_are_forbidden_is_the_model() -> None:
    log_p = torch.full((2, V), -torch.inf)
    log_p[:, 7] = 0.0
    found = interpolated(log_p, torch.zeros(2, 1), torch.tensor([[8], [7]]), NearestTokens(weight=1.0))
    assert torch.equal(found, log_p)


def test_interpolated__of_far_neighbours_does_not_underflow() -> None:
    log_p = torch.zeros(1, V).log_softmax(-1)
    found = interpolated(log_p, torch.tensor([[1e6, 1e6 + 1]]), torch.tensor([[3, 4]]), NearestTokens(temperature=1.0))
    expected = 0.5 / V + 0.5 / (1 + math.exp(-1))
    assert math.exp(found[0, 3]) == pytest.approx(expected, rel=1e-4)


def generate(model, given, config=None, nearest=None, key="ffn_input"):
    arguments = {"input_ids": given["ids"], "attention_mask": given["mask"], **BEAMS}
    arguments |= {"return_dict_in_generate": True, "output_scores": True}
    with torch.no_grad():
        if config is None:
            return model.generate(**arguments)
        with DecoderStates(model, key) as states:
            processor = NeighbourInterpolation(states, nearest, config)
            return model.generate(**arguments, logits_processor=LogitsProcessorList([processor]))


def memory(model, given):
    """Keys and values of the given pairs, and a search that compares all in float64."""
    with DecoderStates(model) as states, torch.no_grad():
        keys, values = token_states(model, states, given)

    def nearest(queries, k):
        distances = (queries.double()[:, None] - keys.double()).square().sum(-1)
        found, ids = distances.topk(k, largest=False)
        return found.float(), values[ids]

    return nearest


@pytest.mark.parametrize("kind", KINDS)
def test_generate__with_lambda_0_is_that_of_transformers(kind: str) -> None:
    model, given = made(kind), batch()
    expected = generate(model, given)
    found = generate(model, given, NearestTokens(weight=0.0), memory(model, given))
    assert torch.equal(found.sequences, expected.sequences)
    assert torch.equal(found.sequences_scores, expected.sequences_scores), "bit for bit"


@pytest.mark.parametrize("kind", KINDS)
def test_generate__with_next_to_no_weight_is_that_of_transformers(kind: str) -> None:
    """Unlike lambda = 0, by the whole computation."""
    model, given = made(kind), batch()
    expected = generate(model, given)
    found = generate(model, given, NearestTokens(weight=1e-9, k=3), memory(model, given))
    assert torch.equal(found.sequences, expected.sequences)
    torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_generate__with_lambda_1_and_its_own_pairs_gives_them_back(kind: str) -> None:
    model, given = made(kind), batch()
    given["labels"][:, -1] = EOS
    given["labels"][2, 2:] = torch.tensor([EOS, IGNORED, IGNORED])
    plain = generate(model, given).sequences
    config = NearestTokens(weight=1.0, k=2, temperature=1e-3)
    found = generate(model, given, config, memory(model, given)).sequences[:, 1:]
    for row, labels in zip(found.tolist(), given["labels"].tolist(), strict=True):
        expected = [token for token in labels if token != IGNORED]
        assert row[: len(expected)] == expected and set(row[len(expected) :]) <= {PAD, EOS}
    assert found.tolist() != plain[:, 1:].tolist()


def test_generate__finds_the_beams_of_an_enumeration() -> None:
    """Two steps of beam search with as many beams as tokens are an exhaustive search over the mixture."""
    model, given = made("scratch"), {name: value[:1] for name, value in batch().items()}
    config, nearest = NearestTokens(weight=0.6, k=3, temperature=2.0), memory(model, batch(1))
    with DecoderStates(model) as states, torch.no_grad():

        def log_p(prefix: list[int]) -> torch.Tensor:
            logits = model(
                input_ids=given["ids"], attention_mask=given["mask"], decoder_input_ids=torch.tensor([prefix])
            ).logits[:, -1]
            return by_hand(logits.log_softmax(-1), *nearest(states.last[:, -1], 3), config)[0]

        first = log_p([PAD])
        totals = {
            (one, other): float(first[one] + second)
            for one in range(2, V)  # the first neither ends nor pads
            for other, second in enumerate(log_p([PAD, one]))
        }
        best = max(totals, key=totals.__getitem__)
        processor = NeighbourInterpolation(states, nearest, config)
        found = model.generate(
            input_ids=given["ids"], attention_mask=given["mask"], num_beams=V - 2, max_new_tokens=2, min_new_tokens=2,
            do_sample=False, logits_processor=LogitsProcessorList([processor]), length_penalty=0.0,
            return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
    assert tuple(found.sequences[0, 1:].tolist()) == best
