"""What is particular to a family."""

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from bcos_core import BcosConv2d, BcosError, BcosLinear, explain, norms
from bcos_models import create_model
from bcos_models.vit.embedding import sincos_positions


def count(model, kind):
    return sum(isinstance(m, kind) for m in model.modules())


@pytest.mark.parametrize(
    "name", ["densenet121", "vgg11_bnu", "convnext_atto", "simple_vit_ti_patch16_224", "vitc_ti_patch1_14"]
)
def test_b_cos_network_has_no_bias_and_no_activation(name, small_options):
    model = create_model(name, **small_options[name])
    assert not any(key.endswith("bias") for key, _ in model.named_parameters())
    assert count(model, (nn.ReLU, nn.GELU, nn.MaxPool2d, nn.Conv2d)) == 0


@pytest.mark.parametrize("name", ["densenet121", "vgg11_bnu", "convnext_atto", "vitc_ti_patch1_14"])
def test_b_and_max_out_reach_every_layer(name, small_options):
    model = create_model(name, b=1.5, max_out=2, **small_options[name])
    layers = [m for m in model.modules() if isinstance(m, BcosConv2d | BcosLinear)]
    assert {(m.b, m.max_out) for m in layers} == {(1.5, 2)}
    assert layers


@pytest.mark.parametrize("norm", norms.norm_names())
@pytest.mark.parametrize("name", ["densenet121", "vgg11_bnu", "convnext_atto"])
def test_every_norm_makes_an_exact_network(name, norm, small_options):
    model = create_model(name, norm=norm, norm_affine="affine", **small_options[name]).double()
    x = torch.rand(3, 6, 48, 48, dtype=torch.float64)
    model(x)
    e = explain(model.eval(), x, 1)
    assert (e.residual.abs() < 1e-9).all()


def test_norms_of_convnext_have_their_own_eps():
    kinds = {"convnext_atto": norms.PositionNorm2d, "convnext_atto_bnu": norms.BatchNormUncentered2d}
    for name, kind in kinds.items():
        made = [m for m in create_model(name).modules() if isinstance(m, norms.base.Norm)]
        assert {type(m) for m in made} == {kind}
        assert {m.eps for m in made} == {1e-6 if kind is norms.PositionNorm2d else 1e-5}
    changed = create_model("convnext_atto", norm="batch_uncentered")
    assert {m.eps for m in changed.modules() if isinstance(m, norms.base.Norm)} == {1e-5}


def test_layer_scale_is_learned_and_starts_small():
    scales = [p for key, p in create_model("convnext_atto").named_parameters() if key.endswith("layer_scale")]
    assert len(scales) == 12
    assert all((p == 1e-6).all() for p in scales)


@pytest.mark.parametrize(
    ("name", "blocks"), [("convnext_tiny", 18), ("simple_vit_ti_patch16_224", 12), ("resnet50_long", 16)]
)
def test_stochastic_depth_grows_to_its_last_block(name, blocks):
    with torch.device("meta"):
        model = create_model(name, drop_path=0.3)
    rates = sorted({m.p for m in model.modules() if isinstance(m, StochasticDepth)})
    assert rates == pytest.approx([0.3 * i / (blocks - 1) for i in range(1, blocks)])


@pytest.mark.parametrize(
    ("name", "rate"), [("convnext_tiny", 0.1), ("convnext_base", 0.5), ("resnet50_long", 0.1), ("resnet50", 0)]
)
def test_recipes_stochastic_depth_is_the_default(name, rate):
    with torch.device("meta"):
        model = create_model(name)
    assert max((m.p for m in model.modules() if isinstance(m, StochasticDepth)), default=0) == rate


def test_dense_layers_see_all_features_before_them():
    model = create_model("cifar10_densenet52", depths=(3,), growth_rate=4, width=8)
    assert [layer.conv1.in_channels for layer in model.features.denseblock1.children()] == [8, 12, 16]


def test_dropout_of_densenets_acts_in_training_only():
    model = create_model("cifar10_densenet52", depths=(3,), growth_rate=4, width=8, drop_rate=0.5).double()
    x = torch.rand(2, 6, 8, 8, dtype=torch.float64)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
    assert (explain(model, x).residual.abs() < 1e-9).all()


