"""kNN-MT (Khandelwal et al. 2021, 2010.00710): at every step of beam search, what followed like states counts too."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import LogitsProcessor

from rlm.models.translation import DecoderStates
from rlm.models.translation_config import NearestTokens

Nearest = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""`nearest(states, k)`: squared distances of the k nearest keys to [rows, width], and their tokens, each [rows, k]."""


class NeighbourInterpolation(LogitsProcessor):
    """Mixes the model's distribution of the next token with that of the nearest keys.

    Args:
        states: of the decoder, open while it generates.
        nearest: the search.
        config: k, temperature and lambda.
    """

    def __init__(self, states: DecoderStates, nearest: Nearest, config: NearestTokens) -> None:
        self.states, self.nearest, self.config = states, nearest, config

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Log-probabilities from logits or log-probabilities, [rows, vocabulary]; what is forbidden (-inf) stays so."""
        if not self.config.weight:
            return scores
        distances, tokens = self.nearest(self.states.last[:, -1], self.config.k)
        return interpolated(scores.log_softmax(-1), distances, tokens, self.config)


def interpolated(log_p: Tensor, distances: Tensor, tokens: Tensor, config: NearestTokens) -> Tensor:
    """log(lambda p_kNN + (1 - lambda) p), p_kNN being the softmax of -d / T, summed over neighbours of equal token.

    Args:
        log_p: of the model, [rows, vocabulary].
        distances: squared, [rows, k].
        tokens: [rows, k].
        config: temperature T and lambda (`weight`).
    """
    shares = (-distances.to(log_p.dtype) / config.temperature).softmax(-1)
    # [rows, vocabulary]
    sums = torch.zeros_like(log_p).scatter_add_(1, tokens, shares)
    weight = torch.tensor(config.weight, dtype=log_p.dtype, device=log_p.device)
    # where no neighbour votes, a product is all there is; the few others are computed apart
    mixed = log_p + torch.log1p(-weight)
    voted = torch.logaddexp(mixed.gather(1, tokens), weight.log() + sums.gather(1, tokens).log())
    forbidden = torch.isneginf(log_p)
    mixed = mixed.scatter_(1, tokens, voted).masked_fill_(forbidden, -torch.inf)
    if config.weight == 1:  # where all that neighbours name is forbidden, the model decides
        mixed = torch.where(torch.isneginf(mixed).all(1, keepdim=True), log_p, mixed)
    return mixed
