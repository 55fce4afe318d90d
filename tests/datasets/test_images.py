"""Decoding image files to 8-bit pixels of one size, compared with Pillow and with values by hand."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from diffsweep.datasets.images import ByteImages, decode


def encoded(image, kind="PNG", **more):
    file = io.BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_an_rgb_image_of_the_right_size_is_unchanged():
    pixels = noise(6, 6, 3)
    decoded = decode(encoded(Image.fromarray(pixels)), 3, 6)
    assert np.array_equal(decoded.pixels, pixels.transpose(2, 0, 1))
    assert not decoded.enlarged


def test_grey_becomes_three_equal_channels_and_colour_becomes_luma():
    grey, colour = noise(5, 5), noise(5, 5, 3)
    assert np.array_equal(decode(encoded(Image.fromarray(grey)), 3, 5).pixels, np.stack([grey] * 3))
    luma = colour.astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(decode(encoded(Image.fromarray(colour)), 1, 5).pixels[0] - luma).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_scaled_and_not_clipped(channels):
    values = np.array([[0, 128, 129], [257, 30_000, 32_896], [40_000, 65_406, 65_535]], dtype=np.uint16)
    expected = np.array([[0, 0, 1], [1, 117, 128], [156, 254, 255]])  # v / 257, rounded
    decoded = decode(encoded(Image.fromarray(values)), channels, 3).pixels
    assert np.array_equal(decoded, np.stack([expected] * channels))


def test_other_sizes_are_scaled_with_antialiasing_and_cropped_to_the_centre():
    pixels = noise(40, 64, 3)
    image = Image.fromarray(pixels)
    by_hand = image.resize((16, 16), Image.Resampling.BICUBIC, box=(12, 0, 52, 40))
    decoded = decode(encoded(image), 3, 16).pixels
    assert np.array_equal(decoded.transpose(1, 2, 0), np.asarray(by_hand))
    assert decoded.std() < 0.6 * pixels.std()  # without antialiasing, noise keeps its deviation


def test_a_smaller_image_is_enlarged_and_marked():
    assert decode(encoded(Image.fromarray(noise(8, 4, 3))), 3, 8).enlarged
    assert not decode(encoded(Image.fromarray(noise(9, 8, 3))), 3, 8).enlarged


def test_the_exif_orientation_is_applied():
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:4] = 255  # white above
    exif = Image.Exif()
    exif[0x0112] = 3  # rotated by 180 degrees
    decoded = decode(encoded(Image.fromarray(pixels), exif=exif), 1, 8).pixels[0]
    assert not decoded[:4].any()
    assert (decoded[4:] == 255).all()


@pytest.mark.parametrize("content", [b"", b"no image", encoded(Image.fromarray(noise(9, 9, 3)))[:-40]])
def test_a_file_that_is_no_image_is_refused(content):
    with pytest.raises((OSError, ValueError, SyntaxError)):
        decode(content, 3, 9)


def test_floating_point_is_refused():
    with pytest.raises(ValueError, match="floating-point"):
        decode(encoded(Image.fromarray(np.ones((4, 4), dtype=np.float32)), "TIFF"), 1, 4)


def test_samples_are_the_256_levels_from_minus_one_to_one():
    images = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    samples = ByteImages(images, torch.tensor([3, 0, 2]), {"label": torch.tensor([30, 0, 20])})
    batch = samples[torch.tensor([2, 0])]
    exact = (images[[2, 3]].double() / 255 * 2 - 1).float()
    torch.testing.assert_close(batch["x"], exact, rtol=0, atol=1e-7)
    assert batch["label"].tolist() == [20, 30]
    assert samples["x"].aminmax() == (-1, 1)
    assert torch.equal(samples["x"][[2, 0]], batch["x"])
