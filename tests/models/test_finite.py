"""Weights that are not finite are named, and a network with them is refused."""

import math

import pytest
import torch
from torch import nn

from bcos_core import BcosError
from bcos_models.weights import check_finite, not_finite


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("mask", torch.full((2,), -math.inf), persistent=False)


def test_parameters_and_buffers_are_named_with_what_they_hold():
    network = Layers()
    assert not_finite(network) == []  # a mask that is not saved may be infinite
    with torch.no_grad():
        network.linear.weight[0, :2] = torch.nan
        network.linear.weight[1, 0] = torch.inf
        network.norm.running_var[:] = -torch.inf
    assert not_finite(network) == [
        "parameter linear.weight holds 2 NaN and 1 infinite",
        "buffer norm.running_var holds 3 infinite",
    ]
    message = "not finite: parameter linear.weight holds 2 NaN and 1 infinite; 1 more tensors; give other weights"
    with pytest.raises(BcosError, match=message):
        check_finite(network)


def test_network_without_values_is_finite():
    assert not_finite(nn.Flatten()) == []


def test_another_process_may_hold_what_is_not_finite():
    with pytest.raises(BcosError, match="not finite: those of another process"):
        check_finite(Layers(), agree=lambda count: count + 1)
