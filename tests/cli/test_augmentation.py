"""Decoding and transforms."""

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from bcos_cli.config import Augment
from bcos_cli.data.augmentation import BytesTransform, training_transform
from bcos_cli.data.image_decoder import decode
from bcos_cli.data.input_image import inference_transform
from bcos_cli.data.pixels import Pixels
from bcos_core import BcosError
from bcos_models import InputSpec
from bcos_models.transforms import input_encoder

ALL = Augment(
    random_resized_crop=(0.3, 1),
    pad_crop=2,
    affine_degrees=20,
    affine_translate=0.1,
    horizontal_flip=0.5,
    trivial_augment=True,
    random_erasing=0.5,
)


def png(array, mode=None):
    buffer = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, "PNG")
    return buffer.getvalue()


GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
COLOUR = np.stack([GREY, GREY.T, 255 - GREY], -1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_kind_of_image_becomes_what_the_model_wants(mode, channels):
    image = Image.fromarray(GREY.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(COLOUR)
    data = png(image, None if mode == "I;16" else mode)
    spec = InputSpec(size=8, channels=channels, resize=None)
    x = BytesTransform(Pixels(channels), inference_transform(spec), is_random=False)(data, random.Random(0))
    assert (x.shape, x.dtype) == ((channels, 8, 8), torch.uint8)
    assert x.float().std() > 0


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_scaled_to_8_and_not_cut_off(channels):
    data = png(GREY.astype(np.uint16) * 257)
    pixels = np.asarray(decode(data, Pixels(channels))).reshape(8, 8, channels)
    np.testing.assert_allclose(pixels[..., 0].astype(int), GREY.astype(int), atol=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_image_of_the_right_size_is_unchanged(channels):
    array = GREY if channels == 1 else COLOUR
    spec = InputSpec(size=8, channels=channels, resize=None)
    x = BytesTransform(Pixels(channels), inference_transform(spec), is_random=False)(png(array), random.Random(0))
    np.testing.assert_array_equal(x.numpy(), array.reshape(8, 8, channels).transpose(2, 0, 1))


def test_resize_then_centre_crop():
    wide = np.zeros((16, 32, 3), np.uint8)
    wide[:, 12:20] = 200
    x = inference_transform(InputSpec(size=4, resize=8))(Image.fromarray(wide))
    assert x.shape == (3, 4, 4)
    assert x.min() > 150  # the middle, 4 of 16 columns
    assert inference_transform(InputSpec(size=4, resize=None))(Image.fromarray(wide)).min() == 0


def test_other_numbers_of_channels_are_refused():
    with pytest.raises(BcosError, match="it has 1 channels, 2 are needed"):
        decode(png(GREY), Pixels(2))


@pytest.fixture
def augmented():
    steps = training_transform(InputSpec(size=8, resize=None), ALL)
    return lambda seed: BytesTransform(Pixels(3), steps, is_random=True)(png(COLOUR), random.Random(seed))


def test_augmentation_depends_on_its_generator_alone(augmented):
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    first = [augmented(i) for i in range(6)]
    torch.manual_seed(2), random.seed(2), np.random.seed(2)
    assert all(torch.equal(a, augmented(i)) for i, a in enumerate(first))
    assert len({a.numpy().tobytes() for a in first}) == 6
    assert all(a.shape == (3, 8, 8) and a.dtype == torch.uint8 for a in first)


def test_augmentation_leaves_the_global_generators_alone(augmented):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    augmented(0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    np.testing.assert_array_equal(before[2], np.random.get_state()[1])


@pytest.mark.parametrize(
    ("augment", "same"),
    [
        (Augment(), True),
        (Augment(horizontal_flip=1), False),
        (Augment(pad_crop=4), False),
        (Augment(affine_degrees=90), False),
        (Augment(affine_translate=0.5), False),
        (Augment(random_erasing=1), False),
        (Augment(random_resized_crop=(0.1, 0.2)), False),
    ],
    ids=str,
)
def test_steps_that_are_left_out_do_nothing_and_the_others_something(augment, same):
    steps = training_transform(InputSpec(size=8, resize=None), augment)
    transform = BytesTransform(Pixels(3), steps, is_random=True)
    results = [torch.equal(transform(png(COLOUR), random.Random(i)), transform_plain()) for i in range(4)]
    assert all(results) if same else not all(results)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_random_crops_are_those_of_the_whole_image_as_a_tensor(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, channels), np.uint8)
    image = torch.from_numpy(pixels.transpose(2, 0, 1)) if channels == 4 else Image.fromarray(pixels.squeeze())
    quick = training_transform(
        InputSpec(size=24, channels=channels), Augment(random_resized_crop=(0.1, 1), horizontal_flip=0.5)
    )
    slow = v2.Compose(
        [v2.PILToTensor(), v2.RandomResizedCrop(24, scale=(0.1, 1), antialias=True), v2.RandomHorizontalFlip()]
    )
    for seed in range(8):
        torch.manual_seed(seed)
        found = quick(image)
        torch.manual_seed(seed)
        assert torch.equal(found, slow(image))


def transform_plain():
    return torch.from_numpy(COLOUR.transpose(2, 0, 1).copy())


def test_flip_is_a_mirror():
    steps = training_transform(InputSpec(size=8, resize=None), Augment(horizontal_flip=1))
    assert torch.equal(
        BytesTransform(Pixels(3), steps, is_random=True)(png(COLOUR), random.Random(0)), transform_plain().flip(2)
    )


def test_encoders_add_the_inverse_or_standardize():
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(input_encoder(InputSpec())(x), torch.cat([x, 1 - x], 1))
    spec = InputSpec(encoding="standardize", mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))
    mean, std = torch.tensor(spec.mean)[:, None, None], torch.tensor(spec.std)[:, None, None]
    torch.testing.assert_close(input_encoder(spec)(x), (x - mean) / std)
    grey = InputSpec(encoding="standardize", channels=1, mean=spec.mean, std=spec.std)
    torch.testing.assert_close(input_encoder(grey)(x[:, :1]), x[:, :1] - 0.1)
