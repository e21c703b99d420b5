import copy

import pytest
import torch
from torch import nn

from bcos_core import AddInverse, BcosError
from bcos_core.norms import BatchNormUncentered2d
from bcos_models import bcosify, recalibrate_norms, scale_biases, set_exponent
from bcos_models.convert.annealing import remove_biases

encode = AddInverse()


def test_exponent_set_afterwards_is_that_of_a_conversion_with_it(cnn, images):
    network = bcosify(cnn, b=1.0, image_size=16)
    set_exponent(network, 2.0)
    torch.testing.assert_close(network(encode(images)), bcosify(cnn, b=2.0, image_size=16)(encode(images)))


@pytest.mark.parametrize("original", ["cnn", "transformer"])
def test_removed_biases_leave_the_network_that_a_conversion_without_them_makes(request, original, images):
    original = request.getfixturevalue(original)
    network = bcosify(original, keep_bias=True, image_size=16, logit_bias=-1.0)
    scale_biases(network, 0.0)
    zero = network(encode(images))
    remove_biases(network)
    expected = bcosify(original, image_size=16, logit_bias=-1.0)
    assert network.state_dict().keys() == expected.state_dict().keys()
    torch.testing.assert_close(network(encode(images)), zero)
    torch.testing.assert_close(network(encode(images)), expected(encode(images)))


def test_batch_norm_without_parameters_keeps_none_but_its_bias(images):
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )
    with torch.no_grad():
        network[1].running_mean.normal_()
    kept = bcosify(network.eval(), keep_bias=True, b=1.0, image_size=16, logit_bias=-1.0)
    remove_biases(kept)
    assert kept.state_dict().keys() == bcosify(network, image_size=16).state_dict().keys()


def test_half_the_biases_are_half_of_each(cnn):
    network = bcosify(cnn, keep_bias=True, image_size=16)
    before = copy.deepcopy(network.state_dict())
    scale_biases(network, 0.5)
    after = network.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"network.conv1.bias", "network.bn1.bias", "network.norm2.bias", "network.fc.conv.bias"}
    assert all(torch.equal(after[key], before[key] / 2) for key in changed)


def test_networks_without_bcos_layers_have_no_exponent():
    with pytest.raises(BcosError, match="has no B-cos layers whose exponent could be set; convert it with bcosify"):
        set_exponent(nn.Linear(3, 4), 2.0)


def test_exponent_below_1_is_refused(cnn):
    with pytest.raises(BcosError, match="b must be at least 1"):
        set_exponent(bcosify(cnn, image_size=16), 0.5)


def test_recalibrated_statistics_are_those_of_the_batches():
    norm = BatchNormUncentered2d(4).double().eval()
    network = nn.Sequential(norm, nn.Dropout(0.5))
    batches = [3 * torch.randn(8, 4, 5, 5).double() + 1 for _ in range(3)]
    recalibrate_norms(network, batches)
    expected = torch.stack([b.transpose(0, 1).flatten(1).var(1, correction=0) for b in batches]).mean(0)
    torch.testing.assert_close(norm.running_var, expected)
    assert not norm.training
    assert norm.momentum == 0.1


def test_recalibration_needs_a_batch(cnn):
    with pytest.raises(BcosError, match="needs at least one batch"):
        recalibrate_norms(cnn, [])
