"""What the tests of rules share: networks that are one function, and how they are looked at."""

import torch
from torch import nn

from bcos_core import explanation_mode

X = torch.tensor([[-1.2, 0.4, 0.9, -0.3], [0.2, -2.0, 1.7, 0.6], [1.1, 0.8, -0.5, 2.2]]).double()
C = torch.tensor([0.5, -0.7, 1.3, 0.1]).double()
K = torch.tensor([-0.4, 0.9, 0.3, -1.6]).double()
MASK = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0], [1, 1, 0, 0]]).bool()
COLUMN = torch.full((3, 1), 2)


class Call(nn.Module):
    """A function of the input."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Net(nn.Module):
    """A function of the network and the input, with a parameter `c` (4,) and a buffer `k` (4,)."""

    def __init__(self, function):
        super().__init__()
        self.c = nn.Parameter(C.clone())
        self.register_buffer("k", K.clone())
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def weights(function, x):
    """Value, and gradient of its sum in explanation mode."""
    leaf = x.clone().requires_grad_()
    with explanation_mode(nn.Identity()):
        y = function(leaf.clone())
        (gradient,) = torch.autograd.grad(y.sum(), leaf, allow_unused=True) if y.requires_grad else (None,)
    return y.detach(), torch.zeros_like(x) if gradient is None else gradient


def column(value, where=2):
    """`value` in one column, else 0."""
    bias = torch.zeros(3, 4).double()
    bias[:, where] = value
    return bias


def changed(change):
    """A function that changes a copy of x."""

    def function(m, x):
        y = x * 1
        change(m, y)
        return y

    return function
