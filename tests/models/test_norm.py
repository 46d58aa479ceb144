"""RMSNorm and its gradients, against the equation in float64."""

import pytest
import torch
from torch import nn

from rlm.models.norm import RMSNorm


def results(norm, vectors, given):
    vectors = vectors.clone().requires_grad_()
    (out := norm(vectors)).backward(given.to(out.dtype))
    return out, vectors.grad, norm.weight.grad


class Equation(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight (1910.07467, equation 4)."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight.detach().double())

    def forward(self, vectors):
        return vectors / (vectors.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * self.weight


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_rms_norm__equals_the_equation_with_its_gradients(dtype, tolerance, size):
    torch.manual_seed(0)
    vectors, given = size * (torch.randn(3, 5, 8) + 0.5), torch.randn(3, 5, 8)
    vectors, given = vectors.to(dtype), given.to(dtype)
    norm = RMSNorm(8).to(torch.float64 if dtype == torch.float64 else torch.float32)
    nn.init.normal_(norm.weight)
    expected = results(Equation(norm.weight), vectors.double(), given)
    found = results(norm, vectors, given)
    assert (found[0].dtype, found[1].dtype) == (dtype, dtype)
    for mine, exact in zip(found, expected, strict=True):
        assert (mine.double() - exact).norm() <= tolerance * exact.norm()


def test_rms_norm__of_zeros_is_zero_with_finite_gradients():
    norm = RMSNorm(4)
    out, gradient, of_weight = results(norm, torch.zeros(2, 4), torch.ones(2, 4))
    assert not out.any() and not of_weight.any()
    torch.testing.assert_close(gradient, torch.full((2, 4), 1e3))  # 1 / sqrt(eps)


def test_rms_norm__warns_of_no_mixed_types(recwarn):
    RMSNorm(4)(torch.ones(2, 4, dtype=torch.bfloat16))
    assert not len(recwarn)
