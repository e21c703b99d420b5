"""Images of every kind become what a network sees."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from bcos_core import BcosError
from bcos_models import InferenceTransform, InputSpec

GREY = InputSpec(size=8, resize=None, channels=1)
RGB = InputSpec(size=8, resize=None)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1", "LA"])
def test_images_of_every_mode_become_rgb(mode):
    x = InferenceTransform(RGB)(Image.new("RGB", (20, 30), (255, 0, 0)).convert(mode))
    assert x.shape == (6, 8, 8)
    torch.testing.assert_close(x[:3] + x[3:], torch.ones(3, 8, 8))


def test_grey_network_sees_grey():
    x = InferenceTransform(GREY)(Image.new("RGB", (9, 9), (255, 255, 255)))
    torch.testing.assert_close(x, torch.tensor([1.0, 0.0])[:, None, None].expand(2, 8, 8))


@pytest.mark.parametrize("channels", [1, 4, 13])
def test_tensors_of_any_channels_pass(channels):
    transform = InferenceTransform(InputSpec(size=8, resize=10, channels=channels))
    values = torch.rand(channels, 12, 16)
    x = transform(values)
    assert x.shape == (2 * channels, 8, 8)
    torch.testing.assert_close(x[:channels], 1 - x[channels:])
    torch.testing.assert_close(transform((values * 255).byte()), x, atol=1 / 100, rtol=0)


def test_shorter_side_is_resized_and_the_centre_kept():
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 10:30] = 255
    x = InferenceTransform(InputSpec(size=10, resize=10))(Image.fromarray(pixels))
    torch.testing.assert_close(x[:3, 2:8, 2:8], torch.ones(3, 6, 6))


def test_standardization_uses_mean_and_deviation():
    spec = InputSpec(size=4, resize=None, encoding="standardize", mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.5))
    x = InferenceTransform(spec)(Image.new("RGB", (4, 4), (255, 255, 255)))
    torch.testing.assert_close(x[:, 0, 0], torch.tensor([5.0, 3.0, 1.4]))


def test_image_is_seen_upright_and_on_white():
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    torch.testing.assert_close(InferenceTransform(RGB)(image)[:3], torch.ones(3, 8, 8))
    deep = Image.fromarray(np.full((8, 8), 32896, np.uint16))
    torch.testing.assert_close(InferenceTransform(GREY)(deep)[0], torch.full((8, 8), 128 / 255))


@pytest.mark.parametrize("shape", [(3, 9, 9), (9, 9)])
def test_tensors_of_other_channels_are_refused(shape):
    with pytest.raises(BcosError, match=r"images must have shape \(1, H, W\), got"):
        InferenceTransform(GREY)(torch.rand(shape))


def test_encoding_none_leaves_values_alone():
    values = torch.rand(3, 8, 8)
    torch.testing.assert_close(InferenceTransform(InputSpec(size=8, resize=None, encoding="none"))(values), values)


@pytest.mark.parametrize(
    "values", [torch.full((3, 9, 9), 200.0), torch.full((3, 9, 9), 200), torch.full((3, 9, 9), -2.0)]
)
def test_tensors_of_other_values_are_refused(values):
    with pytest.raises(BcosError, match=r"8-bit integers, or of floats in \[0, 1\], got torch\."):
        InferenceTransform(RGB)(values)


def test_image_of_more_than_8_bits_is_seen_in_the_range_of_the_network():
    deep = Image.fromarray(np.full((8, 8), 2048, np.uint16))
    with pytest.raises(BcosError, match="nearly black"):
        InferenceTransform(GREY)(deep)
    x = InferenceTransform(replace(GREY, range=(0, 4096)))(deep)
    torch.testing.assert_close(x[0], torch.full((8, 8), 128 / 255))
