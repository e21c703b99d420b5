"""Every network of the reference package: its state dicts load; logits, W(x), picture and training step are equal."""

import copy
import warnings
from contextlib import nullcontext

import pytest
import torch
from filelock import FileLock

from bcos_core import explain
from bcos_core.losses import UniformOffLabelsBCELoss
from bcos_explain import explanation_image
from bcos_models import create_model, get_spec
from bcos_models.reference import bcos_models_convert_state_dict
from bcos_models.weights import load_state

resnet = pytest.importorskip("bcos.models.resnet")
pretrained = pytest.importorskip("bcos.models.pretrained")
densenet = pytest.importorskip("bcos.models.densenet")
vgg = pytest.importorskip("bcos.models.vgg")
convnext = pytest.importorskip("bcos.models.convnext")
pytest.importorskip("einops")
modules = pytest.importorskip("bcos.modules")
common = pytest.importorskip("bcos.common")

UNCENTRED = modules.norms.NoBias(modules.norms.BatchNormUncentered2d)
PUBLISHED = pretrained.list_available()
CIFAR = [
    *(f"cifar10_resnet{d}" for d in (20, 32, 44, 56, 110)),
    *(f"cifar10_resnext29_{w}" for w in ("8x64d", "16x64d")),
    *(f"cifar10_resnext{d}_{w}" for d in (29, 47, 65, 101) for w in ("32x4d", "16x8d")),
    *(f"cifar10_densenet{d}" for d in (52, 100, 190, 250)),
]
NORMLESS = ("vgg11", "vgg13", "vgg16", "vgg19")
UNPUBLISHED = ["wide_resnet50_2", "vgg13", "convnext_atto", "convnext_small"]
TRAINED = [n for n in CIFAR if not n.endswith(("16x64d", "190", "250"))]
SMALLEST = {
    "resnet18",
    "densenet121",
    "convnext_atto",
    "simple_vit_ti_patch16_224",
    "vitc_ti_patch1_14",
    "cifar10_resnet20",
    "cifar10_resnext29_32x4d",
    "cifar10_densenet52",
}
"""Of each family; the others are slow."""


def reference(name, **options):
    """The reference's network, with random weights."""
    if name in PUBLISHED:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(pretrained, name)(pretrained=False, **options)
    home = next(m for m in (resnet, densenet, vgg, convnext) if hasattr(m, name))
    norm = {} if home is convnext or name in NORMLESS else {"norm_layer": UNCENTRED}
    conv = {"conv_layer": modules.BcosConv2d} if home is vgg else {}
    return getattr(home, name)(pretrained=False, **{**norm, **conv, **options})


def inputs(name, n, dtype):
    spec = get_spec(name)
    side = 16 if spec.input.size == 32 else 64 if spec.family in ("vgg", "densenet") else 32
    x = torch.rand(n, 3, side, side, dtype=torch.float64)
    encoded = (x - 0.5) / 0.25 if spec.input.encoding == "standardize" else torch.cat([x, 1 - x], 1)
    return encoded.to(dtype)


def pair(name, dtype):
    """The reference's network, with weights and statistics that let signals through, and ours with its state."""
    torch.manual_seed(0)
    theirs = reference(name).to(dtype).train()
    norms = [m for m in theirs.modules() if hasattr(m, "running_var")]
    with torch.no_grad():
        for module in theirs.modules():
            if hasattr(module, "layer_scale"):  # at 1e-6 the residual branches of ConvNeXts would say nothing
                module.layer_scale.fill_(0.5)
        if name.startswith(
            "vgg"
        ):  # every layer without norm shrinks by the cosine, which is larger among positive vectors
            for weight in theirs.parameters():
                weight.abs_()
        if norms:
            for norm in norms:
                norm.momentum = 1.0
            theirs(inputs(name, 3, dtype))
            for norm in norms:
                norm.momentum = 0.1
    with torch.device("meta"):
        ours = create_model(name)
    ours = ours.to(dtype).to_empty(device="cpu")
    load_state(ours, theirs.state_dict(), name=name, source="the reference")
    return ours, theirs


def some(name):
    """Images, and classes to explain; few of both for the largest networks."""
    torch.manual_seed(0)
    large = is_large(name)
    return inputs(name, 1 if large else 2, torch.float64), [[3]] if large else [[3, 7], [0, 9]]


def is_large(name):
    """Whether a pair of them takes up to 10 GB."""
    return name.startswith("vgg") or "_l_" in name


def close(ours, theirs, tolerance, what):
    atol = tolerance * float(theirs.abs().max())
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=atol, msg=lambda m: f"{what}: {m}")


