"""kNN-LM (Khandelwal et al. 2020, 1911.00172): next tokens from the nearest keys of a datastore, in log space."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def knn_log_probability(distances: Tensor, tokens: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """log p_kNN(target): the softmax of -distance / temperature, summed over the neighbours that the target follows
    (1911.00172, equation 2).

    Args:
        distances: squared L2 distances, [..., k].
        tokens: that follow the neighbours, [..., k].
        targets: [...].
        temperature: in units of squared distance.

    Returns:
        float64 [...], -inf where no neighbour is followed by the target.

    Raises:
        ValueError: a temperature that is not positive.
    """
    scores = _scores(distances, temperature)
    found = scores.masked_fill(tokens != targets[..., None], -torch.inf)
    return torch.logsumexp(found, -1) - torch.logsumexp(scores, -1)


def _scores(distances: Tensor, temperature: float) -> Tensor:
    if not temperature > 0:
        raise ValueError(f"temperature: found {temperature}; write a number above 0")
    return distances.double() / -temperature


def interpolate(lm: Tensor, knn: Tensor, weight: float | Tensor) -> Tensor:
    """log((1 - weight) p_LM + weight p_kNN) (1911.00172, equation 3); `lm` itself, bit for bit, where the weight is 0.

    Args:
        lm: log-probabilities of the language model.
        knn: those of the neighbours, of the same shape.
        weight: lambda, one number, or one for each.

    Returns:
        of the type of `lm` where the weight is the number 0, else float64.

    Raises:
        ValueError: a weight outside [0, 1].
    """
    if not isinstance(weight, Tensor):
        if weight == 0:
            return lm
        weight = torch.tensor(weight, dtype=torch.float64, device=lm.device)
    if not bool(((weight >= 0) & (weight <= 1)).all()):
        raise ValueError(f"lambda from {float(weight.min())} to {float(weight.max())}; it lies in [0, 1]")
    weight = weight.double()
    mixed = torch.logaddexp(lm.double() + torch.log1p(-weight), knn.double() + weight.log())
    return torch.where(weight == 0, lm.double(), mixed)


def prefix_log_probabilities(
    distances: Tensor, tokens: Tensor, targets: Tensor, temperatures: Sequence[float], ks: Sequence[int]
) -> Tensor:
    """`knn_log_probability` of the nearest k for every k and temperature, from one list of neighbours.

    Args:
        distances: ascending, [tokens, most].
        tokens: [tokens, most].
        targets: [tokens].
        temperatures: each above 0.
        ks: ascending, each at most `most`.

    Returns:
        float64 [ks, temperatures, tokens].
    """
    if list(ks) != sorted(set(ks)) or not 1 <= ks[0] <= ks[-1] <= distances.shape[-1]:
        raise ValueError(f"k of {list(ks)}; write ascending numbers from 1 to {distances.shape[-1]}")
    found = torch.empty(len(ks), len(temperatures), len(targets), dtype=torch.float64, device=distances.device)
    matched = tokens == targets[:, None]
    for column, temperature in enumerate(temperatures):
        scores = _scores(distances, temperature)
        hits = scores.masked_fill(~matched, -torch.inf)
        every = hit = scores.new_full((len(targets),), -torch.inf)
        for row, (low, high) in enumerate(zip([0, *ks], ks, strict=False)):
            every = torch.logaddexp(every, torch.logsumexp(scores[:, low:high], 1))
            hit = torch.logaddexp(hit, torch.logsumexp(hits[:, low:high], 1))
            found[row, column] = hit - every
    return found


def grid_nats(lm: Tensor, knn: Tensor, weights: Sequence[float]) -> Tensor:
    """Sums of -log p over tokens for every weight: lm [tokens], knn [..., tokens] to float64 [..., weights]."""
    return torch.stack([-interpolate(lm.double().expand_as(knn), knn, weight).sum(-1) for weight in weights], -1)


def cache_log_probability(keys: Tensor, tokens: Tensor, size: int, flatness: Sequence[float]) -> Tensor:
    """log p_cache of each token of a document after those before it (Grave et al. 2017, equation 3).

    Args:
        keys: of the positions that predict, [tokens, dim].
        tokens: that follow them, [tokens].
        size: tokens looked back on.
        flatness: theta, of the inner products.

    Returns:
        float64 [flatness, tokens]; -inf where the token is not in the cache, or the cache is empty.
    """
    found = keys.new_full((len(flatness), len(tokens)), -torch.inf, dtype=torch.float64)
    for low in range(0, len(tokens), CACHED):
        high = min(low + CACHED, len(tokens))
        first = max(0, low - size)
        # [positions, history]
        scores = (keys[low:high].float() @ keys[first:high].float().T).double()
        back = torch.arange(low, high)[:, None] - torch.arange(first, high)
        outside = ((back < 1) | (back > size)).to(keys.device)
        missed = outside | (tokens[first:high] != tokens[low:high, None])
        for row, theta in enumerate(flatness):
            every, hits = ((theta * scores).masked_fill(mask, -torch.inf) for mask in (outside, missed))
            found[row, low:high] = torch.logsumexp(hits, 1) - torch.logsumexp(every, 1)
    return found.nan_to_num(nan=-torch.inf, neginf=-torch.inf)


CACHED = 512
"""Positions whose caches are read together."""


CERTAIN = 1e-6
"""The least weight that a gate gives to either side."""


class Gate(torch.nn.Module):
    """Lambda for each token by a small network over what language model and neighbours say (adaptive; Zheng et al.
    2021, He et al. 2021)."""

    def __init__(self, features: int, width: int = 32) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(features, width), torch.nn.ReLU(), torch.nn.Linear(width, 1), torch.nn.Sigmoid()
        )
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    mean: Tensor
    scale: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """[tokens, features] to [tokens], above 0 and below 1: neither side may make a token impossible."""
        return self.layers((features - self.mean) / self.scale).squeeze(-1).clamp(CERTAIN, 1 - CERTAIN)


class Spoken(NamedTuple):
    """What the language model says at each token, [tokens]."""

    lm: Tensor
    """log p of the token that follows."""
    best: Tensor
    """log p of the likeliest."""
    entropy: Tensor
    """Of the distribution, nats."""


def gate_features(spoken: Spoken, distances: Tensor, tokens: Tensor) -> Tensor:
    """What a gate may know before it sees the target, [tokens, features]: how sure the language model is, how near the
    neighbours are, and how many different tokens follow the nearest."""
    k = distances.shape[1]
    places = sorted({min(place, k) - 1 for place in (1, 8, 64, 512, k)})
    near = tokens[:, : min(k, 16)].sort(1).values
    different = 1.0 + (near[:, 1:] != near[:, :-1]).sum(1)
    columns = [spoken.best, spoken.entropy, different.log(), *(distances[:, places].clamp(min=1e-6).log().T)]
    return torch.stack([column.float() for column in columns], 1)


def train_gate(features: Tensor, lm: Tensor, knn: Tensor, steps: int = 300, learning_rate: float = 1e-2) -> Gate:
    """Fit a gate to tokens that nothing else was trained on: the most likely mixture."""
    gate = Gate(features.shape[1])
    gate.mean, gate.scale = features.mean(0), features.std(0).clamp(min=1e-6)
    optimizer = torch.optim.Adam(gate.parameters(), learning_rate)
    for _ in range(steps):
        optimizer.zero_grad()
        weight = gate(features).double()
        loss = -interpolate(lm, knn.clamp(min=-1e4), weight).mean()
        loss.backward()
        optimizer.step()
    return gate.requires_grad_(False)
