"""What is done to an image: the same pixels as the reference, and floats equal up to rounding."""

import warnings

import pytest
import torch
from PIL import Image

from bcos_models import InferenceTransform, get_spec

pretrained = pytest.importorskip("bcos.models.pretrained")
presets = pytest.importorskip("bcos.data.presets")


@pytest.fixture
def photograph():
    torch.manual_seed(0)
    coarse = torch.rand(3, 9, 13)
    smooth = torch.nn.functional.interpolate(coarse[None], size=(270, 391), mode="bicubic")[0].clamp(0, 1)
    noisy = (smooth + 0.1 * torch.rand_like(smooth)).clamp(0, 1)
    return Image.fromarray((noisy * 255).byte().permute(1, 2, 0).numpy())


@pytest.mark.parametrize("name", ["resnet18", "resnet50_long", "convnext_tiny_bnu", "vitc_ti_patch1_14"])
def test_image_is_seen_as_by_the_reference(name, photograph):
    pytest.importorskip("einops")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = getattr(pretrained, name)(pretrained=False).transform
    torch.testing.assert_close(
        InferenceTransform(get_spec(name).input)(photograph), theirs(photograph), rtol=0, atol=1e-7
    )


def test_baseline_sees_standardized_images(photograph):
    theirs = presets.ImageNetClassificationPresetEval(crop_size=224, is_bcos=False)
    ours = InferenceTransform(get_spec("standard_vitc_ti_patch1_14").input)
    torch.testing.assert_close(ours(photograph), theirs(photograph), rtol=0, atol=1e-6)


def test_small_images_are_seen_as_by_the_reference():
    image = Image.fromarray((torch.rand(32, 32, 3) * 255).byte().numpy())
    theirs = presets.CIFAR10ClassificationPresetTest(is_bcos=True)
    ours = InferenceTransform(get_spec("cifar10_resnet20").input)
    torch.testing.assert_close(ours(image), theirs(image), rtol=0, atol=1e-7)
