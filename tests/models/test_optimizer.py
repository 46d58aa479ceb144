import pytest
import torch
from torch import nn

from rlm.models.config import Training
from rlm.models.optimizer import configure, learning_rate_factor


def test_learning_rate__follows_google_bert():
    """num_train_steps 1000, warm-up 100: linear to the decayed line, which is not re-based after warm-up."""
    training = Training(steps=1000, batch_size=1, learning_rate=1.0, warmup_steps=100)
    assert learning_rate_factor(0, training) == pytest.approx(0.01)
    assert learning_rate_factor(99, training) == pytest.approx(1.0)
    assert learning_rate_factor(100, training) == pytest.approx(0.9)
    assert learning_rate_factor(1000, training) == 0.0


@pytest.mark.parametrize(("steps", "warmup"), [(500, 100), (20_000, 2_000), (200_000, 10_000)])
def test_warmup__defaults_to_the_released_rule(steps, warmup):
    training = Training(steps=steps, batch_size=1, learning_rate=1.0)
    assert learning_rate_factor(warmup - 1, training) == pytest.approx(1.0)
    assert learning_rate_factor(warmup - 2, training) < 1.0


def test_weight_decay__spares_biases_and_layer_norm():
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    optimizer = configure(module, Training(steps=10, batch_size=1, learning_rate=1e-3))["optimizer"]
    decayed, spared = optimizer.param_groups
    assert [p.shape for p in decayed["params"]] == [torch.Size([4, 3])] and decayed["weight_decay"] == 0.01
    assert len(spared["params"]) == 3 and spared["weight_decay"] == 0.0
