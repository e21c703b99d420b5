import copy
from dataclasses import asdict, replace

import pytest
import timm
import torch
import torchvision
from torch import nn

from bcos_core import AddInverse, BcosConv2d, BcosError, BcosLinear, explain
from bcos_core.norms import BatchNormUncentered2d
from bcos_models import bcosify, create_model
from bcos_models.conversion import Decisions
from bcos_models.convert.annealing import remove_biases
from bcos_models.convert.bcosify import repeat_conversion

KEPT = {"b": 1.0, "keep_bias": True, "keep_norms": True, "keep_pooling": True}
encode = AddInverse()


def standardized(images, statistics):
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in statistics.values())
    return (images - mean) / std


def step(network, name):
    return next(s for s in network.conversion.steps if s.name == name)


@pytest.fixture(params=["cnn", "transformer"])
def original(request):
    return request.getfixturevalue(request.param)


def test_everything_kept_with_b_1_reproduces_the_logits(original, images, statistics):
    network = bcosify(original, **KEPT, image_size=16, **statistics)
    expected = original(standardized(images, statistics))
    torch.testing.assert_close(network(encode(images)), expected, rtol=1e-10, atol=1e-10)


def test_three_channels_take_what_the_original_took(original, images, statistics):
    network = bcosify(original, **KEPT, input="3ch", image_size=16, **statistics)
    x = standardized(images, statistics)
    torch.testing.assert_close(network(x), original(x), rtol=1e-10, atol=1e-10)


