"""Pictures have the right pixels when they are read again, and labels where they belong."""

from functools import partial
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from tiles import enlarged, places_of

from diffsweep import pictures
from diffsweep.pictures.lettering import font, width_of, wrapped, write

PAPER = 228


def only_places_of(picture, tiles):
    """Return the (top, left) of each tile, which must lie at one place in the picture."""
    found = places_of(picture, tiles)
    assert [len(places) for places in found] == [1] * len(tiles)
    return [place for (place,) in found]


def ink(picture, top, left, bottom, right):
    """Return the part of a picture as grey levels; without text it is paper."""
    return np.asarray(picture.convert("L"))[top:bottom, left:right]


def test_pixels_are_rounded_and_clipped():
    x = torch.tensor([-5.0, -1.0, -1 + 2 / 255, 0.0, 1.0, 5.0]).reshape(1, 1, 1, 6)
    assert pictures.to_uint8(x).flatten().tolist() == [0, 0, 1, 128, 255, 255]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (4, 2, 2), (5, 3, 2), (7, 3, 3), (36, 6, 6)])
def test_grid_has_every_picture_in_its_place(tmp_path, channels, count, columns, rows):
    """Row by row; 8 pixels are enlarged to 64, with 2 between pictures and no border outside without text."""
    x = torch.rand(count, channels, 8, 8) * 2 - 1
    pictures.save_png(pictures.grid(x), tmp_path / "grid.png")
    image = Image.open(tmp_path / "grid.png")
    assert image.size == (66 * columns - 2, 66 * rows - 2)
    assert image.mode == ("L" if channels == 1 else "RGB")
    pixels = np.asarray(image).reshape(66 * rows - 2, 66 * columns - 2, channels)
    expected = pictures.to_uint8(x)
    for i in range(count):
        top, left = 66 * (i // columns), 66 * (i % columns)
        tile = pixels[top : top + 64, left : left + 64]
        assert np.array_equal(tile, expected[i].repeat(8, axis=0).repeat(8, axis=1))


@pytest.mark.parametrize(("side", "shown"), [(8, 64), (28, 84), (63, 126), (64, 64), (100, 100)])
def test_small_pictures_are_enlarged_by_a_whole_factor_and_large_ones_are_not(side, shown):
    assert pictures.grid(torch.zeros(4, 3, side, side)).size == (2 * shown + 2, 2 * shown + 2)
    assert pictures.grid(torch.zeros(1, 1, 16, 8)).size == (64, 128)


@pytest.mark.parametrize("channels", [1, 3])
def test_each_picture_of_a_grid_lies_below_its_label(channels):
    """The bands above the pictures are the same for equal labels, different for different ones, blank for none."""
    x = torch.rand(7, channels, 8, 8) * 2 - 1
    labels = ["zero", "one", "a small red circle", "zero", "", "seven", "one"]
    picture = pictures.grid(x, labels=labels, title="seven samples")
    places = only_places_of(picture, enlarged(x, 8))
    assert [places.index(place) for place in sorted(places)] == list(range(7))  # row by row
    assert [left for _, left in places] == [6, 72, 138, 6, 72, 138, 6]
    bands = [ink(picture, top - 14, left, top, left + 64) for top, left in places]
    blank = [bool((band == PAPER).all()) for band in bands]
    assert blank == [label == "" for label in labels]
    assert all((band.min() < 60) == (label != "") for band, label in zip(bands, labels, strict=True))  # dark on light
    for i, j in combinations(range(7), 2):
        assert np.array_equal(bands[i], bands[j]) == (labels[i] == labels[j])
    top = places[0][0]
    assert (ink(picture, 0, 0, 20, picture.width) < 60).any()  # the title
    assert top > 20
    left_out = ink(picture, places[6][0], 72, picture.height, picture.width)
    assert (left_out == PAPER).all()


def test_rows_have_names_and_go_on_below_where_they_do_not_fit():
    """Twelve images lie in a row; image i of each set lies in one column, and the sets of one group have names."""
    sets = torch.rand(2, 15, 3, 16, 16) * 2 - 1
    labels = [[str(i) for i in range(15)]]
    picture = pictures.rows(*sets, names=["original", "edited"], labels=labels)
    upper, lower = (only_places_of(picture, enlarged(x, 4)) for x in sets)
    for i in range(15):
        assert upper[i][1] == lower[i][1] == upper[0][1] + 66 * (i % 12)
        assert lower[i][0] == upper[i][0] + 66
        assert (ink(picture, upper[i][0] - 14, upper[i][1], upper[i][0], upper[i][1] + 64) < 60).any()
    assert len({top for top, _ in upper}) == 2
    assert upper[12][0] > lower[0][0] + 64 + 14
    left = upper[0][1] - 2
    names = [ink(picture, top, 0, top + 64, left) for top in (upper[0][0], lower[0][0], upper[12][0], lower[12][0])]
    assert all((name < 60).any() for name in names)
    assert np.array_equal(names[0], names[2])
    assert np.array_equal(names[1], names[3])
    assert not np.array_equal(names[0], names[1])


def test_labels_of_a_wide_picture_reach_no_other_picture():
    """A text that is too long ends inside the column of its picture, in at most five lines."""
    x = torch.rand(2, 1, 64, 64) * 2 - 1
    long = "a caption of very many words " * 9 + "Donaudampfschifffahrtsgesellschaftskapitaen"
    picture = pictures.grid(x, labels=[long, ""])
    (top, left), (_, other) = only_places_of(picture, enlarged(x, 1))
    assert top == 6 + 5 * 14
    assert (ink(picture, 0, other, top, picture.width) == PAPER).all()
    assert (ink(picture, top - 14, left, top, left + 64) < 60).any()


@pytest.mark.parametrize("text", ["gjpqy,;Q", "\u00c5\u00c9\u00d1", "dfhklt|"])
def test_letters_are_whole(text):
    """A line that is drawn has the ink of the font's own letters: nothing is cut off above, below or beside."""
    whole = Image.new("L", (200, 60))
    ImageDraw.Draw(whole).text((20, 30), text, fill=255, font=font(), anchor="ls")
    drawn = Image.new("L", (200, 60), 255)
    write(drawn, (text,), 20, 30)
    strength = 255 - np.asarray(drawn).astype(float)
    assert strength.sum() == pytest.approx(np.asarray(whole).sum() * (255 - 20) / 255, rel=0.01)


@pytest.mark.parametrize("width", [20, 64, 200])
@pytest.mark.parametrize("most", [1, 3, 50])
def test_text_is_wrapped_between_words_and_cut_with_an_ellipsis(width, most):
    text = "a  small\nred circle\tat the top left, and Donaudampfschifffahrtsgesellschaft"
    lines = wrapped(text, width, most)
    assert 1 <= len(lines) <= most
    assert all(width_of(line) <= width for line in lines)
    if width > 40:  # each short word fits
        short = " ".join(text.split()[:-1])
        uncut, found = wrapped(short, width, 50), wrapped(short, width, most)
        assert " ".join(uncut) == short  # nothing is lost
        for line, following in pairwise(uncut):
            assert width_of(f"{line} {following.split()[0]}") > width  # no line could have taken more
        assert found == uncut if len(uncut) <= most else found[-1].endswith("\u2026")
        assert found[: most - 1] == uncut[: most - 1]
    assert wrapped(" \n", width, most) == ()


@pytest.mark.parametrize(
    ("count", "size", "most", "shown"),
    [(7, 7, None, 7), (8, 7, None, 8), (50, 4, None, 50), (50, 4, 3, 12), (5, 2, 1, 2)],
)
def test_pages_show_each_sample_once(tmp_path, count, size, most, shown):
    """Their files are in the order of the samples, and those of an earlier picture are gone, but no others."""
    for name in ("grid.png", "grid_1.gif", "grid_77.png", "grid_a.png", "grid_1.txt", "my_grid_1.png", "gridlock.png"):
        (tmp_path / name).touch()
    found = pictures.pages(count, size, tmp_path / "grid", most)
    left = {"grid_a.png", "grid_1.txt", "my_grid_1.png", "gridlock.png"}
    assert {path.name for path in tmp_path.iterdir()} == left
    assert [i for page in found for i in range(count)[page.part]] == list(range(shown))
    assert max(len(range(count)[page.part]) for page in found) <= size
    paths = [page.path for page in found]
    assert sorted(paths) == paths
    assert len(set(paths)) == len(paths)
    assert (paths == [tmp_path / "grid"]) == (len(paths) == 1)
    assert [page.words for page in found] == (
        [""] if count <= size else [f"{page.part.start + 1} to {page.part.stop} of {count}" for page in found]
    )


def test_files_are_listed_with_their_pages_together(tmp_path):
    names = ["a.png", "grid_01.gif", "grid_01.png", "grid_02.gif", "grid_02.png", "one_1.png", "run_1.npz", "run_2.npz"]
    listed = pictures.listed([tmp_path / name for name in names])
    assert [(path.name, remark) for path, remark in listed] == [
        ("a.png", ""),
        ("grid_01.gif", "to grid_02.gif, 2 pages"),
        ("grid_01.png", "to grid_02.png, 2 pages"),
        ("one_1.png", ""),
        ("run_1.npz", ""),
        ("run_2.npz", ""),
    ]


def test_an_animation_has_its_labels_in_each_frame(tmp_path):
    x = torch.rand(3, 1, 4, 8, 8) * 2 - 1
    draw = partial(pictures.grid, labels=["one", "two", "three"])
    path = pictures.save_shown(draw, [x], tmp_path / "clips")[0]
    with Image.open(path) as gif:
        assert gif.n_frames == 4
        for frame in range(4):
            gif.seek(frame)
            for top, left in only_places_of(gif.convert("L"), enlarged(x[:, :, frame], 8)):
                assert (ink(gif, top - 14, left, top, left + 64) < 60).any()


def test_frames_of_several_sizes_get_paper_at_their_sides(tmp_path):
    frames = [Image.new("L", (10, 6), color=50), Image.new("L", (12, 5), color=90)]
    pictures.save_gif(frames, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.size == (12, 6)
        first = np.asarray(gif.convert("L"))
        gif.seek(1)
        second = np.asarray(gif.convert("L"))
    assert (first[:, :10] == 50).all()
    assert (first[:, 10:] == PAPER).all()
    assert (second[:5] == 90).all()
    assert (second[5] == PAPER).all()


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
    assert (pixels[:, 4:7] == PAPER).all()
    assert (pixels[:, 7:] == (99 if mode == "L" else 255)).all()


def test_pixels_of_clips_are_those_of_their_frames():
    x = torch.rand(5, 3, 4, 8, 8) * 2 - 1
    pixels = pictures.to_uint8(x)
    assert pixels.shape == (5, 4, 8, 8, 3)
    assert np.array_equal(pixels[:, 2], pictures.to_uint8(x[:, :, 2]))


def test_strips_have_the_frames_of_each_clip_set_under_set():
    """Frames are numbered, names and labels are at the left, and the frames of long clips go on below."""
    a, b = torch.rand(2, 3, 1, 18, 8, 8) * 2 - 1
    picture = pictures.strips(a, b, most=2, names=["drawn", "original"], labels=["one", "two", "three"])
    tops = {}
    for name, clips in (("a", a), ("b", b)):
        for i in range(2):
            places = only_places_of(picture, enlarged(clips[i].transpose(0, 1), 8))
            assert [left - places[0][1] for _, left in places] == [66 * (f % 16) for f in range(18)]
            assert len({top for top, _ in places[:16]}) == len({top for top, _ in places[16:]}) == 1
            tops[name, i] = places[0][0], places[16][0]
            for top, _ in (places[0], places[16]):
                assert (ink(picture, top, 0, top + 64, places[0][1] - 2) < 60).any()
            if name == "a":
                numbers = [ink(picture, top - 14, left, top, left + 64) for top, left in places]
                assert all((number < 60).any() for number in numbers)
                assert len({number.tobytes() for number in numbers}) == 18
    order = [tops[name, i][part] for i in range(2) for part in range(2) for name in "ab"]
    assert sorted(order) == order
    assert len(set(order)) == 8


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
