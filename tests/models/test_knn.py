"""kNN probabilities, interpolation, the grid and the cache against loops in float64."""

import math

import numpy as np
import pytest
import torch

from rlm.models.knn import (
    Gate,
    Spoken,
    cache_log_probability,
    gate_features,
    grid_nats,
    interpolate,
    knn_log_probability,
    prefix_log_probabilities,
    train_gate,
)

TOKENS, K, VOCABULARY = 12, 40, 9
KS, TEMPERATURES = (1, 2, 7, 33, 40), (0.3, 1.0, 5.0, 20.0, 1000.0)
WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.25, 0.4, 0.5, 0.7, 0.9, 1.0)


@pytest.fixture(scope="module")
def found():
    """Distances ascending, the tokens of neighbours, targets, and log-probabilities of a language model."""
    rng = np.random.default_rng(0)
    distances = np.sort(rng.gamma(3.0, 20.0, (TOKENS, K)).astype(np.float32), 1)
    distances[0] += 5000  # far from everything: exp(-distance) is 0 in any precision
    return (
        torch.from_numpy(distances),
        torch.from_numpy(rng.integers(0, VOCABULARY - 1, (TOKENS, K))),
        torch.from_numpy(rng.integers(0, VOCABULARY, TOKENS)),
        torch.from_numpy(np.log(rng.uniform(0.01, 0.9, TOKENS)).astype(np.float32)),
    )


def by_hand(distances, tokens, target, temperature, k) -> float:
    """p_kNN(target), summed neighbour by neighbour, the nearest at distance 0 (which changes no ratio)."""
    near = [(float(d) - float(distances[0]), int(t)) for d, t in zip(distances[:k], tokens[:k], strict=True)]
    whole = math.fsum(math.exp(-d / temperature) for d, _ in near)
    return math.fsum(math.exp(-d / temperature) for d, token in near if token == target) / whole


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("k", KS)
def test_knn_log_probability__is_that_of_a_loop(found, temperature: float, k: int) -> None:
    distances, tokens, targets, _ = found
    wanted = [by_hand(*row, temperature, k) for row in zip(distances, tokens, targets, strict=True)]
    got = knn_log_probability(distances[:, :k], tokens[:, :k], targets, temperature).exp()
    np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-300)


def test_knn_log_probability__of_what_exp_cannot_hold() -> None:
    # the only neighbour with the target is 10,000 temperatures away
    got = knn_log_probability(torch.tensor([[0.0, 1e4]]), torch.tensor([[1, 2]]), torch.tensor([2]), 1.0)
    np.testing.assert_allclose(got, [-1e4], rtol=1e-12)


def test_prefix_log_probabilities__are_those_of_each_k_alone(found) -> None:
    distances, tokens, targets, _ = found
    grid = prefix_log_probabilities(distances, tokens, targets, TEMPERATURES, KS)
    assert grid.shape == (len(KS), len(TEMPERATURES), TOKENS)
    for row, k in enumerate(KS):
        for column, temperature in enumerate(TEMPERATURES):
            alone = knn_log_probability(distances[:, :k], tokens[:, :k], targets, temperature)
            np.testing.assert_allclose(grid[row, column], alone, rtol=1e-10)
    assert bool((grid[0] == -torch.inf).any()) and bool(torch.isfinite(grid[-1]).any())


def test_grid_nats__are_those_of_a_loop(found) -> None:
    distances, tokens, targets, lm = found
    knn = prefix_log_probabilities(distances, tokens, targets, TEMPERATURES, KS)
    nats = grid_nats(lm, knn, WEIGHTS)
    assert nats.shape == (len(KS), len(TEMPERATURES), len(WEIGHTS))
    for row, k in enumerate(KS):
        for column, temperature in enumerate(TEMPERATURES):
            for cell, weight in enumerate(WEIGHTS):
                mixed = [
                    (1 - weight) * math.exp(float(p)) + weight * by_hand(d, t, y, temperature, k)
                    for d, t, y, p in zip(distances, tokens, targets, lm, strict=True)
                ]
                wanted = math.inf if 0.0 in mixed else -math.fsum(map(math.log, mixed))
                np.testing.assert_allclose(nats[row, column, cell], wanted, rtol=1e-10)


def test_interpolate__without_neighbours_is_the_language_model_bit_for_bit(found) -> None:
    lm = found[3]
    for knn in (torch.full_like(lm, -torch.inf), torch.zeros_like(lm)):
        assert interpolate(lm, knn, 0.0) is lm
        zero = interpolate(lm, knn, torch.zeros(TOKENS))
        assert torch.equal(zero.to(lm.dtype), lm) and torch.equal(zero, lm.double())


