"""Marginal likelihoods over retrieved passages."""

from typing import Literal

import torch
from torch import Tensor


def marginal_log_likelihood(
    scores: Tensor, log_likelihood: Tensor, mask: Tensor, kind: Literal["per_token", "joint"]
) -> Tensor:
    """log p(y|x) = log sum_z p(z|x) p(y|z,x), with p(z|x) = softmax of the retrieval scores (REALM, eq. 1 and 2).

    Args:
        scores: f(x, z), [batch, passages].
        log_likelihood: log p(y_j|z,x) of each masked token, [batch, passages, masks].
        mask: True on real masked tokens, [batch, masks].
        kind: `joint` takes the product over masked tokens inside the sum, as the paper; `per_token` takes one sum for
            each masked token, as the released code.

    Returns:
        [batch, masks] for `per_token`, 0 where `mask` is False; [batch] for `joint`.
    """
    # [batch, passages, 1]
    log_prior = scores.float().log_softmax(dim=1).unsqueeze(2)
    log_likelihood = log_likelihood.float() * mask.unsqueeze(1)
    if kind == "joint":
        return (log_prior.squeeze(2) + log_likelihood.sum(dim=2)).logsumexp(dim=1)
    return (log_prior + log_likelihood).logsumexp(dim=1) * mask


def marginal_over(scores: Tensor, correct: Tensor) -> Tensor:
    """-log of the share of softmax(scores) that is on correct candidates; 0 in rows without one (ORQA, section 5).

    Args:
        scores: [batch, candidates].
        correct: boolean, [batch, candidates].

    Returns:
        [batch].
    """
    # A finite fill keeps rows without a correct candidate free of NaN in the gradient.
    gold = scores.masked_fill(~correct, torch.finfo(scores.dtype).min / 2).logsumexp(dim=1)
    return torch.where(correct.any(dim=1), scores.logsumexp(dim=1) - gold, scores.new_zeros(()))
