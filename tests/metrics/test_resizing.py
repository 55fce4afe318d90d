"""Resizing for networks of features, compared with Pillow and with interpolation by hand; how the two ways differ."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffsweep.metrics.resizing import clean, legacy, to_levels


def picture(height, width):
    """Return an image of stripes and a ramp with whole values in [0, 255], (1, 3, H, W)."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    stripes = 255.0 * ((rows // 2 + columns // 3) % 2)
    ramp = (255.0 * columns / (width - 1)).round().expand(height, width)
    return torch.stack([stripes, ramp, (stripes + ramp) // 2])[None]


def by_pillow(x, size):
    """Return clean-fid's way: each channel by Pillow's bicubic filter in floating point, clamped."""
    channels = [Image.fromarray(channel, mode="F") for channel in x[0].numpy()]
    resized = [np.asarray(channel.resize((size, size), Image.Resampling.BICUBIC)) for channel in channels]
    return torch.from_numpy(np.stack(resized))[None].clamp(0, 255)


@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 299), (40, 28, 75), (512, 400, 299), (299, 299, 299)])
def test_clean_is_pillows_antialiased_bicubic_filter_in_floating_point(height, width, size):
    x = picture(height, width)
    torch.testing.assert_close(clean(x, size), by_pillow(x, size), rtol=0, atol=5e-3)


@pytest.mark.parametrize(("height", "width"), [(32, 48), (400, 310)])
def test_legacy_is_bilinear_at_the_places_of_tensorflow_1(height, width):
    """Pixel (i, j) of 299 is at (i height / 299, j width / 299), and the last rows and columns are repeated."""
    x, found = picture(height, width), legacy(picture(height, width), 299)
    image = x[0, 2].double().numpy()
    for i, j in ((0, 0), (5, 17), (150, 222), (298, 298), (298, 3)):
        y, z = i * height / 299, j * width / 299
        rows, columns = ([int(place), min(int(place) + 1, n - 1)] for place, n in ((y, height), (z, width)))
        dy, dz = y - int(y), z - int(z)
        square = image[np.ix_(rows, columns)]
        expected = np.array([1 - dy, dy]) @ square @ np.array([1 - dz, dz])
        assert float(found[0, 2, i, j]) == pytest.approx(expected, abs=2e-3)


def test_legacy_and_clean_differ_on_fine_stripes_of_a_large_image():
    """Stripes of two pixels are grey once filtered; without a filter they are aliased to full contrast."""
    x = picture(600, 600)[:, :1]
    assert float(legacy(x, 100).std()) > 100
    assert float(clean(x, 100).std()) < 40
    small = picture(32, 32)
    assert float((legacy(small, 299) - clean(small, 299)).abs().mean()) > 5  # also where an image is enlarged


def test_images_are_rounded_to_the_levels_of_a_file():
    x = torch.tensor([-3.0, -1.0, 0.3 / 127.5, 0.6 / 127.5, 1.0])[None, None, None]
    assert to_levels(x)[0, :, 0].tolist() == [[0, 0, 128, 128, 255]] * 3
    with pytest.raises(ValueError, match=r"1 or 3 channels, not of samples of shape \(2, 4, 8, 8\)"):
        to_levels(torch.zeros(2, 4, 8, 8))
