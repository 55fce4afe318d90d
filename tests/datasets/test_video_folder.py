"""The dataset of clips from a folder of videos, with files that PyAV writes, good and broken ones."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from diffsweep.datasets import VideoFolder
from diffsweep.datasets.video_files import UnusableError, find, frames, resampled
from diffsweep.files import ContentError

av = pytest.importorskip("av")
EVEN = [Fraction(i, 30) for i in range(30)]  # seconds at which frames begin
CODECS = {  # for each kind of file: codec, pixel format, the unit of its times
    ".mp4": ("libx264", "yuv420p", Fraction(1, 15360)),
    ".webm": ("libvpx", "yuv420p", Fraction(1, 1000)),
    ".mkv": ("ffv1", "bgr0", Fraction(1, 1000)),
    ".avi": ("mpeg4", "yuv420p", Fraction(1, 30)),
    ".gif": ("gif", "rgb8", Fraction(1, 100)),
}


def write_video(path, times=EVEN, levels=None, size=(32, 32)):
    """Write a video whose frame i has the grey value 8 i, or 8 levels[i]."""
    codec, pixels, tick = CODECS[path.suffix]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options={"crf": "1"} if codec == "libx264" else {})
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        stream.time_base = stream.codec_context.time_base = tick
        for time, level in zip(times, levels or range(len(times)), strict=True):
            picture = np.full((size[1], size[0], 3), 8 * level, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(time / tick), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_frames(folder, levels, size=(16, 16), suffix=".png"):
    folder.mkdir(parents=True)
    for i, level in enumerate(levels):
        Image.new("RGB", size, (8 * level,) * 3).save(folder / f"frame_{i}{suffix}")
    return folder


def write_sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        for i in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, i * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def levels_of(video, frame_rate=None):
    return [round(int(frame.pixels[0, 8, 8]) / 8) for frame in frames(video, frame_rate, 1, 16)]


def shown(x):
    """Return the levels of the frames of clips, (B, F)."""
    return (((x[:, 0, :, 8, 8] + 1) * 127.5) / 8).round().int().tolist()


@pytest.fixture
def make(tmp_path):
    """Return a function that makes the dataset of tmp_path / videos; its keywords replace settings."""
    usual = {"path": str(tmp_path / "videos"), "image_size": 16, "num_frames": 4, "num_val": 1}
    return lambda **other: VideoFolder(**{**usual, "cache_dir": str(tmp_path / "cache"), **other})


# Times of frames


def test_resampled_frames_by_hand():
    """Frames that begin at 0, 0.1, 0.6 and 1.5, the last lasting 0.9 as the one before it, at times 0, 1/2, 1, ..."""
    timed = [(Fraction(time, 10), name) for time, name in ((0, "a"), (1, "b"), (6, "c"), (15, "d"))]
    assert [name for _, name in resampled(timed, Fraction(2))] == ["a", "b", "c", "d", "d"]
    assert [name for _, name in resampled(timed[:1], Fraction(2))] == ["a"]
    assert list(resampled([], Fraction(2))) == []


@pytest.mark.parametrize("suffix", CODECS)
def test_every_kind_of_file_gives_its_frames_at_any_rate(tmp_path, suffix):
    """The unit to which a file rounds its times changes nothing."""
    video = write_video(tmp_path / f"a{suffix}")
    every = list(range(30))
    assert levels_of(video) == levels_of(video, 30) == every
    assert levels_of(video, 10) == every[::3]
    assert levels_of(video, 20) == [i for i in every if i % 3 != 2]
    assert levels_of(video, 60) == [i for i in every for _ in (0, 1)]


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif"])
def test_a_variable_frame_rate_is_resampled_by_its_times(tmp_path, suffix):
    """Ten frames of 1/30 s and ten of 1/10 s: 10 a second are every third of the first ten and each of the others."""
    times = EVEN[:10] + [Fraction(1, 3) + Fraction(i, 10) for i in range(10)]
    video = write_video(tmp_path / f"a{suffix}", times)
    at_ten = levels_of(video, 10)
    true = [max(i for i, time in enumerate(times) if time <= Fraction(k, 10)) for k in range(14)]
    assert true == [0, 3, 6, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]
    assert at_ten[:14] == true
    assert levels_of(video) == list(range(20))


def test_frames_of_a_folder_are_in_natural_order(tmp_path):
    assert levels_of(write_frames(tmp_path / "a", range(12))) == list(range(12))
    assert levels_of(tmp_path / "a", 3.0) == list(range(12))


def test_the_shorter_side_is_fitted_and_the_centre_cropped(tmp_path):
    """The crop of a 64 x 32 image that is white in its middle half and black outside is all white."""
    folder = tmp_path / "a"
    folder.mkdir()
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, 16:48] = 255
    Image.fromarray(picture).save(folder / "0.png")
    (frame,) = frames(folder, None, 3, 8)
    assert frame.pixels.shape == (3, 8, 8)
    assert (frame.pixels[:, :, 1:-1] == 255).all()
    assert not frame.enlarged


# Unusable videos


def broken_videos(folder):
    """Write two good videos and seven unusable ones, and return a pattern of the reason for each of the latter."""
    good = [write_video(folder / "good.mp4"), write_frames(folder / "good_frames", range(9))]
    (folder / "nothing.mp4").write_bytes(b"")
    (folder / "text.avi").write_text("no video at all, " * 50)
    write_sound(folder / "sound.mp4")
    (folder / "cut.mp4").write_bytes(good[0].read_bytes()[: good[0].stat().st_size * 2 // 3])  # its index is at the end
    write_video(folder / "short.webm", EVEN[:3])
    write_frames(folder / "mixed", range(5))
    Image.new("RGB", (20, 16)).save(folder / "mixed/frame_5.png")
    write_frames(folder / "torn", range(5))
    torn = folder / "torn/frame_3.png"
    torn.write_bytes(torn.read_bytes()[:40])
    (folder / "notes.txt").write_text("no video, to be ignored")
    return {
        "nothing.mp4": "cannot be read",
        "text.avi": "cannot be read",
        "sound.mp4": "sound but no video",
        "cut.mp4": "(cannot be read|no video stream)",
        "short.webm": "has 3 of the 4 frames",
        "mixed": "frames of 16 x 16 and of 20 x 16 pixels",
        "torn": r"cannot be read, frame_3\.png",
    }


def test_unusable_videos_are_skipped_with_one_warning(make, tmp_path):
    reasons = broken_videos(tmp_path / "videos")
    data = make()
    with pytest.warns(UserWarning, match="7 of 9 videos .* cannot be used: .* and 4 more") as caught:
        assert len(data.split("all")) == 2
    (line,) = [str(warning.message) for warning in caught if "cannot be used" in str(warning.message)]
    assert "\n" not in line
    every = {data.videos[number].name: reason for number, reason in data.library.broken.items()}
    for name, reason in reasons.items():
        if name != "short.webm":
            with pytest.raises(UnusableError, match=reason):
                list(frames(tmp_path / "videos" / name, None, 3, 16))
            assert name in every
    assert sorted(shown(data.split("all")["x"])) == [[0, 1, 2, 3]] * 2
    with pytest.warns(UserWarning, match="7 of 9"):  # also when frames come from the cache
        make().split("train")


def test_worker_processes_never_read_a_broken_video(make, tmp_path):
    broken_videos(tmp_path / "videos")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream = iter(make(num_workers=2, batch_size=2).train_dataloader())
        assert shown(next(stream)["x"]) == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize("frame_rate", [None, 30.0])
def test_the_readable_frames_of_a_file_that_is_cut_short_are_used(make, tmp_path, frame_rate):
    write_frames(tmp_path / "videos/other", range(9))
    video = write_video(tmp_path / "videos/cut.webm", EVEN, [i * 7 % 31 for i in range(30)])
    video.write_bytes(video.read_bytes()[: video.stat().st_size * 3 // 4])
    length = make(frame_rate=frame_rate).library.lengths[0]
    assert 4 <= length < 30
    assert levels_of(video)[:length] == [i * 7 % 31 for i in range(length)]


def test_without_any_usable_video_the_error_is_one_line(make, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/nothing.mp4").write_bytes(b"")
    with pytest.raises(ContentError, match=r"dataset.path: 1 of 1 videos .* nothing.mp4 \(cannot be read") as error:
        make().split("train")
    assert "\n" not in str(error.value)


# Clips


@pytest.fixture
def videos(tmp_path):
    """Write three folders of frames, of levels 0 to 8, 10 to 15 and 20 to 29."""
    for name, first, count in (("a", 0, 9), ("b", 10, 6), ("c", 20, 10)):
        write_frames(tmp_path / "videos" / name, range(first, first + count))
    return tmp_path / "videos"


@pytest.mark.parametrize(
    ("settings", "clips"),
    [
        ({}, [[0, 1, 2, 3], [10, 11, 12, 13], [20, 21, 22, 23]]),
        ({"hop": 4}, [[0, 1, 2, 3], [4, 5, 6, 7], [10, 11, 12, 13], [20, 21, 22, 23], [24, 25, 26, 27]]),
        ({"hop": 5, "num_frames": 3, "stride": 2}, [[0, 2, 4], [10, 12, 14], [20, 22, 24], [25, 27, 29]]),
        ({"num_frames": 9, "hop": 1, "num_val": 1}, [[*range(9)], [*range(20, 29)], [*range(21, 30)]]),
    ],
)
def test_clips_are_the_windows_of_each_video(make, videos, settings, clips):
    data = make(**settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warning of too short videos
        found = {split: shown(data.split(split)["x"]) for split in ("train", "val", "all")}
    assert sorted(found["all"]) == clips
    assert found["train"] + found["val"] == found["all"]
    decades = {split: {clip[0] // 10 for clip in some} for split, some in found.items()}
    assert not decades["train"] & decades["val"]  # no video is in both
    assert len(decades["val"]) == 1
    assert data.split("all")["x"].shape[1:] == data.shape


def test_a_clip_has_its_pixels_in_the_order_channels_frames_rows_columns(make, tmp_path):
    """Compare (B, C, F, H, W) with the images that were written, and the mirrored clip with its flip."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 16, 16, 3), dtype=np.uint8)
    for i, video in enumerate(pixels):
        (tmp_path / f"videos/{i}").mkdir(parents=True)
        for j, frame in enumerate(video):
            Image.fromarray(frame).save(tmp_path / f"videos/{i}/{j}.png")
    data = make(num_frames=5, flip=True)
    written = torch.from_numpy(pixels).permute(0, 4, 1, 2, 3) / 127.5 - 1
    order = [video.name for video in data.videos]
    assert order == ["0", "1"]
    x = data.split("all")["x"]
    assert any(torch.allclose(x, written[list(rows)], atol=1e-6) for rows in ((0, 1), (1, 0)))
    mirrored = data.loader_samples("train")
    batch = mirrored[torch.tensor([0, 1])]["x"]
    assert torch.equal(batch[0], data.split("train")["x"][0])
    assert torch.equal(batch[1], batch[0].flip(-1))