def explained(theirs, x, targets):
    """The reference's W for each target, (N, T, C, H, W); what ours says of plain networks is not compared."""
    leaf = x.clone().requires_grad_()
    with theirs.explanation_mode():
        logits = theirs(leaf)
        return torch.stack(
            [
                torch.autograd.grad(logits.gather(1, targets[:, t : t + 1]).sum(), leaf, retain_graph=True)[0]
                for t in range(targets.shape[1])
            ],
            1,
        )


@pytest.fixture(scope="module")
def nets(request, tmp_path_factory):
    """Ours and the reference's, in float64 and eval mode, for all tests of one name; one of the largest at a time."""
    alone = (
        FileLock(tmp_path_factory.getbasetemp().parent / "largest.lock") if is_large(request.param) else nullcontext()
    )
    with alone:
        ours, theirs = pair(request.param, torch.float64)
        yield request.param, ours.eval(), theirs.eval()


def over(names):
    """Run a test for these networks."""
    slow = [pytest.param(n, marks=() if n in SMALLEST else pytest.mark.slow) for n in names]
    return pytest.mark.parametrize("nets", slow, indirect=True, scope="module")


@over([*PUBLISHED, *CIFAR, *UNPUBLISHED])
def test_logits_explanation_and_picture_are_the_references(nets):
    name, ours, theirs = nets
    x, targets = some(name)
    with torch.no_grad():
        close(ours(x), theirs(x), 1e-9, "logits")
    if name.startswith("standard_"):  # these cannot be explained with the reference
        return
    e = explain(ours, x, targets)
    assert e.contributions.abs().sum() > 1e-3  # there is something to compare
    expected = explained(theirs, x, e.target)
    close(e.weight, expected, 1e-9, "W")
    loud = expected * (1e6 / expected.abs().max())  # the reference adds 1e-12, which an untrained network's W feels
    for i in range(len(x)):
        picture = explanation_image(x[i], e.weight[i, 0])
        close(torch.from_numpy(picture), torch.from_numpy(common.gradient_to_image(x[i], loud[i, 0])), 1e-9, "picture")


@over([*PUBLISHED, *TRAINED])
def test_training_step_is_the_references(nets):
    name, ours, theirs = nets
    torch.manual_seed(0)
    x = inputs(name, 3, torch.float64)
    target = torch.tensor([1, 2, 5])
    if name.startswith("standard_"):
        our_loss = their_loss = torch.nn.CrossEntropyLoss()
    else:
        our_loss, their_loss = UniformOffLabelsBCELoss(), modules.losses.UniformOffLabelsBCEWithLogitsLoss()
    loss, gradients = step(ours, our_loss, x, target)
    their_value, their_gradients = step(theirs, their_loss, x, target)
    close(loss, their_value, 1e-9, "loss")
    expected = bcos_models_convert_state_dict(name, their_gradients) or their_gradients
    assert gradients.keys() == expected.keys()
    for key, gradient in gradients.items():
        close(gradient, expected[key], 1e-8, key)


def step(model, loss, x, target):
    """Loss and gradients in train mode; the model is left as it was."""
    buffers = {key: buffer.clone() for key, buffer in model.named_buffers()}
    torch.manual_seed(1)  # of stochastic depth
    value = loss(model.train()(x), target)
    value.backward()
    gradients = {key: p.grad for key, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    for key, buffer in model.eval().named_buffers():
        buffer.copy_(buffers[key])
    return value.detach(), gradients


@over([*(n for n in PUBLISHED if not is_large(n)), *(n for n in CIFAR if "resnet" in n)])
def test_float32_is_equal_up_to_rounding(nets):
    """Equal to 1e-5, or of the reference's own error: untrained deep ResNets amplify rounding, theirs as ours."""
    name, ours, theirs = nets
    x, targets = some(name)
    ours32, theirs32 = copy.deepcopy(ours).float(), copy.deepcopy(theirs).float()
    with torch.no_grad():
        equal_up_to_rounding(ours32(x.float()), theirs32(x.float()), theirs(x))
    if name.startswith("standard_"):
        return
    true = explain(ours, x, targets)
    e = explain(ours32, x.float(), targets)
    equal_up_to_rounding(e.weight, explained(theirs32, x.float(), e.target), true.weight)


def equal_up_to_rounding(ours, theirs, true):
    scale = true.abs().max()
    error, their_error, difference = (
        (a - b).abs().max() / scale for a, b in ((ours, true), (theirs, true), (ours, theirs))
    )
    assert difference <= 1e-5 or error <= 10 * their_error, (difference, error, their_error)
