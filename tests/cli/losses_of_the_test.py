"""Losses that go wrong, for recipes that name them."""

import torch
from torch import nn


class _Loss(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, outputs, targets):
        del targets
        return outputs.sum() * self.factor


def infinite(options):
    """Not a number."""
    del options
    return _Loss(torch.nan)


def indifferent(options):
    """Depends on nothing."""
    del options
    return _Loss(0.0)


def vertical(options):
    """Finite, with a gradient that is not."""
    del options
    return _Root()


class _Root(nn.Module):
    def forward(self, outputs, targets):
        del targets
        return (outputs.sum() * 0).sqrt()


def raising(options):
    """Cannot be made."""
    raise ZeroDivisionError("a mistake\nof its author")