def test_uncentred_norms_with_the_mean_in_their_bias_reproduce_the_logits_too(cnn, images, statistics):
    network = bcosify(cnn, **KEPT | {"keep_norms": False}, image_size=16, **statistics)
    assert isinstance(network.network.bn1, BatchNormUncentered2d)
    expected = cnn(standardized(images, statistics))
    torch.testing.assert_close(network(encode(images)), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("b", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("keep_bias", [False, True])
@pytest.mark.parametrize("unit_norm", [False, True])
def test_contributions_and_bias_sum_to_the_logit(original, images, b, keep_bias, unit_norm):
    network = bcosify(original, b=b, keep_bias=keep_bias, unit_norm=unit_norm, image_size=16)
    e = explain(network, encode(images))
    torch.testing.assert_close(e.logits, network(encode(images)))
    assert (e.residual.abs() <= 1e-10 * (e.score.abs() + e.contributions.abs().flatten(1).sum(1))).all()


def test_converted_layers_are_the_definition(cnn):
    """``|cos(x, ŵ)| · wᵀx`` with the weights as they were."""
    network = bcosify(cnn, image_size=16, logit_bias=None)
    x = torch.rand(2, 8, 5, 5).double()
    cosine = torch.zeros(2, 12, 2, 2).double()
    linear = cnn.conv2(x)
    for o in range(12):
        group = x[:, :4] if o < 6 else x[:, 4:]
        for i in range(2):
            for j in range(2):
                patch = group[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].flatten(1)
                cosine[:, o, i, j] = torch.cosine_similarity(patch, cnn.conv2.weight[o].flatten()[None])
    expected = (cosine.abs() * linear).detach()
    torch.testing.assert_close(network.network.conv2(x).detach(), expected, rtol=1e-5, atol=1e-6)


def test_classifier_votes_at_every_position_before_the_average(cnn, images):
    network = bcosify(cnn, image_size=16, logit_bias=None)
    maps = []
    network.network.fc.conv.register_forward_hook(lambda _m, _x, votes: maps.append(votes))
    logits = network(encode(images))
    assert maps[0].shape == (3, 5, 9, 1)  # 3×3 positions, flattened by the network
    torch.testing.assert_close(logits, maps[0].mean((2, 3)))


def test_the_original_is_left_as_it_was(original):
    before = copy.deepcopy(original.state_dict())
    original.train()
    network = bcosify(original, image_size=16)
    assert original.training
    assert network.training
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert all(torch.equal(before[k], v) for k, v in original.state_dict().items())


def test_what_is_replaced_and_what_stays_is_told(cnn):
    network = bcosify(cnn, image_size=16)
    told = {s.name: (s.before, s.after, s.replaced) for s in network.conversion.steps}
    assert told["conv1"] == ("Conv2d", "BcosConv2d", True)
    assert told["bn1"] == ("BatchNorm2d", "BatchNormUncentered2d", True)
    assert told["maxpool"] == ("MaxPool2d", "AvgPool2d", True)
    assert told["norm2"] == ("GroupNorm", "GroupNorm", True)
    assert step(network, "norm2").dropped == ("bias",)
    assert told["fc"] == ("Linear", "PositionClassifier", True)
    assert told["act"] == ("ReLU", "ReLU", False)
    assert told["gate.squeeze"] == ("Conv2d", "Conv2d", False)
    assert "frozen factor" in step(network, "gate.excite").reason
    assert any("conv1 holds their mean and deviation" in note for note in network.conversion.notes)
    assert network.conversion.to_dict()["steps"][0]["name"] == "fc"


def test_gates_keep_their_biases_because_these_reach_no_contribution(cnn):
    network = bcosify(cnn, image_size=16)
    assert network.network.gate.excite.bias is not None
    assert not any("gate" in name for name in network.conversion.constants)


def test_query_key_and_value_stay_linear_without_bias(transformer):
    network = bcosify(transformer, image_size=16)
    assert type(network.network.qkv) is nn.Linear
    assert network.network.qkv.bias is None
    assert isinstance(network.network.proj, BcosLinear)
    assert "stay linear" in step(network, "qkv").reason


def test_what_the_network_still_adds_is_named(transformer):
    constants = bcosify(transformer, image_size=16, logit_bias=None).conversion.constants
    assert {"network.positions", "network.cls_token"} == set(constants)


def test_without_biases_nothing_of_them_is_left(cnn, images):
    network = bcosify(cnn, input="3ch", image_size=16, logit_bias=None)
    assert not [name for name, _ in network.named_parameters() if name.endswith("bias") and "gate" not in name]
    assert (explain(network, images).bias == 0).all()


def test_activations_go_on_request_but_gates_do_not(cnn):
    network = bcosify(cnn, keep_activations=False, image_size=16)
    assert isinstance(network.network.act, nn.Identity)
    assert isinstance(network.network.gate.act, nn.ReLU)


def test_skipped_modules_stay(cnn):
    network = bcosify(cnn, skip=["conv*", "fc"], image_size=16)
    assert type(network.network.conv2) is nn.Conv2d
    assert type(network.network.fc) is nn.Linear
    assert step(network, "conv2").reason == "skipped, as asked"


def test_unit_norm_weights_make_the_layers_of_a_network_from_scratch(cnn):
    network = bcosify(cnn, unit_norm=True, image_size=16)
    x = torch.rand(1, 8, 5, 5).double()
    fresh = BcosConv2d(8, 12, 3, stride=2, groups=2).double()
    fresh.weight = cnn.conv2.weight
    torch.testing.assert_close(network.network.conv2(x), fresh(x))


def test_logit_bias_is_the_prior_where_biases_go(cnn):
    automatic = bcosify(cnn, image_size=16).logit_layer.logit_bias
    assert automatic == pytest.approx(-torch.tensor(4.0).log().item())
    assert bcosify(cnn, keep_bias=True, image_size=16).logit_layer.logit_bias is None
    assert bcosify(cnn, keep_bias=True, logit_bias=-1.0, image_size=16).logit_layer.logit_bias == -1.0


def test_modules_used_twice_are_converted_once(images):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 8, 1)
            self.a = nn.Conv2d(8, 8, 3, padding=1)
            self.b = self.a
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            return self.head(self.b(self.a(self.conv1(x))).mean((2, 3)))

    network = bcosify(Twice(), image_size=16).network
    assert network.a is network.b


def test_images_that_two_layers_see_are_put_together_again(images):
    """A layer that needs three channels keeps the first convolution from taking six."""

    class TwoEyes(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 8, 3)
            self.gray = nn.Linear(3, 1)
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            return self.head(self.a(x).mean((2, 3)) + self.gray(x.mean((2, 3))))

    original = TwoEyes().double()
    network = bcosify(original, **KEPT, image_size=16)
    assert "put together" in network.conversion.notes[0]
    seen = standardized(images, {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)})
    torch.testing.assert_close(network(encode(images)), original(seen))
    assert (explain(network, encode(images)).residual.abs() < 1e-12).all()


