from dataclasses import replace

import pytest
import torch
from torch import nn

from bcos_core import AddInverse, BcosError, explain
from bcos_explain import get_metric
from bcos_explain.metrics import CompletenessResult, completeness


def test_only_rounding_is_missing(net_and_input):
    net, x = net_and_input
    result = completeness(net, x)
    assert result.absolute.shape == result.relative.shape == (3,)
    assert result.relative.max() < 1e-6


def test_what_is_missing_is_measured(net_and_input):
    net, x = net_and_input
    e = explain(net, x, 2)
    result = CompletenessResult.of(replace(e, bias=e.bias + torch.tensor([0.0, 1.0, -3.0])))
    torch.testing.assert_close(result.absolute, torch.tensor([0.0, 1.0, 3.0]).double(), atol=1e-5, rtol=0)
    constants = sum(term.abs() for term in e.bias_terms.values()) if e.bias_terms else 0
    size = e.contributions.abs().flatten(1).sum(1) + constants + e.score.abs() + e.score.abs()
    torch.testing.assert_close(result.relative, result.absolute / size, atol=1e-6, rtol=1e-4)


def test_batches_targets_and_8_bit_images(colour_net):
    images = torch.randint(0, 256, (5, 3, 6, 6), dtype=torch.uint8)
    target = torch.tensor([0, 1, 2, 3, 4])
    result = completeness(colour_net, images, target=target, encode=AddInverse(), batch_size=2)
    assert len(result.absolute) == 5
    summary = result.to_dict()
    assert summary["count"] == 5
    assert summary["mean_relative"] == result.mean < 1e-6
    assert summary["mean"] == result.mean
    assert torch.equal(result.scores, result.relative)
    assert summary["max_absolute"] == float(result.absolute.max())


def test_mistakes_are_refused(colour_net):
    with pytest.raises(BcosError, match=r"metrics need images \(M, C, H, W\), at least one, got shape \(0, 6, 4, 4\)"):
        completeness(colour_net, torch.rand(0, 6, 4, 4))
    with pytest.raises(BcosError, match=r"one target an input, got targets of shape \(1, 2\)"):
        CompletenessResult.of(explain(colour_net, torch.rand(1, 6, 4, 4), torch.tensor([[0, 1]])))


def test_the_metric_is_found_by_name():
    assert get_metric("completeness") is completeness


def test_classes_have_names(colour_net):
    colour_net.class_names = [f"class {k}" for k in range(9)]
    images = torch.rand(3, 3, 8, 8)
    by_index = completeness(colour_net, images, target=torch.tensor([0, 2, 1]), encode=AddInverse(), batch_size=2)
    names = ["class 0", "class 2", "class 1"]
    by_name = completeness(colour_net, images, target=names, encode=AddInverse(), batch_size=2)
    assert torch.equal(by_name.scores, by_index.scores)
    with pytest.raises(BcosError, match=r"metrics explain one class an image: target must be \(3,\), got \(2,\)"):
        completeness(colour_net, images, target=names[:2], encode=AddInverse())


class OtherWhenExplained(nn.Sequential):
    def forward(self, x):
        return super().forward(x) * (2 if torch.is_grad_enabled() else 1)


def test_a_network_that_is_not_the_one_evaluated_is_refused(colour_net):
    with pytest.raises(BcosError, match="the model gives other outputs when it is explained"):
        completeness(OtherWhenExplained(colour_net).eval(), torch.rand(2, 6, 8, 8))