def test_interpolate__with_neighbours_alone(found) -> None:
    knn = torch.tensor([-torch.inf, -800.0, -1.0, 0.0], dtype=torch.float64)
    assert torch.equal(interpolate(found[3][:4], knn, 1.0), knn)


def test_interpolate__with_a_weight_for_each(found) -> None:
    lm, weights = found[3], torch.linspace(0, 1, TOKENS)
    knn = torch.linspace(-3, 0, TOKENS)
    single = torch.stack([interpolate(lm[i].double(), knn[i], float(weights[i])) for i in range(TOKENS)])
    torch.testing.assert_close(interpolate(lm, knn, weights), single, rtol=1e-12, atol=0)


@pytest.mark.parametrize("weight", [-0.1, 1.5, math.nan])
def test_interpolate__when_the_weight_is_no_share(weight: float) -> None:
    with pytest.raises(ValueError, match=r"lambda .* lies in \[0, 1\]"):
        interpolate(torch.zeros(2), torch.zeros(2), weight)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_knn_log_probability__when_the_temperature_is_not_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature: found .* write a number above 0"):
        knn_log_probability(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1), temperature)


@pytest.mark.parametrize("ks", [(2, 1), (1, 1), (0, 3), (1, K + 1)])
def test_prefix_log_probabilities__when_k_is_not_there(found, ks) -> None:
    with pytest.raises(ValueError, match=f"ascending numbers from 1 to {K}"):
        prefix_log_probabilities(*found[:3], [1.0], ks)


@pytest.mark.parametrize("size", [1, 3, 600, 5000])
def test_cache__is_that_of_a_loop(size: int) -> None:
    rng = np.random.default_rng(1)
    count = 1100 if size == 600 else 20  # caches of more than one block
    keys, tokens = rng.standard_normal((count, 4)).astype(np.float32), rng.integers(0, 3, count)
    flatness = (0.0, 0.7)
    got = cache_log_probability(torch.from_numpy(keys), torch.from_numpy(tokens), size, flatness).exp()
    for row, theta in enumerate(flatness):
        for t in (*range(20), *range(count - 5, count)):
            history = range(max(0, t - size), t)
            weights = {
                i: math.exp(theta * float(np.dot(keys[t].astype(float), keys[i].astype(float)))) for i in history
            }
            whole = math.fsum(weights.values())
            wanted = math.fsum(w for i, w in weights.items() if tokens[i] == tokens[t]) / whole if whole else 0.0
            np.testing.assert_allclose(got[row, t], wanted, rtol=1e-5)
    assert got[0, 0] == 0, "nothing is before the first"


def test_gate__learns_where_neighbours_help() -> None:
    # where the nearest neighbour is near, neighbours are right; else the language model is
    rng = torch.Generator().manual_seed(0)
    near = torch.rand(2000, generator=rng) < 0.5
    distances = torch.where(near[:, None], 1.0, 50.0) + torch.rand(2000, 4, generator=rng).sort(1).values
    tokens = torch.randint(0, 5, (2000, 4), generator=rng)
    lm, knn = torch.where(near, -4.0, -0.2), torch.where(near, -0.2, -torch.inf)
    spoken = Spoken(lm, torch.full((2000,), -0.1), torch.ones(2000))
    features = gate_features(spoken, distances, tokens)
    assert bool(torch.isfinite(features).all())
    torch.manual_seed(0)
    gate = train_gate(features, lm, knn)
    weights = gate(features)
    assert isinstance(gate, Gate) and float(weights[near].min()) > 0.9 and float(weights[~near].max()) < 0.1
    fixed = max(float(interpolate(lm, knn, weight).sum()) for weight in WEIGHTS[1:-1])
    assert float(interpolate(lm, knn, weights).sum()) > fixed + 100


def test_gate__never_makes_a_token_impossible() -> None:
    gate = Gate(1)
    for layer in (gate.layers[0], gate.layers[2]):
        torch.nn.init.constant_(layer.weight, 10.0)
    weight = gate(torch.tensor([[100.0]]))
    assert 0.99 < float(weight) < 1
    torch.nn.init.constant_(gate.layers[2].weight, -10.0)
    assert 0 < float(gate(torch.tensor([[100.0]]))) < 0.01


def test_gate_features__do_not_see_the_target(found) -> None:
    distances, tokens, _, lm = found
    seen = [gate_features(Spoken(each, lm, lm), distances, tokens) for each in (lm, lm - 1)]
    assert torch.equal(*seen)
