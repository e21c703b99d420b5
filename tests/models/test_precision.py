"""Autocast: logits stay near those of float32, without NaN."""

import pytest
import torch

from bcos_models import create_model, get_spec

BOUNDS = {torch.bfloat16: 0.2, torch.float16: 0.03}
"""Largest error of a logit, in units of the largest part of a logit that depends on the input."""
NAMES = ["cifar10_resnet20", "resnet18", "densenet121", "vgg11_bnu", "convnext_atto", "simple_vit_ti_patch16_224"]
NAMES += ["vitc_ti_patch1_14", "standard_vitc_ti_patch1_14"]


@pytest.mark.parametrize("name", NAMES)
def test_autocast_logits_stay_within_the_bound(name, calibrated, encoded, small_options):
    side = 32 if "cifar" in name else 96
    options = small_options[name] if "vgg" in name else {}  # for time's sake
    model, x = calibrated(name, side, **options).float(), encoded(name, 4, side).float()
    bias = getattr(model.logit_layer, "logit_bias", None) or 0.0
    with torch.no_grad():
        logits = model(x) - bias
        for dtype, bound in BOUNDS.items():
            with torch.autocast("cpu", dtype=dtype):
                found = model(x)
            assert found.dtype == torch.float32 or get_spec(name).input.encoding == "standardize"
            error = (found.float() - bias - logits).abs().max() / logits.abs().max()
            assert error <= bound, dtype


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_autocast_survives_black_images_and_has_gradients(dtype, family, encoded):
    name, options = family
    model, x = create_model(name, **options), encoded(name).float()
    x[0] = 0
    with torch.autocast("cpu", dtype=dtype):
        logits = model(x)
    logits.float().square().mean().backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())