def test_functions_that_cannot_be_replaced_are_told():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            return self.head(nn.functional.max_pool2d(self.conv(x).relu(), 2).mean((2, 3)))

    notes = bcosify(Functional(), keep_activations=False, image_size=16).conversion.notes
    assert "max_pool2d is called as a function (1 times) and stays" in notes
    assert "relu is called as a function (1 times) and stays" in notes


def test_weights_used_by_a_function_of_the_parent_are_left_alone():
    class Unusual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.inner = nn.Linear(8, 8)
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            y = self.conv(x).mean((2, 3))
            return self.head(nn.functional.linear(y, self.inner.weight, self.inner.bias))

    network = bcosify(Unusual(), image_size=16)
    assert type(network.network.inner) is nn.Linear
    assert "does not run by itself" in step(network, "inner").reason


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v3_small", "vit_b_16", "swin_t", "convnext_tiny", "densenet121"]
)
def test_torchvision_networks_are_reproduced_and_explained(name):
    torch.manual_seed(0)
    size = 224 if name == "vit_b_16" else 64
    original = torchvision.models.get_model(name, num_classes=5).eval()
    x = torch.rand(2, 3, 64, 64) if size == 64 else torch.rand(1, 3, size, size)
    seen = standardized(x, {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)})
    with torch.no_grad():
        expected = original(seen.float())
        logits = bcosify(original, **KEPT, image_size=size)(encode(x))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    as_it_is = explain(original, seen.float())
    torch.testing.assert_close(as_it_is.logits, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert (as_it_is.residual.abs() <= 1e-4 * as_it_is.score.abs().max()).all()
    network = bcosify(original, image_size=size).eval()
    assert any(isinstance(m, BcosConv2d) for m in network.modules())
    e = explain(network, encode(x))
    assert (e.residual.abs() <= 1e-5 * e.score.abs()).all()


def test_size_and_statistics_are_those_that_the_network_tells():
    original = timm.create_model("test_vit", num_classes=5).eval()
    network = bcosify(original, **KEPT)
    x = torch.rand(1, 3, 160, 160)
    torch.testing.assert_close(network(encode(x)), original((x - 0.5) / 0.5), rtol=1e-4, atol=1e-5)
    baseline = create_model("standard_cifar10_resnet20").eval()
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(bcosify(baseline, **KEPT)(encode(x)), baseline((x - mean) / std), rtol=1e-4, atol=1e-4)


def test_network_built_for_other_images_is_tried_with_those():
    assert bcosify(timm.create_model("test_vit", num_classes=5, img_size=64), **KEPT).conversion.replaced


def test_frozen_parameters_and_modules_stay_frozen(cnn):
    cnn.train().requires_grad_(False)
    cnn.bn1.eval()
    network = bcosify(cnn, keep_bias=True, image_size=16)
    assert not [name for name, p in network.named_parameters() if p.requires_grad]
    assert not network.network.bn1.training
    assert network.network.norm2.training
    assert network.training


def test_pooling_that_something_else_uses_too_leaves_the_classifier_behind_it(images):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.squeeze = nn.Conv2d(8, 8, 1)
            self.fc = nn.Linear(8, 5)

        def forward(self, x):
            x = self.conv(x)
            x = x * self.squeeze(self.pool(x)).sigmoid()
            return self.fc(self.pool(x).flatten(1))

    network = bcosify(Shared(), image_size=16)
    assert isinstance(network.network.fc, BcosLinear)
    assert any("or something else uses the pooling" in note for note in network.conversion.notes)


def test_skipped_pooling_leaves_the_classifier_behind_it(cnn):
    network = bcosify(cnn, skip=["avgpool"], image_size=16)
    assert isinstance(network.network.avgpool, nn.AdaptiveAvgPool2d)
    assert isinstance(network.network.fc, BcosLinear)


def test_layers_named_like_values_are_no_values():
    network = nn.Sequential()
    network.add_module("v1", nn.Conv2d(3, 8, 3))
    network.add_module("v2", nn.Conv2d(8, 8, 3))
    network.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)])
    converted = bcosify(network, image_size=16).network
    assert isinstance(converted.v1, BcosConv2d)
    assert isinstance(converted.v2, BcosConv2d)


@pytest.mark.parametrize(
    "parametrize", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm]
)
def test_parametrized_layers_stay(parametrize, images):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), parametrize(nn.Conv2d(8, 8, 3)), nn.Flatten(), nn.Linear(8 * 144, 5))
    converted = bcosify(network.eval(), image_size=16)
    assert "computed by a parametrization" in step(converted, "1").reason
    x = encode(images).float()
    assert (explain(converted, x).residual.abs() < 1e-4).all()


