import math

import pytest
import torch

from bcos_core import BcosError, LogitLayer


@pytest.mark.parametrize("temperature", [None, 0.5, 4.0, -2.0])
@pytest.mark.parametrize("bias", [None, 0.0, -1.5])
def test_logits_are_scaled_then_shifted(temperature, bias):
    x = torch.randn(3, 4).double()
    expected = x / (1 if temperature is None else temperature) + (bias or 0)
    torch.testing.assert_close(LogitLayer(temperature, bias)(x), expected)


def test_usual_bias_gives_untrained_networks_uniform_probabilities():
    logits = LogitLayer(logit_bias=-math.log(10 - 1))(torch.zeros(1, 10))
    torch.testing.assert_close(logits.sigmoid(), torch.full((1, 10), 0.1))


def test_temperature_zero_is_refused():
    with pytest.raises(BcosError, match="logit_temperature must not be 0; use None for no temperature"):
        LogitLayer(logit_temperature=0)


def test_layer_has_no_state_and_shows_its_constants():
    layer = LogitLayer(2.0, -1.0)
    assert layer.state_dict() == {}
    assert repr(layer) == "LogitLayer(logit_temperature=2.0, logit_bias=-1.0)"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_come_out_as_float32(dtype):
    x = torch.tensor([[0.01, 0.02]], dtype=dtype)
    y = LogitLayer(2.0, -6.9)(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, x.float() / 2 - 6.9)


def test_wider_precisions_are_kept():
    assert LogitLayer(None, -6.9)(torch.zeros(1, 2, dtype=torch.float64)).dtype == torch.float64
