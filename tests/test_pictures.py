"""Pictures have the right pixels when they are read again."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffsweep import pictures


def test_pixels_are_rounded_and_clipped():
    x = torch.tensor([-5.0, -1.0, -1 + 2 / 255, 0.0, 1.0, 5.0]).reshape(1, 1, 1, 6)
    assert pictures.to_uint8(x).flatten().tolist() == [0, 0, 1, 128, 255, 255]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (4, 2, 2), (5, 3, 2), (7, 3, 3), (36, 6, 6)])
def test_grid_has_every_picture_in_its_place(tmp_path, channels, count, columns, rows):
    """Row by row; 8 pixels are enlarged to 48, with 2 between pictures and no border outside."""
    x = torch.rand(count, channels, 8, 8) * 2 - 1
    pictures.save_png(pictures.grid(x), tmp_path / "grid.png")
    image = Image.open(tmp_path / "grid.png")
    assert image.size == (50 * columns - 2, 50 * rows - 2)
    assert image.mode == ("L" if channels == 1 else "RGB")
    pixels = np.asarray(image).reshape(50 * rows - 2, 50 * columns - 2, channels)
    expected = pictures.to_uint8(x)
    for i in range(count):
        top, left = 50 * (i // columns), 50 * (i % columns)
        tile = pixels[top : top + 48, left : left + 48]
        assert np.array_equal(tile, expected[i].repeat(6, axis=0).repeat(6, axis=1))


def test_large_pictures_are_not_enlarged():
    assert pictures.grid(torch.zeros(4, 3, 64, 64)).size == (130, 130)


def test_gif_has_every_frame_loops_and_holds_the_last(tmp_path):
    frames = [Image.new("L", (10, 6), color=value) for value in (0, 80, 160, 255)]
    pictures.save_gif(frames, tmp_path / "a.gif", milliseconds=50, hold=1000)
    gif = Image.open(tmp_path / "a.gif")
    assert gif.n_frames == 4
    assert gif.size == (10, 6)
    assert gif.info["loop"] == 0
    shades, durations = [], []
    for frame in range(4):
        gif.seek(frame)
        shades.append(gif.convert("L").getpixel((3, 3)))
        durations.append(gif.info["duration"])
    assert shades == [0, 80, 160, 255]
    assert durations == [50, 50, 50, 1000]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pictures_stand_beside_each_other_with_a_gap(mode):
    both = pictures.beside(
        Image.new(mode, (4, 5)), Image.new(mode, (6, 5), color="white" if mode == "RGB" else 99), gap=3
    )
    assert both.size == (13, 5)
    pixels = np.asarray(both.convert("L"))
    assert (pixels[:, :4] == 0).all()
    assert (pixels[:, 4:7] == 255).all()
    assert (pixels[:, 7:] == (99 if mode == "L" else 255)).all()


def test_pixels_of_clips_are_those_of_their_frames():
    x = torch.rand(5, 3, 4, 8, 8) * 2 - 1
    pixels = pictures.to_uint8(x)
    assert pixels.shape == (5, 4, 8, 8, 3)
    assert np.array_equal(pixels[:, 2], pictures.to_uint8(x[:, :, 2]))


def test_strips_have_the_frames_of_each_clip_set_under_set():
    a, b = torch.rand(3, 1, 4, 8, 8) * 2 - 1, torch.rand(3, 1, 4, 8, 8) * 2 - 1
    ordered = torch.stack([clip[:, f] for i in range(2) for clip in (a[i], b[i]) for f in range(4)])
    assert np.array_equal(np.asarray(pictures.strips(a, b, most=2)), np.asarray(pictures.grid(ordered, columns=4)))


def test_clips_come_back_from_a_file_of_samples(tmp_path):
    x = torch.randint(0, 256, (3, 2, 4, 8, 8)) / 127.5 - 1
    np.savez(tmp_path / "a.npz", pictures.to_uint8(x))
    torch.testing.assert_close(pictures.load_npz(tmp_path / "a.npz"), x)


def test_an_mp4_plays_anywhere_and_shows_the_pictures(tmp_path):
    """The file is H.264 of yuv420p with even sides; frames have their times, and colours up to halved chroma."""
    av = pytest.importorskip("av")
    colours = [(20 * i, 0, 255 - 20 * i) for i in range(9)]
    pictures.save_mp4([Image.new("RGB", (49, 31), colour) for colour in colours], tmp_path / "a.mp4", fps=8)
    with av.open(str(tmp_path / "a.mp4")) as container:
        (stream,) = container.streams
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.frames) == (50, 32, 9)
        frames = list(container.decode(stream))
    assert [frame.time for frame in frames] == [i / 8 for i in range(9)]
    for frame, colour in zip(frames, colours, strict=True):
        pixels = frame.to_ndarray(format="rgb24")
        assert np.abs(pixels[4:24, 4:40].astype(int) - colour).max() <= 8
        assert frame.to_ndarray()[10, 49] < 32  # the line that was added is dark: luma of black is 16
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # it plays while it loads
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_an_mp4_without_av_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'diffsweep\[video\]', or write a GIF"):
        pictures.save_mp4([Image.new("L", (4, 4))], tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())