def test_wrong_size_or_channels_are_answered_in_words(transformer, cnn):
    with pytest.raises(BcosError, match=r"does not run on images of \(3, 32, 32\) in float64: .* give its image_size"):
        bcosify(transformer, image_size=32)
    with pytest.raises(BcosError, match=r"does not run on images of \(1, 16, 16\) .* mean and std for each"):
        bcosify(cnn, image_size=16, mean=(0.5,), std=(0.5,))


@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder_of_pytorch_is_converted_with_its_attention(images, norm_first):
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 4, stride=4)
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            return self.head(self.encoder(self.patches(x).flatten(2).transpose(1, 2)).mean(1))

    torch.manual_seed(0)
    original = Encoder().double().eval()
    seen = standardized(images, {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)})
    exact = bcosify(original, **KEPT, image_size=16)
    torch.testing.assert_close(exact(encode(images)), original(seen))
    network = bcosify(original, image_size=16)
    assert isinstance(network.network.encoder.layers[1].self_attn.out_proj, BcosLinear)
    assert not [n for n, _ in network.named_parameters() if n.endswith("bias")]
    e = explain(network, encode(images))
    assert (e.residual.abs() <= 1e-10 * e.score.abs()).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip": ["conv9"]}, "skip names 'conv9', and the network has no such module; did you mean"),
        ({"b": 0.5}, "b must be at least 1, got 0.5; 1 computes what the network did"),
        ({"input": "4ch"}, r"input must be one of \('6ch', '3ch'\), got '4ch'"),
        ({"keep_bias": "no"}, "keep_bias must be true or false, got 'no'"),
        ({"skip": [3]}, "skip must be a list of names of modules"),
        ({"mean": (0.5,), "std": (0.5, 0.5)}, "mean and std must name one number for each channel"),
        ({"std": (0.5, 0.0, 0.5)}, "std positive"),
    ],
)
def test_impossible_options_are_answered_in_words(cnn, options, message):
    with pytest.raises(BcosError, match=message):
        bcosify(cnn, image_size=16, **options)


def test_networks_that_are_no_classifiers_are_refused():
    with pytest.raises(BcosError, match=r"needs a classifier, whose output has shape \(N, K\); this network's is"):
        bcosify(nn.Conv2d(3, 4, 3), image_size=16)
    with pytest.raises(BcosError, match=r"needs a torch\.nn\.Module, got function"):
        bcosify(lambda x: x)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: timm.create_model("test_resnet", num_classes=5), "fc"),
        (lambda: timm.create_model("test_efficientnet", num_classes=5), "classifier"),
        (lambda: torchvision.models.resnet18(num_classes=5), "fc"),
        (lambda: create_model("standard_cifar10_resnet20", depths=[1, 1, 1]), "fc"),
    ],
)
def test_converted_networks_know_their_classifier(build, name):
    converted = bcosify(build(), b=1.25)
    assert converted.get_classifier() is converted.network.get_submodule(name)
    assert converted.state_dict().keys() == bcosify(build(), b=1.25).state_dict().keys()


@pytest.mark.parametrize("options", [{}, {"skip": ["conv1"]}], ids=str)
def test_images_without_their_inverse_are_refused_with_the_cure(cnn, images, options):
    network = bcosify(cnn, image_size=16, **options)
    message = r"the converted network got 3 input channels .*, needs 6; .* AddInverse\(\) first, as model.transform"
    for call in (network, lambda x: explain(network, x)):
        with pytest.raises(BcosError, match=message):
            call(images)
    grey = r"the converted network got 1 input channels .*, needs 6$"  # not stretched over all channels
    with pytest.raises(BcosError, match=grey):
        network(images[:, :1])


@pytest.mark.parametrize("options", [{}, {"skip": ["conv1"]}], ids=str)
def test_inverse_channels_are_refused_where_the_network_takes_none(cnn, images, options):
    network = bcosify(cnn, input="3ch", image_size=16, **options)
    with pytest.raises(BcosError, match=r"conv2d got 6 input channels .*, needs 3; leave AddInverse\(\) out"):
        explain(network, encode(images))


