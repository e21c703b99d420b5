"""Each method against its definition, written out slowly in float64."""

import math

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from explained_networks import PlainNet, TokenNet, calibrated
from torch import nn

from bcos_core import BcosError, explain
from bcos_explain import get_explainer
from bcos_explain.explainers import collect_remarks, remark_lines


@pytest.fixture
def plain():
    net, x = calibrated("plain")
    return net.double(), x.double()


def gradient(net, x, k):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(net(leaf)[:, k].sum(), leaf)[0]


def test_relative_contributions_are_those_minus_the_mean_over_classes():
    net, x = calibrated("bcos_rgb")
    every = torch.stack([explain(net, x, k).contributions for k in range(5)])
    torch.testing.assert_close(get_explainer("bcos_relative")(net, x, 3), every[3] - every.mean(0))


def test_gradient_is_literally_that(plain):
    net, x = plain
    torch.testing.assert_close(get_explainer("gradient")(net, x, 2), gradient(net, x, 2))


class GuidedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp_min(0)

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return slope.clamp_min(0) * (x > 0)


class Guided(nn.Module):
    def forward(self, x):
        return GuidedReLU.apply(x)


def test_guided_backprop_cuts_negative_gradients_at_every_relu(plain):
    net, x = plain
    ours = get_explainer("guided_backprop")(net, x, 1)
    net.features[2], net.act = Guided(), Guided()
    expected = gradient(net, x, 1)
    torch.testing.assert_close(ours, expected)
    assert expected.abs().sum() > 0


class Called(nn.Module):
    """A network whose only activation is a function, called on what a convolution gives."""

    def __init__(self, activation):
        super().__init__()
        self.activation = activation
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 1)

    def forward(self, x):
        return self.head(self.activation(self.conv(x))).mean((2, 3))


RELUS = {
    "ReLU": nn.ReLU(),
    "ReLU in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "Tensor.relu_": lambda x: x.relu_(),
    "relu_ whose result is dropped": lambda x: (torch.relu_(x), x)[1],
    "clamp": lambda x: x.clamp(min=0),
    "clamp_min": lambda x: torch.clamp_min(x, 0.0),
    "threshold": nn.Threshold(0, 0),
}
BOUNDED = {
    "ReLU6": nn.ReLU6(),
    "F.relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, 0.0, 6.0, inplace=True),
    "clamp to 6": lambda x: x.clamp(0, 6),
}


@pytest.mark.parametrize(("activation", "bound"), [(n, 1e9) for n in RELUS] + [(n, 6.0) for n in BOUNDED])
def test_guided_backprop_guides_at_every_relu_however_it_is_called(activation, bound):
    net = Called((RELUS | BOUNDED)[activation]).double().eval()
    x = 9 * torch.rand(2, 3, 8, 8).double()  # so that some values are above 6
    before = net.conv(x).detach()
    slopes = torch.zeros_like(before) + net.head.weight[1, :, 0, 0, None, None].detach() / before[0, 0].numel()
    guided = slopes.clamp_min(0) * (before > 0) * (before < bound)
    expected = F.conv_transpose2d(guided, net.conv.weight.detach())
    with collect_remarks() as remarks:
        ours = get_explainer("guided_backprop")(net, x, 1)
    torch.testing.assert_close(ours, expected)
    assert not torch.allclose(ours, gradient(net, x, 1))
    assert not remarks


def test_guided_backprop_says_that_it_is_the_gradient_without_relus():
    net, x = calibrated("bcos_rgb")
    with collect_remarks() as remarks:
        ours = get_explainer("guided_backprop")(net, x, 1)
    torch.testing.assert_close(ours, get_explainer("gradient")(net, x, 1))
    assert remark_lines(remarks) == ["this is the plain gradient: no ReLU was seen in this network"]


def test_guided_backprop_names_activations_that_it_does_not_guide_at():
    for activation, expected in (
        (F.gelu, "this is the plain gradient: no ReLU was seen in this network, but gelu"),
        (lambda x: F.silu(F.gelu(x.relu())), "guided at ReLUs alone: 2 other activations (gelu, silu) pass the plain"),
        (lambda x: F.hardtanh(x), "this is the plain gradient: no ReLU was seen in this network, but hardtanh"),
        (lambda x: x.clamp(min=-1), "this is the plain gradient: no ReLU was seen in this network"),
    ):
        with collect_remarks() as remarks:
            get_explainer("guided_backprop")(Called(activation).eval(), torch.rand(2, 3, 8, 8), 1)
        (line,) = remark_lines(remarks)
        assert line.startswith(expected)


