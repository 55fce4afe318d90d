"""Decoding image files to 8-bit pixels of one size, compared with Pillow and with values by hand."""

import re

import numpy as np
import pytest
import torch
from image_files import claiming, encoded
from PIL import Image

from diffsweep.datasets.byte_images import ByteImages
from diffsweep.datasets.images import UnreadableImageError, colour, decode, read_image, size_and_mode


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_an_rgb_image_of_the_right_size_is_unchanged():
    pixels = noise(6, 6, 3)
    decoded = decode(encoded(Image.fromarray(pixels)), 3, 6)
    assert np.array_equal(decoded.pixels, pixels.transpose(2, 0, 1))
    assert not decoded.enlarged


def test_grey_becomes_three_equal_channels_and_colour_becomes_luma():
    grey, colours = noise(5, 5), noise(5, 5, 3)
    assert np.array_equal(decode(encoded(Image.fromarray(grey)), 3, 5).pixels, np.stack([grey] * 3))
    luma = colours.astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(decode(encoded(Image.fromarray(colours)), 1, 5).pixels[0] - luma).max() <= 1


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


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_the_exif_orientation_is_applied(depth):
    pixels = np.zeros((8, 8) if depth is np.uint16 else (8, 8, 3), dtype=depth)
    pixels[:4] = np.iinfo(depth).max  # white above
    exif = Image.Exif()
    exif[0x0112] = 3  # rotated by 180 degrees
    decoded = decode(encoded(Image.fromarray(pixels), exif=exif), 1, 8).pixels[0]
    assert not decoded[:4].any()
    assert (decoded[4:] == 255).all()


def test_a_quarter_rotation_exchanges_width_and_height():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.fromarray(noise(4, 10, 3)), "JPEG", exif=exif)
    assert read_image(content).size == (4, 10)
    assert size_and_mode(content) == (4, 10, False)


@pytest.mark.parametrize("background", ["white", "black", "#2040ff"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_composited_and_hidden_colours_are_not_shown(background, kind):
    pixels = np.concatenate([noise(4, 6, 3), np.full((4, 6, 1), 255, np.uint8)], -1)
    pixels[:, :2, 3], pixels[:, 2:4, 3] = 0, 51  # nothing is seen of the left, a fifth of the middle
    content = encoded(Image.fromarray(pixels), kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    found = np.asarray(read_image(content, background)).astype(int)
    behind = np.array(colour(background))
    a = pixels[..., 3:] / 255
    assert np.abs(found - (a * pixels[..., :3] + (1 - a) * behind)).max() <= 1
    assert (found[:, :2] == behind).all()


def test_every_kind_of_transparency_that_png_has_is_composited():
    grey, value = noise(4, 4), 77
    grey[0, 0] = value
    palette = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).convert("P")
    palette.putpalette([v for i in range(256) for v in (i, 200, 100)])
    cases = [  # an image, its transparency, and its transparent pixels
        (Image.fromarray(grey), value, grey == value),
        (Image.fromarray(np.stack([grey] * 3, -1)), (value,) * 3, grey == value),
        (Image.fromarray(grey.astype(np.uint16) * 257), value * 257, grey == value),
        (palette, 5, np.arange(16).reshape(4, 4) == 5),
        (Image.fromarray(grey > 100), 0, grey <= 100),
    ]
    for image, transparency, clear in cases:
        for background, shown in (("white", 255), ("black", 0)):
            found = np.asarray(read_image(encoded(image, transparency=transparency), background).convert("RGB"))
            assert clear.any()
            assert (found[clear] == shown).all(), (image.mode, background)
            rest = np.asarray(read_image(encoded(image)).convert("RGB"))[~clear]
            assert np.array_equal(found[~clear], rest), (image.mode, background)
    both = np.stack([grey, np.where(grey == value, 0, 255).astype(np.uint8)], -1)
    found = read_image(encoded(Image.fromarray(both, "LA")), "black")
    assert found.mode == "L"
    assert np.array_equal(np.asarray(found), np.where(grey == value, 0, grey))


def test_palettes_cmyk_and_single_bits_become_their_colours():
    image = Image.fromarray(noise(16, 16, 3))
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE)
    assert np.array_equal(np.asarray(read_image(encoded(palette))), np.asarray(palette.convert("RGB")))
    cmyk = Image.new("CMYK", (8, 8), (255, 0, 0, 0))  # full cyan: no red
    assert np.abs(np.asarray(read_image(encoded(cmyk, "JPEG", quality=100))).astype(int) - [0, 255, 255]).max() <= 3
    bits = noise(8, 8) > 127
    assert np.array_equal(np.asarray(read_image(encoded(Image.fromarray(bits)))), bits * np.uint8(255))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_its_first_frame(kind):
    first, others = Image.new("RGB", (8, 8), "red"), [Image.new("RGB", (8, 8), name) for name in ("blue", "lime")]
    content = encoded(first, kind, save_all=True, append_images=others)
    assert np.abs(decode(content, 3, 8).pixels[:, 4, 4].astype(int) - [255, 0, 0]).max() <= 4


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty, 0 bytes"),
        (b"no image", "no image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image of a known format"),
        (encoded(Image.fromarray(noise(9, 9, 3)))[:-40], ""),
        (encoded(Image.fromarray(noise(64, 64, 3)), "JPEG")[:-900], "truncated"),
        (encoded(Image.fromarray(noise(9, 9, 3)))[:20], ""),
        (claiming(60_000, 60_000), "3600000000 pixels, more than 134217728"),
        (claiming(30_000, 5_800), "30000 x 5800 pixels, more than 134217728"),
        (encoded(Image.fromarray(np.ones((4, 4), dtype=np.float32)), "TIFF"), "floating-point"),
    ],
    ids=["empty", "text", "eps", "cut", "cut-jpeg", "head", "bomb", "large", "float"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_file_that_is_no_image_is_refused_in_one_line(content, reason):
    with pytest.raises(UnreadableImageError) as error:
        decode(content, 3, 9)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("background", ["whitish", "#12", "rgba(1,2,3,0)", ""])
def test_a_colour_that_does_not_exist_is_refused(background):
    with pytest.raises(ValueError, match=re.escape(f"dataset.background={background}: no such colour")):
        colour(background)


def test_samples_are_the_256_levels_from_minus_one_to_one():
    images = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    samples = ByteImages(images, torch.tensor([3, 0, 2]), {"label": torch.tensor([30, 0, 20])})
    batch = samples[torch.tensor([2, 0])]
    exact = (images[[2, 3]].double() / 255 * 2 - 1).float()
    torch.testing.assert_close(batch["x"], exact, rtol=0, atol=1e-7)
    assert batch["label"].tolist() == [20, 30]
    assert samples["x"].aminmax() == (-1, 1)
    assert torch.equal(samples["x"][[2, 0]], batch["x"])