def test_plain_networks_of_ours_refuse_inverse_channels_too(images):
    network = create_model("standard_cifar10_resnet20", depths=[1, 1, 1]).double().eval()
    with pytest.raises(BcosError, match=r"conv2d got 6 input channels .*, needs 3; leave AddInverse\(\) out"):
        explain(network, encode(images))


class Decoder(nn.Module):
    """Down and up again; a transposed convolution sees the image, another is told the size of its output."""

    def __init__(self):
        super().__init__()
        self.stem = nn.ConvTranspose2d(3, 8, 2)
        self.down = nn.Conv2d(8, 8, 3, stride=2)
        self.up = nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        x = self.stem(x)
        x = self.up(self.down(x).relu(), output_size=[18, 18])
        return self.fc(self.avgpool(x).flatten(1))


def test_transposed_convolutions_are_converted(images, statistics):
    torch.manual_seed(0)
    original = Decoder().double().eval()
    exact = bcosify(original, **KEPT, image_size=16, **statistics)
    torch.testing.assert_close(exact(encode(images)), original(standardized(images, statistics)))
    network = bcosify(original, image_size=16, **statistics)
    for name in ("stem", "up"):
        assert step(network, name).after == "BcosConvTranspose2d"
        assert step(network, name).dropped == ("bias",)
    assert any("stem holds their mean and deviation" in note for note in network.conversion.notes)
    e = explain(network, encode(images))
    assert (e.residual.abs() <= 1e-10 * (e.score.abs() + e.contributions.abs().flatten(1).sum(1))).all()


def test_skipped_transposed_convolution_takes_six_channels_too(images, statistics):
    original = Decoder().double().eval()
    network = bcosify(original, **KEPT, skip=["stem"], image_size=16, **statistics)
    assert type(network.network.stem) is nn.ConvTranspose2d
    assert any("stem holds their mean and deviation" in note for note in network.conversion.notes)
    torch.testing.assert_close(network(encode(images)), original(standardized(images, statistics)))


def test_first_layer_holds_the_standardisation_without_a_constant(cnn, images, statistics):
    network = bcosify(cnn, **KEPT | {"keep_bias": False, "keep_norms": False}, image_size=16, **statistics).eval()
    first, x = network.network.conv1, standardized(images, statistics)
    w = torch.nn.functional.conv2d(x, cnn.conv1.weight, None, cnn.conv1.stride, cnn.conv1.padding)
    torch.testing.assert_close(first(encode(images)), w)
    e = explain(network, encode(images))
    assert not e.bias_terms or set(e.bias_terms) == {"logit bias"}


def test_weights_of_the_first_rules_are_read_with_them(cnn, images, statistics):
    network = bcosify(cnn, image_size=16, **statistics)
    assert network.decisions.rules == 2
    old = repeat_conversion(
        copy.deepcopy(cnn), replace(network.decisions, rules=1), network.num_classes, **statistics, **KEPT
    ).eval()
    assert type(old.encoder).__name__ == "Standardize"
    w = old.network.conv1.weight
    torch.testing.assert_close(w[:, :3], cnn.conv1.weight / 2)
    torch.testing.assert_close(w[:, 3:], -cnn.conv1.weight / 2)
    torch.testing.assert_close(old(encode(images)), cnn(standardized(images, statistics)))
    stored = {k: v for k, v in asdict(network.decisions).items() if k != "rules"}
    assert Decisions.from_dict(stored).rules == 1
    with pytest.raises(BcosError, match="have rules=3"):
        Decisions.from_dict(stored | {"rules": 3})


def test_depthwise_convolutions_stay_linear_unless_asked_for(statistics):
    class Mobile(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.head = nn.Linear(8, 4)

        def forward(self, x):
            return self.head(self.depthwise(self.stem(x).relu()).relu().mean((2, 3)))

    network = bcosify(Mobile(), image_size=16, **statistics)
    assert type(network.network.depthwise) is nn.Conv2d
    assert network.network.depthwise.bias is None
    kept = bcosify(Mobile(), keep_bias=True, image_size=16, **statistics)
    assert step(kept, "depthwise").reason == "a depthwise convolution stays linear"
    remove_biases(kept)
    assert kept.network.depthwise.bias is None
    both = bcosify(Mobile(), convert_depthwise=True, image_size=16, **statistics)
    assert isinstance(both.network.depthwise, BcosConv2d)