class Rescaled(nn.Module):
    """ReLU whose gradient is the rescale rule's multiplier against what it saw of the zero input."""

    def __init__(self, reference):
        super().__init__()
        self.reference = reference

    def forward(self, x):
        difference = x - self.reference
        multiplier = (x.relu() - self.reference.relu()) / difference
        return self.reference.relu() + difference * multiplier.detach()


def test_deeplift_follows_the_rescale_rule(plain):
    net, x = plain
    ours = get_explainer("deeplift")(net, x, 1)
    seen = {}
    handles = [
        m.register_forward_pre_hook(lambda m, args: seen.__setitem__(m, args[0].clone()))
        for m in (net.features[2], net.act)
    ]
    at_zero = net(torch.zeros_like(x))
    for handle in handles:
        handle.remove()
    first, second = seen[net.features[2]], seen[net.act]
    net.features[2], net.act = Rescaled(first), Rescaled(second)
    torch.testing.assert_close(ours, x * gradient(net, x, 1))
    torch.testing.assert_close(ours.sum((1, 2, 3)), (net(x) - at_zero)[:, 1])


@pytest.mark.parametrize(
    "kind", [nn.ReLU6, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardtanh, nn.Hardsigmoid, nn.SELU, nn.CELU, nn.ELU]
)
def test_deeplift_rescales_at_every_activation(kind):
    net, x = Called(kind()).double().eval(), 9 * torch.rand(2, 3, 8, 8).double()
    at_zero, at_x = net.conv(torch.zeros_like(x)).detach(), net.conv(x).detach()
    multiplier = (net.activation(at_x) - net.activation(at_zero)) / (at_x - at_zero)
    slopes = net.head.weight[1, :, 0, 0, None, None].detach() / at_x[0, 0].numel()
    expected = x * F.conv_transpose2d(slopes * multiplier, net.conv.weight.detach())
    with collect_remarks() as remarks:
        ours = get_explainer("deeplift")(net, x, 1)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    assert not remarks


def test_deeplift_tells_the_calls_of_one_activation_apart(plain):
    net, x = plain
    expected = get_explainer("deeplift")(net, x, torch.tensor([[1, 2]] * 3))
    net.act = net.features[2]  # now one module in two places
    torch.testing.assert_close(get_explainer("deeplift")(net, x, torch.tensor([[1, 2]] * 3)), expected)
    assert net.act is net.features[2]


def test_smoothgrad_is_the_mean_of_gradients_at_noisy_inputs(plain):
    net, x = plain
    generator = torch.Generator().manual_seed(7)
    noise = [torch.randn(x.shape[1:], generator=generator, dtype=torch.float64) for _ in range(4)]
    expected = torch.zeros_like(x)
    for i, image in enumerate(x):
        spread = 0.2 * (image.max() - image.min())
        for drawn in noise:
            expected[i] += gradient(net, (image + spread * drawn)[None], 3)[0] / 4
    torch.testing.assert_close(get_explainer("smoothgrad", n_samples=4, noise=0.2, seed=7)(net, x, 3), expected)