def test_classes_are_subfolders(make, tmp_path):
    for name, first in (("run", 0), ("step_2", 10), ("step_10", 20)):
        for k in range(2):
            write_frames(tmp_path / "videos" / name / f"clip{k}", range(first + k, first + k + 5))
    data = make(num_classes=3, class_names=["run", "step_2", "step_10"], num_val=2)
    batch = data.split("all")[torch.arange(6)]
    assert [clip[0] // 10 for clip in shown(batch["x"])] == batch["label"].tolist()
    assert sorted(batch["label"].tolist()) == [0, 0, 1, 1, 2, 2]
    assert "label" not in make().split("all")[torch.arange(6)]
    with pytest.raises(ValueError, match=r"num_classes=2 .* has 3 subfolders: run, step_2, step_10"):
        make(num_classes=2)
    with pytest.raises(ValueError, match=r"class_names=\[a, b, c\] are not those"):
        make(num_classes=3, class_names=["a", "b", "c"])


def test_videos_are_decoded_once(make, videos, monkeypatch):
    first = make().split("all")["x"]
    monkeypatch.setattr("diffsweep.datasets.video_folder.frames", None)
    assert torch.equal(make().split("all")["x"], first)
    # decoding does not depend on stride and hop
    assert make(stride=2, num_frames=3, hop=1).split("all")["x"].shape[2] == 3
    with pytest.raises(TypeError):
        make(image_size=8).split("all")


def test_a_cached_file_that_is_cut_short_is_refused(make, videos, tmp_path):
    make().split("all")
    (pixels,) = (tmp_path / "cache/videos").glob("*.bytes")
    pixels.write_bytes(pixels.read_bytes()[:-1])
    with pytest.raises(ContentError, match="cut short; delete"):
        make().split("all")


def test_the_fingerprint_changes_with_all_that_clips_depend_on(make, videos):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        changes = (
            *({}, {"num_frames": 5}, {"image_size": 8}, {"stride": 2, "num_frames": 2}, {"hop": 1}, {"num_val": 2}),
            *({"channels": 1}, {"frame_rate": 5.0}),
        )
        prints = [make(**change).fingerprint for change in changes]
        same = [make(seed=5, batch_size=3, flip=True).fingerprint]
        Image.new("RGB", (16, 16), (1, 2, 3)).save(videos / "a/frame_0.png")
        prints.append(make().fingerprint)
    assert len(set(prints)) == len(prints)
    assert same == prints[:1]


def test_hidden_files_are_ignored(tmp_path):
    write_frames(tmp_path / "videos/a", [1])
    write_frames(tmp_path / "videos/.b", [1])
    (tmp_path / "videos/.c.mp4").write_bytes(b"")
    assert [video.name for video in find(tmp_path / "videos")] == ["a"]


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"path": None}, "dataset.path is missing"),
        ({"path": "/nowhere"}, "dataset.path=/nowhere: no such folder"),
        ({"channels": 2}, "dataset.channels of videos is 1 .* not 2"),
        ({"levels": 17}, "dataset.levels"),
        ({"frame_rate": 0.0}, "dataset.frame_rate is frames a second"),
        ({"stride": 0}, "dataset.stride must be at least 1"),
        ({"hop": 0}, "dataset.hop must be at least 1"),
        ({"num_frames": 0}, "dataset.num_frames must be at least 1"),
    ],
)
def test_bad_values_are_refused(make, videos, bad, match):
    with pytest.raises(ValueError, match=match):
        make(**bad)


def test_a_folder_without_videos_and_too_many_held_out_videos_are_refused(make, videos, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no video file and no folder of frames"):
        make(path=str(tmp_path / "empty"))
    with pytest.raises(ContentError, match="num_val=3 are held out of the 3 videos"):
        make(num_val=3).split("train")


def test_video_files_need_av_and_folders_of_frames_do_not(make, videos, monkeypatch):
    find_spec = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "av" else find_spec(name))
    assert len(make().split("all")) == 3
    (videos / "d.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"d.mp4 needs av to be read; pip install 'diffsweep\[video\]'"):
        make()
