"""Networks folded for inference compute, and explain, what the networks do."""

import threading

import pytest
import torch
from torch import nn

from bcos_core import BcosConv2d, BcosConvTranspose2d, BcosError, BcosLinear, explain, folded
from bcos_core.norms import BatchNormUncentered2d, make_norm


class Network(nn.Module):
    """Norms behind convolutions, an addition and a convolution whose output is used twice."""

    def __init__(self, b=2.0, norm="batch_uncentered", max_out=1, **options):
        super().__init__()
        self.stem = BcosConv2d(6, 8, 3, padding=1, b=b, max_out=max_out, **options)
        self.stem_norm = make_norm(norm, 8)
        self.twice = BcosConv2d(8, 8, 3, padding=1, b=b, **options)
        self.twice_norm = make_norm(norm, 8)
        self.sum_norm = make_norm(norm, 8)
        self.grouped = BcosConv2d(8, 12, 1, groups=2, b=b, **options)
        self.grouped_norm = make_norm(norm, 12)
        self.up = BcosConvTranspose2d(12, 6, 2, stride=2, b=b, **options)
        self.up_norm = make_norm(norm, 6)
        self.head = BcosLinear(6, 6, b=b, **options)
        self.head_norm = make_norm(norm, 6)

    def forward(self, x):
        x = self.stem_norm(self.stem(x))
        y = self.twice(x)
        x = self.sum_norm(self.twice_norm(y) + y)
        x = self.up_norm(self.up(self.grouped_norm(self.grouped(x))))
        return self.head_norm(self.head(x.mean((2, 3))))


def network(randomize=True, **options):
    torch.manual_seed(0)
    made = Network(**options).double()
    for module in made.modules():
        for name, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if name == "running_var" or (name == "weight" and value.ndim == 1):
                nn.init.uniform_(value, 0.5, 2.0)
        if isinstance(module, BatchNormUncentered2d) and randomize and options.get("max_out", 1) == 1:
            module.weight.data[1::3] *= -1
    return made.eval()


@pytest.fixture
def x():
    return torch.rand(2, 6, 10, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "options",
    [{}, {"b": 1.0}, {"b": 1.5}, {"b": 3.0}, {"max_out": 2}, {"normalize_weight": False}, {"bias": True}],
    ids=str,
)
def test_outputs_and_explanations_are_those_of_the_network(options, x):
    given = network(**options)
    for layer in (m for m in given.modules() if getattr(m, "bias", None) is not None):
        nn.init.uniform_(layer.bias, -0.1, 0.1)
    quick = folded(given, x)
    close = {"rtol": 1e-9, "atol": 1e-11} if options.get("b", 2) in (1, 2) else {"rtol": 1e-4, "atol": 1e-6}
    torch.testing.assert_close(quick(x), given(x), **close)
    ours, theirs = explain(quick, x, 3), explain(given, x, 3)
    torch.testing.assert_close(ours.weight, theirs.weight, **close)
    torch.testing.assert_close(ours.bias, theirs.bias, **close)
    assert (ours.residual.abs() < 1e-10).all()


def test_norms_go_where_nothing_else_takes_what_they_take(x):
    given = network()
    quick = folded(given, x)
    gone = {name for name, module in quick.named_modules() if isinstance(module, nn.Identity)}
    assert gone == {"stem_norm", "grouped_norm", "head_norm"}
    assert quick.stem.normalize_weight is quick.twice.normalize_weight is quick.head.normalize_weight is None
    assert quick.up.normalize_weight is True
    assert isinstance(given.stem_norm, BatchNormUncentered2d)
    assert given.stem.normalize_weight is True


def test_largest_unit_stays_the_largest(x):
    given = network(max_out=2)
    given.stem_norm.weight.data[0] = -1
    quick = folded(given, x)
    assert quick.stem.normalize_weight is True
    torch.testing.assert_close(quick(x), given(x))


@pytest.mark.parametrize("norm", ["batch", "layer_uncentered", "all_uncentered", "group"])
def test_other_norms_stay(norm, x):
    given = network(norm=norm)
    quick = folded(given, x)
    assert not any(isinstance(module, nn.Identity) for module in quick.modules())
    torch.testing.assert_close(quick(x), given(x))


def test_norm_with_a_bias_stays(x):
    given = network()
    given.stem_norm.bias = nn.Parameter(torch.rand(8).double())
    assert isinstance(folded(given, x).stem_norm, BatchNormUncentered2d)


def test_layer_that_runs_twice_keeps_its_norm(x):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = BcosConv2d(6, 6, 1), BatchNormUncentered2d(6)

        def forward(self, x):
            return self.norm(self.conv(self.conv(x))).mean((2, 3))

    given = Twice().double().eval()
    quick = folded(given, x)
    assert isinstance(quick.norm, BatchNormUncentered2d)
    torch.testing.assert_close(quick(x), given(x))


def test_network_in_train_mode_is_refused(x):
    with pytest.raises(BcosError, match=r"folded in eval mode.*call .eval\(\) first"):
        folded(network().train(), x)


def test_network_whose_copy_differs_is_refused(x):
    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.calls = BcosConv2d(6, 4, 1), 0

        def forward(self, x):
            self.calls += 1
            return self.conv(x).mean((2, 3)) * self.calls

    with pytest.raises(BcosError, match="cannot be folded: its copy gives another output"):
        folded(Stateful().double().eval(), x)


def test_network_that_cannot_be_copied_is_refused(x):
    given = network()
    given.lock = threading.Lock()
    with pytest.raises(BcosError, match=r"the model cannot be copied \(cannot pickle '_thread.lock' object\)"):
        folded(given, x)


def test_network_that_keeps_what_it_computed_is_folded(x):
    given = network()
    given.computed = given.head.weight * 2  # not a leaf, which PyTorch does not copy
    torch.testing.assert_close(folded(given, x)(x), given(x))


def test_network_that_takes_another_path_for_another_image_is_refused(x):
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = BcosConv2d(6, 8, 3), make_norm("batch_uncentered", 8)
            nn.init.uniform_(self.norm.running_var, 0.5, 2.0)

        def forward(self, x):
            y = self.conv(x) if float(x.mean()) < 0.4 else self.norm(self.conv(x))
            return y.mean((2, 3))

    with pytest.raises(BcosError, match="may take another path for another"):
        folded(Branching().double().eval(), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_network_in_half_precision_is_folded(dtype, x):
    given = network().to(dtype)
    quick = folded(given, x.to(dtype))
    assert quick.stem.weight.dtype == dtype
    exact = network()(x)
    assert (quick(x.to(dtype)) - exact).abs().max() < 2 * (given(x.to(dtype)) - exact).abs().max() + 1e-3


def test_what_is_folded_in_inference_mode_can_be_explained(x):
    given = network()
    with torch.inference_mode():
        quick = folded(given, x.clone())
    torch.testing.assert_close(explain(quick, x).weight, explain(given, x).weight)
