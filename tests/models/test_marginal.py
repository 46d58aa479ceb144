"""Marginal likelihoods against enumeration in float64."""

import math

import pytest
import torch

from rlm.models.marginal import marginal_log_likelihood, marginal_over


def _case(batch=3, passages=4, masks=5):
    generator = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(batch, passages, generator=generator)
    likelihood = -torch.rand(batch, passages, masks, generator=generator) * 8
    mask = torch.rand(batch, masks, generator=generator) < 0.7
    mask[:, 0] = True
    return scores, likelihood, mask


def _prior(scores, i):
    weights = [math.exp(float(s)) for s in scores[i].double()]
    return [weight / sum(weights) for weight in weights]


def test_joint_marginal__enumerates_passages():
    scores, likelihood, mask = _case()
    ours = marginal_log_likelihood(scores, likelihood, mask, "joint")
    for i in range(len(scores)):
        total = 0.0
        for z, prior in enumerate(_prior(scores, i)):
            product = 1.0
            for j in range(mask.shape[1]):
                product *= math.exp(float(likelihood[i, z, j])) if mask[i, j] else 1.0
            total += prior * product
        assert float(ours[i]) == pytest.approx(math.log(total), abs=1e-5)


def test_per_token_marginal__enumerates_passages_for_each_token():
    scores, likelihood, mask = _case()
    ours = marginal_log_likelihood(scores, likelihood, mask, "per_token")
    for i in range(len(scores)):
        for j in range(mask.shape[1]):
            total = sum(p * math.exp(float(likelihood[i, z, j])) for z, p in enumerate(_prior(scores, i)))
            assert float(ours[i, j]) == pytest.approx(math.log(total) if mask[i, j] else 0.0, abs=1e-5)


def test_marginals__agree_when_one_token_is_masked():
    scores, likelihood, mask = _case(masks=1)
    joint = marginal_log_likelihood(scores, likelihood, mask, "joint")
    torch.testing.assert_close(joint, marginal_log_likelihood(scores, likelihood, mask, "per_token").squeeze(1))


def test_gradient_to_scores__is_the_paper_s_r_of_z():
    """r(z) = [p(y|z,x) / p(y|x) - 1] p(z|x) (REALM, section 3.3), which sums to 0 over z."""
    scores, likelihood, mask = _case()
    scores = scores.double().requires_grad_()
    log_p = marginal_log_likelihood(scores, likelihood, mask, "joint")
    (gradient,) = torch.autograd.grad(log_p.sum(), scores)
    given = (likelihood * mask.unsqueeze(1)).sum(2).double().exp()
    prior = scores.softmax(1)
    expected = (given / (prior * given).sum(1, keepdim=True) - 1) * prior
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradient.sum(1), torch.zeros(len(scores)).double(), atol=1e-5, rtol=0)


def test_marginal_over__enumerates_candidates():
    scores = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 2.0]])
    correct = torch.tensor([[True, False, True], [False, False, False]])
    total = sum(math.exp(s) for s in (1.0, -2.0, 0.5))
    expected = -math.log((math.exp(1.0) + math.exp(0.5)) / total)
    loss = marginal_over(scores, correct)
    assert float(loss[0]) == pytest.approx(expected, abs=1e-6)
    assert float(loss[1]) == 0.0


def test_marginal_over__has_no_gradient_and_no_nan_without_a_correct_candidate():
    scores = torch.tensor([[0.0, 1.0, -10_000.0]], requires_grad=True)
    marginal_over(scores, torch.zeros(1, 3, dtype=torch.bool)).sum().backward()
    assert torch.equal(scores.grad, torch.zeros(1, 3))


def test_marginal_over__stays_finite_when_the_correct_span_is_masked():
    scores = torch.tensor([[0.0, -10_000.0]])
    assert marginal_over(scores, torch.tensor([[False, True]])).item() == pytest.approx(10_000, rel=1e-3)