def test_gradcam_and_layercam_are_literally_their_definitions(plain):
    net, x = plain
    maps = net.act(net.features(x)).detach().requires_grad_()
    (slopes,) = torch.autograd.grad(net.pool(net.head(maps)).flatten(1)[:, 2].sum(), maps)
    for name, weights in (("gradcam", slopes.mean((2, 3), keepdim=True)), ("layercam", slopes.relu())):
        cam = (weights * maps).sum(1, keepdim=True).relu()
        expected = F.interpolate(cam, x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        torch.testing.assert_close(get_explainer(name, layer="act")(net, x, 2), expected)
        torch.testing.assert_close(get_explainer(name)(net, x, 2), expected)


def test_gradcam_is_that_of_captum(plain):
    net, x = plain
    theirs = captum.attr.LayerGradCam(net, net.act).attribute(x.clone(), target=1, relu_attributions=True)
    theirs = captum.attr.LayerAttribution.interpolate(theirs, x.shape[-2:], "bilinear")[:, 0]
    torch.testing.assert_close(get_explainer("gradcam", layer="act")(net, x, 1), theirs.detach(), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("window", "stride"), [(4, 2), (3, 3), (5, 4)])
def test_occlusion_is_the_mean_fall_over_the_windows_that_cover_a_pixel(plain, window, stride):
    net, x = plain
    n, _, height, width = x.shape
    fall, covered = torch.zeros(n, height, width).double(), torch.zeros(height, width).double()
    whole = net(x)[:, 1].detach()
    tops = range(0, math.ceil((height - window) / stride) * stride + 1, stride)
    lefts = range(0, math.ceil((width - window) / stride) * stride + 1, stride)
    for top in tops:
        for left in lefts:
            rows, columns = slice(top, top + window), slice(left, left + window)
            blanked = x.clone()
            blanked[:, :, rows, columns] = 0
            fall[:, rows, columns] += (whole - net(blanked)[:, 1].detach())[:, None, None]
            covered[rows, columns] += 1
    ours = get_explainer("occlusion", window=window, stride=stride)(net, x, 1)
    torch.testing.assert_close(ours, fall / covered.clamp_min(1), atol=1e-6, rtol=1e-6)  # captum sums in float32


def test_occlusion_passes_as_many_images_of_any_size():
    net, _ = calibrated("plain")
    passed = []
    net.register_forward_pre_hook(lambda _m, args: passed.append(len(args[0])))
    for side in (16, 64):
        passed.clear()
        get_explainer("occlusion")(net, torch.rand(1, 3, side, side), 1)
        assert sum(passed) == 2 + 15**2  # for the target, for the whole image, and for each window


@pytest.mark.filterwarnings("ignore::bcos_explain.explainers.ExplainerRemark")
def test_rise_is_the_average_of_masks_by_confidence(plain):
    net, x = plain
    rise = get_explainer("rise", n_masks=30, cells=4, p=0.3, seed=5)
    generator = torch.Generator().manual_seed(5)
    masks = [rise._mask(x.shape[2:], generator).double() for _ in range(30)]
    expected = sum(net(x * m).softmax(1)[:, 2, None, None].detach() * m for m in masks) / (30 * 0.3)
    torch.testing.assert_close(rise(net, x, 2), expected)


def test_masks_of_rise_are_smooth_shifted_grids_of_the_given_density():
    rise = get_explainer("rise", cells=8, p=0.1)
    generator = torch.Generator().manual_seed(0)
    masks = torch.stack([rise._mask(torch.Size([24, 32]), generator) for _ in range(800)])
    assert masks.shape == (800, 24, 32)
    assert masks.min() >= 0
    assert masks.max() <= 1
    assert abs(float(masks.mean()) - 0.1) < 0.01
    assert len({tuple(m.flatten().tolist()) for m in masks}) > 700


class Cells(nn.Module):
    """A logit that is linear in the presence of four cells."""

    def __init__(self, coefficients):
        super().__init__()
        self.coefficients = coefficients

    def forward(self, x):
        present = F.avg_pool2d(x.mean(1, keepdim=True), 4).flatten(1)
        return torch.stack([present @ self.coefficients, -present @ self.coefficients], 1)


def test_lime_finds_the_coefficients_of_a_network_that_is_linear_in_its_cells():
    coefficients = torch.tensor([3.0, -1.0, 0.5, 2.0])
    lime = get_explainer("lime", cell=4, n_samples=400, alpha=0.0)
    maps = lime(Cells(coefficients), torch.ones(1, 3, 8, 8), torch.tensor([[0, 1]]))
    expected = coefficients.reshape(1, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(maps, torch.cat([expected, -expected], 1), atol=1e-4, rtol=1e-4)


def test_lime_is_the_weighted_ridge_regression_of_its_samples(plain):
    net, x = plain
    generator = torch.Generator().manual_seed(3)
    present = torch.stack([torch.rand(1, 12, generator=generator)[0] < 0.5 for _ in range(40)]).double()
    cells = present.unflatten(1, (1, 3, 4)).repeat_interleave(4, 2).repeat_interleave(4, 3)  # 12×16 pixels
    for i in range(2):
        outputs = net(x[i] * cells)[:, 1].detach()
        distance = 1 - torch.nn.functional.cosine_similarity(present, torch.ones_like(present))
        weights = (-(distance**2) / (2 * 0.25**2)).exp()
        centred = present - (weights[:, None] * present).sum(0) / weights.sum()
        target = outputs - (weights * outputs).sum() / weights.sum()
        gram = centred.T @ (weights[:, None] * centred) + 0.5 * torch.eye(12).double()
        expected = torch.linalg.solve(gram, centred.T @ (weights * target))
        maps = get_explainer("lime", cell=4, n_samples=40, alpha=0.5, seed=3)(net, x[i : i + 1], 1)
        found = maps[0, ::4, ::4].flatten()
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)  # Captum fits in float32


@pytest.mark.filterwarnings("ignore::bcos_explain.explainers.ExplainerRemark")
@pytest.mark.parametrize("name", ["rise", "lime", "smoothgrad"])
def test_random_methods_follow_their_own_seed_alone(name, plain):
    net, x = plain
    options = {"rise": {"n_masks": 9}, "lime": {"n_samples": 30}, "smoothgrad": {"n_samples": 2}}[name]
    before = torch.random.get_rng_state()
    first = get_explainer(name, seed=1, **options)(net, x, 0)
    if name != "lime":  # Captum's fit advances the global generator, but draws nothing of use from it
        assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(123)
    again, other = (get_explainer(name, seed=s, **options)(net, x, 0) for s in (1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


@pytest.mark.filterwarnings("ignore::bcos_explain.explainers.ExplainerRemark")
@pytest.mark.parametrize("pool", ["token", "mean"])
def test_rollout_multiplies_the_attention_of_all_layers(pool):
    net = TokenNet(pool).double().eval()
    x = torch.rand(2, 3, 16, 12).double()
    tokens = net.patches(x).flatten(2).transpose(1, 2)
    tokens = torch.cat([net.token.expand(2, -1, -1), tokens], 1)
    attention = net.block.self_attn
    normed = net.block.norm1(tokens)
    _, matrix = attention(normed, normed, normed, need_weights=True)
    rolled = 0.5 * matrix + 0.5 * torch.eye(13).double()
    row = rolled[:, 0] if pool == "token" else rolled[:, 1:].mean(1)  # of the tokens that the classifier reads
    maps = row[:, 1:].unflatten(1, (1, 4, 3))
    expected = F.interpolate(maps, (16, 12), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(get_explainer("attention_rollout")(net, x, 1), expected.detach())


def test_rollout_refuses_attention_within_windows():
    class Windowed(nn.Module):
        def forward(self, x):
            windows = x.mean(1).unfold(1, 4, 4).unfold(2, 4, 4).flatten(1, 2).flatten(2)  # (N, 16, 16)
            tokens = windows.flatten(0, 1)[:, None, :, None]  # windows as batch
            mixed = F.scaled_dot_product_attention(tokens, tokens, tokens)
            last = x.mean((1, 3))[:, None, :, None]  # (N, 1, 16, 1)
            return mixed.reshape(len(x), -1)[:, :3] + F.scaled_dot_product_attention(last, last, last)[:, 0, :3, 0]

    with pytest.raises(BcosError, match="16 tokens, and other attention within parts of the image"):
        get_explainer("attention_rollout")(Windowed(), torch.rand(2, 3, 16, 16), 0)


class Mixing(nn.Module):
    """Attention over 16 patches, or over as many channels, with or without a convolution of tokens before the last."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.mix = nn.Conv2d(16, 16, 3, padding=1)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        tokens = self.norm(self.patches(x).flatten(2).transpose(1, 2))  # (N, 16, 16)
        heads = (tokens if self.kind != "channels" else tokens.transpose(1, 2))[:, None]
        tokens = F.scaled_dot_product_attention(heads, heads, heads)[:, 0]
        if self.kind == "channels":
            tokens = tokens.transpose(1, 2)
        if self.kind == "convolved":
            tokens = self.mix(tokens.transpose(1, 2).unflatten(2, (4, 4))).flatten(2).transpose(1, 2)
        if self.kind == "narrow":
            few = tokens[:, None]
            tokens = tokens + F.scaled_dot_product_attention(few, few[:, :, ::2], few[:, :, ::2])[:, 0]
        return self.head(self.norm(tokens).mean(1))


def test_rollout_refuses_what_it_does_not_follow():
    x = torch.rand(2, 3, 16, 16)
    rollout = get_explainer("attention_rollout")
    with collect_remarks() as remarks:
        rollout(Mixing("plain").eval(), x, 0)
    assert remark_lines(remarks) == ["attention is the same for every class"]
    with pytest.raises(BcosError, match="found attention over 16 tokens, and convolutions between attentions"):
        rollout(Mixing("convolved").eval(), x, 0)
    with pytest.raises(BcosError, match="16 tokens, and other attention within parts of the image or between other"):
        rollout(Mixing("narrow").eval(), x, 0)


def test_rollout_refuses_attention_over_channels():
    class OverChannels(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, 4, 2, stride=2)
            self.norm = nn.LayerNorm(4)

        def forward(self, x):
            tokens = self.norm(self.patches(x).flatten(2).transpose(1, 2))  # (N, 64, 4)
            heads = tokens.transpose(1, 2)[:, None]  # (N, 1, 4, 64): as many channels as there could be patches
            return F.scaled_dot_product_attention(heads, heads, heads)[:, 0].mean(2)

    with pytest.raises(BcosError, match=r"attention is over 4 tokens, but no layer gives \(N, 4, C\) tokens"):
        get_explainer("attention_rollout")(OverChannels().eval(), torch.rand(2, 3, 16, 16), 0)


def test_rollout_says_that_a_stem_mixes_neighbours():
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), Mixing("plain")).eval()
    with collect_remarks() as remarks:
        get_explainer("attention_rollout")(net, torch.rand(2, 3, 16, 16), 0)
    assert remark_lines(remarks)[1].startswith("convolutions mix neighbours before the first attention")


def test_channels_are_not_taken_for_tokens():
    net = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(2),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(64, 5),
    ).eval()
    x = torch.rand(2, 3, 32, 32)
    gradcam = get_explainer("gradcam")
    assert torch.equal(gradcam(net, x, 0), get_explainer("gradcam", layer="1")(net, x, 0))
    with pytest.raises(BcosError, match=r"the layer '2' gives \(2, 64, 1024\)"):
        get_explainer("gradcam", layer="2")(net, x, 0)


def test_guided_backprop_knows_the_maximum_with_zero():
    net = Called(lambda x: torch.maximum(x, torch.zeros_like(x))).eval()
    x = torch.rand(2, 3, 8, 8)
    with collect_remarks() as remarks:
        ours = get_explainer("guided_backprop")(net, x, 1)
    assert remarks == []
    net.activation = torch.relu
    torch.testing.assert_close(ours, get_explainer("guided_backprop")(net, x, 1))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_guided_backprop_says_that_it_sees_no_relus_in_torchscript():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    x = torch.rand(2, 3, 8, 8)
    with collect_remarks() as remarks:
        get_explainer("guided_backprop")(torch.jit.trace(plain, x), x, 1)
    assert any("TorchScript, where ReLUs are not seen" in line for line in remark_lines(remarks))


def test_rollout_refuses_networks_without_attention(plain):
    net, x = plain
    with pytest.raises(BcosError, match="found no such attention; use another method, such as gradcam"):
        get_explainer("attention_rollout")(net, x, 0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("smoothgrad", {"noise": 0.0}, "noise must be a positive share of the input's range, got 0.0"),
        ("smoothgrad", {"n_samples": 0}, "n_samples must be a whole number of at least 1, got 0"),
        ("occlusion", {"window": 2.5}, "window must be a whole number of at least 1, got 2.5"),
        ("rise", {"p": 1.0}, r"p must be a probability inside \(0, 1\), got 1.0"),
        ("rise", {"confidence": "odds"}, "confidence must be one of softmax, sigmoid, logit, got 'odds'"),
        ("lime", {"alpha": -1.0}, "alpha must not be negative, got -1.0"),
        ("attention_rollout", {"residual": 1.0}, r"residual must be a share in \[0, 1\), got 1.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(name, options, message):
    with pytest.raises(BcosError, match=message):
        get_explainer(name, **options)


def test_a_stride_above_the_window_is_refused():
    with pytest.raises(BcosError, match="a stride of 4 skips pixels, with windows of 2; give at most 2"):
        get_explainer("occlusion", window=2, stride=4)(PlainNet().eval(), torch.rand(1, 3, 8, 8), 0)


def test_windows_larger_than_the_image_are_refused():
    with pytest.raises(BcosError, match="a window of 20 pixels does not fit into images of 8×8"):
        get_explainer("occlusion", window=20)(PlainNet().eval(), torch.rand(1, 3, 8, 8), 0)