@pytest.mark.parametrize("pool", [True, False])
def test_vgg_halves_the_resolution_after_every_stage(pool):
    model = create_model("vgg11", depths=(1, 2, 1), width=8, head_width=16, pool=pool)
    _, maps = model.forward_intermediates(torch.rand(1, 6, 32, 32))
    assert [m.shape[1] for m in maps] == [8, 16, 32]
    assert [m.shape[-1] for m in maps] == ([32, 16, 8] if pool else [16, 8, 4])
    assert count(model, nn.AvgPool2d) == (3 if pool else 0)


def test_positions_are_sines_and_cosines_of_row_and_column():
    rows, columns, dim = 2, 3, 8
    found = sincos_positions(rows, columns, dim)
    for r in range(rows):
        for c in range(columns):
            omega = [10_000 ** -(i / (dim // 4 - 1)) for i in range(dim // 4)]
            expected = [f(p * o) for p in (c, r) for f in (torch.sin, torch.cos) for o in map(torch.tensor, omega)]
            torch.testing.assert_close(found[r * columns + c], torch.stack(expected))


def test_patches_are_cut_row_by_row_with_the_channels_last():
    model = create_model("simple_vit_ti_patch16_224", dim=32, heads=2, depth=1, patch=2, in_chans=3)
    x = torch.arange(3 * 4 * 6.0).reshape(1, 3, 4, 6)
    seen = []
    model.embed.proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(x)
    for row in range(2):
        for column in range(3):
            patch = x[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            torch.testing.assert_close(seen[0][0, row, column], patch.permute(1, 2, 0).flatten())


def test_stem_halves_where_it_widens_also_for_many_channels():
    model = create_model("vitc_ti_patch1_14", dim=32, heads=2, depth=1, stem=(8, 16, 16, 32), in_chans=26)
    assert model.reduction == 8
    assert model.forward_features(torch.rand(1, 26, 32, 32)).shape == (1, 16, 32)


@pytest.mark.parametrize("norm", ["layer", "layer_uncentered"])
@pytest.mark.parametrize("affine", ["affine", "linear", "plain"])
def test_norms_of_transformers(norm, affine, small_options):
    options = {**small_options["vitc_ti_patch1_14"], "norm": norm, "norm_affine": affine, "num_classes": 5}
    model = create_model("vitc_ti_patch1_14", **options).double().eval()
    e = explain(model, torch.rand(2, 6, 32, 32, dtype=torch.float64), 1)
    assert (e.residual.abs() < 1e-9).all()
    kinds = {"affine": {"weight", "bias"}, "linear": {"weight"}, "plain": set()}[affine]
    made = [m for m in model.modules() if isinstance(m, norms.base.Norm)]
    assert made
    assert all({key for key, _ in m.named_parameters()} == kinds for m in made)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("densenet121", {"depths": (1, 0)}, "depths must name at least one block for every stage"),
        ("densenet121", {"growth_rate": 0}, "num_classes, in_chans, growth_rate and width must be at least 1"),
        ("densenet121", {"drop_rate": 1.0}, r"drop_rate must be in \[0, 1\), got 1.0"),
        ("vgg11", {"head_width": 0}, "head_width must be at least 1, got 1000, 6, 64 and 0"),
        ("convnext_atto", {"widths": (8,)}, r"widths and depths must be as many, got \(8,\) and \(2, 2, 6, 2\)"),
        ("convnext_atto", {"drop_path": 1.5}, r"drop_path must be in \[0, 1\), got 1.5"),
        ("simple_vit_ti_patch16_224", {"heads": 5}, "num_heads must divide dim, got dim=192 and num_heads=5"),
        (
            "simple_vit_ti_patch16_224",
            {"norm": "batch"},
            r"norm must be one of \('layer', 'layer_uncentered'\) for a tr",
        ),
        ("simple_vit_ti_patch16_224", {"patch": 0}, "patch must be at least 1"),
        ("standard_simple_vit_ti_patch16_224", {"b": 2}, "has no option 'b'"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(name, options, message):
    with pytest.raises(BcosError, match=message):
        create_model(name, **options)


def test_image_that_does_not_divide_into_patches_is_refused():
    model = create_model("simple_vit_ti_patch16_224", dim=32, heads=2, depth=1)
    with pytest.raises(BcosError, match="images must divide into patches of 16×16 pixels, got 40×32; resize or crop"):
        model(torch.rand(1, 6, 40, 32))


def test_features_that_no_position_fits_are_refused():
    with pytest.raises(BcosError, match="must be a multiple of 4, and at least 8, got 6"):
        create_model("simple_vit_ti_patch16_224", dim=6, heads=2, depth=1)
