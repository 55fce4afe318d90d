"""Tasks of clips: the distribution of clips in closed form, their noise, given frames and refused sources."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from diffsweep import pictures
from diffsweep.autoencoders import Identity
from diffsweep.conditioning import Unconditional
from diffsweep.configuration.build import build_data, build_diffusion
from diffsweep.datasets import InMemory
from diffsweep.diffusion import Eps, GaussianDenoiser
from diffsweep.errors import UserError
from diffsweep.guidance import Reconstruction, unguided
from diffsweep.models import VideoModel
from diffsweep.samplers import DDIM, Heun
from diffsweep.schedules import VP
from diffsweep.tasks import DoubleRate, Extend, Generate, Job, Upscale

LENGTH = 4  # frames of a window
LIMITED = ", the first {} shown in 1 page; pages=null shows all"


class Halved(Identity):
    """A space that loses something: an encoded value is decoded as half of it."""

    def decode(self, z):
        return z / 2


def correlated(total, rho):
    return rho ** (torch.arange(total)[:, None] - torch.arange(total)).abs().double()


def exact_job(tmp_path, rho, count, clips=None, space=Identity, steps=24):
    """Return a job whose model is exact for clips of single pixels, AR(1) with variance 1/4, with exact guidance."""
    denoiser = GaussianDenoiser(VP(), torch.zeros(LENGTH).double(), correlated(LENGTH, rho) / 4)
    denoiser.register_parameter(
        "none", torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    )  # its dtype is that of the samples
    sampler, guidance = (
        Heun(steps=steps, clip="none", spacing="quadratic"),
        partial(Reconstruction, weight="covariance"),
    )
    space = space(1, 1, num_frames=LENGTH, bounded=False)
    nothing = torch.nn.Identity()
    model = VideoModel(nothing, VP(), Eps(), None, None, Unconditional(), space, sampler, guidance, None, None)
    model.denoiser = denoiser
    held_out = None if clips is None else InMemory({"x": clips})
    data = SimpleNamespace(channels=1, image_size=1, split=lambda name: held_out, deferred=lambda name: held_out)
    return Job(model, data, tmp_path, count, seed=3, batch_size=count, pages=1)


def covariance_of(x):
    rows = x.flatten(1)
    return rows.T @ rows / len(rows)


def test_extended_clips_have_the_covariance_of_the_process(tmp_path):
    """AR(1) depends on one earlier frame alone, so windows that share noise or lose their given frames would differ."""
    drawn, line = Extend(total_frames=9, overlap=2)(exact_job(tmp_path, 0.8, 4000))
    assert line == "4000 clips of 9 frames, in 4 windows of 4 frames, of which 0 to 3 are given" + LIMITED.format(100)
    truth = correlated(9, 0.8) / 4
    assert (covariance_of(drawn.x) - truth).norm() < 0.05 * truth.norm()


def test_frames_in_between_are_drawn_given_their_neighbours(tmp_path):
    """Given its two neighbours, a frame of AR(1) has mean rho / (1 + rho^2) times their sum.

    Its variance is (1 - rho^2) / (1 + rho^2) of that of a frame. The clips of half the rate are samples of the model.
    """
    rho, total = 0.8, 2 * LENGTH - 1
    drawn, line = DoubleRate()(exact_job(tmp_path, rho, 4000))
    assert line == "4000 clips of 4 frames to 7, in 4 windows of 4 frames, of which 0 to 3 are given" + LIMITED.format(
        72
    )
    gain, own = torch.zeros(total, LENGTH).double(), torch.zeros(total).double()
    for frame in range(total):
        gain[frame, [frame // 2, (frame + 1) // 2]] = 1.0 if frame % 2 == 0 else rho / (1 + rho**2)
        own[frame] = frame % 2 * (1 - rho**2) / (1 + rho**2) / 4
    truth = gain @ (correlated(LENGTH, rho) / 4) @ gain.T + torch.diag(own)
    assert (covariance_of(drawn.x) - truth).norm() < 0.05 * truth.norm()


def test_clips_stay_in_the_space_until_they_are_whole(tmp_path):
    """A clip is decoded once: frames that hardly change are half of the given ones in the last window as in the first.

    Encoding each window anew would halve them window by window. Given frames are unchanged.
    """
    given = torch.tensor([0.5, -0.4, 0.3, 0.9]).reshape(4, 1, 1, 1, 1).expand(-1, -1, 2, -1, -1)
    job = exact_job(tmp_path, 0.9999, 4, given, space=Halved, steps=20)
    drawn, line = Extend(source="data", total_frames=12, overlap=1)(job)
    assert line.startswith("4 clips of 12 frames, of which 2 are given, in 4 windows of 4 frames, of which ")
    assert torch.equal(drawn.x[:, :, :2], given.double())
    torch.testing.assert_close(
        drawn.x[:, :, 2:], (given[:, :, :1] / 2).double().expand(-1, -1, 10, -1, -1), rtol=0, atol=0.08
    )


SMALL = ("backbone.channels=8", "dataset.num_train=16", "dataset.num_val=5", "dataset.num_frames=4", "metrics=none")


@pytest.fixture(scope="module")
def small(compose, tmp_path_factory):
    """``job = small(num_samples, batch_size)``: of a network of four-frame clips with classes and random weights."""
    cfg = compose("model=video", "conditioning=class", *SMALL)
    model, data, folder = (
        build_diffusion(cfg).eval().requires_grad_(False),
        build_data(cfg),
        tmp_path_factory.mktemp("small"),
    )
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    model.sampler, model.guidance = DDIM(steps=2, eta=1.0), Reconstruction

    return lambda num_samples, batch_size: Job(model, data, folder, num_samples, 7, batch_size)


def test_a_clip_is_the_same_in_any_batch_and_begins_as_the_sample_of_its_index(small):
    """The sampler draws noise in every step; all windows of a clip have its class."""
    several, one = small(3, 2), small(3, 3)
    seen, inner = [], several.model.denoiser
    hook = inner.register_forward_pre_hook(lambda module, given: seen.append(given[2].vector.tolist()))
    drawn, _ = Extend(total_frames=8)(several)
    hook.remove()
    assert seen == [[0, 1]] * 6 + [[2]] * 6  # 3 windows of 2 steps a batch
    together, _ = Extend(total_frames=8)(one)
    torch.testing.assert_close(drawn.x, together.x, rtol=0, atol=1e-4)
    assert drawn.evaluations == together.evaluations == 6
    plain, _ = Generate()(one)
    torch.testing.assert_close(drawn.x[:, :, :LENGTH], plain.x, rtol=0, atol=1e-4)


def test_held_out_clips_get_their_missing_frames_back(small):
    """Every other frame and the classes are those of the data, and the line has the error of the other frames."""
    drawn, line = DoubleRate(source="data")(small(99, 2))
    truth = small(1, 1).data.split("val")[torch.arange(5)]
    assert drawn.request["label"].tolist() == truth["label"].tolist()
    assert drawn.x.shape == (5, 1, 3, 16, 16)
    assert torch.equal(drawn.x[:, :, ::2], truth["x"][:, :, :3:2])
    error = (drawn.x[:, :, 1] - truth["x"][:, :, 1]).square().mean().sqrt()
    mean = ((truth["x"][:, :, 0] + truth["x"][:, :, 2]) / 2 - truth["x"][:, :, 1]).square().mean().sqrt()
    assert line == (
        "5 clips of 2 frames to 3, in 1 window of 3 frames, of which 2 are given\n"
        f"root mean square error of the new frames {error:.4f} on [-1, 1], of the mean of their neighbours {mean:.4f}"
    )
    with Image.open(small(1, 1).folder / "double_rate.gif") as animation:
        assert animation.n_frames == 3
        assert (
            animation.info["duration"] == 60
        )  # milliseconds, rounded to hundredths of a second: half of those of clips


def test_upscaled_clips_have_the_given_means(small, tmp_path):
    """Their means are the low resolution for any network, if nothing clips, from held-out clips as from a file."""
    job = small(3, 2)
    sampler, job.model.sampler = job.model.sampler, DDIM(steps=2, clip="none")
    truth = job.data.split("val")[torch.arange(3)]
    means = truth["x"].unflatten(4, (8, 2)).unflatten(3, (8, 2)).mean((4, 6))
    drawn, line = Upscale()(job)
    torch.testing.assert_close(drawn.x.unflatten(4, (8, 2)).unflatten(3, (8, 2)).mean((4, 6)), means, rtol=0, atol=1e-5)
    assert drawn.request["label"].tolist() == truth["label"].tolist()
    error = (drawn.x - truth["x"]).square().mean().sqrt()
    assert line.startswith("3 clips of 4 frames from 8 to 16 pixels, off from the means by ")
    assert f"root mean square error {error:.4f} on [-1, 1], of bilinear enlargement 0." in line
    np.savez(tmp_path / "low.npz", pictures.to_uint8(means[:, :, :3]))  # clips of another length
    small_ones, line = Upscale(source=str(tmp_path / "low.npz"))(job)
    job.model.sampler = sampler
    assert small_ones.x.shape == (3, 1, 3, 16, 16)
    assert "\n" not in line
    assert (small_ones.x.unflatten(4, (8, 2)).unflatten(3, (8, 2)).mean((4, 6)) - means[:, :, :3]).abs().max() < 0.005
    with Image.open(job.folder / "upscaled.gif") as animation:
        assert animation.n_frames == 3


def test_clips_of_files_are_continued(small, tmp_path):
    """Clips come from sample.py's own file, with more frames than a window, or from folders; given frames are kept."""
    truth = small(1, 1).data.split("val")[torch.arange(2)]["x"]
    np.savez(tmp_path / "clips.npz", pictures.to_uint8(torch.cat([truth, truth.flip(2)], 2)[:, :, :6]))
    long = pictures.load_npz(tmp_path / "clips.npz")
    for i, clip in enumerate(pictures.to_uint8(long)):
        (folder := tmp_path / "videos" / str(i)).mkdir(parents=True)
        for j, frame in enumerate(clip):
            Image.fromarray(frame[..., 0]).save(folder / f"{j}.png")
    ends = []
    for source in ("clips.npz", "videos"):
        drawn, line = Extend(source=str(tmp_path / source), total_frames=8)(small(3, 4))
        assert line == "2 clips of 8 frames, of which 6 are given, in 1 window of 4 frames, of which 2 are given"
        assert torch.equal(drawn.x[:, :, :6], long)
        ends.append(drawn.x[:, :, 6:])
    assert torch.equal(*ends)
    assert len(ends[0].unique()) > 100


def test_sources_that_do_not_suit_the_model_are_refused(small, tmp_path):
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "images.npz", np.zeros((2, 16, 16, 1), dtype=np.uint8))
    np.savez(tmp_path / "large.npz", np.zeros((2, 8, 32, 32, 1), dtype=np.uint8))
    np.savez(tmp_path / "short.npz", np.zeros((2, 1, 16, 16, 1), dtype=np.uint8))
    np.savez(tmp_path / "long.npz", np.zeros((2, 16, 16, 16, 1), dtype=np.uint8))
    for length in (2, 3):
        (folder := tmp_path / "mixed" / f"clip{length}").mkdir(parents=True)
        for frame in range(length):
            Image.new("L", (16, 16)).save(folder / f"{frame}.png")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "0.png").write_bytes(b"nothing")
    job = small(4, 4)
    for task, source, line in (
        (Extend, "nowhere.mp4", "no such file; give a video"),
        (Extend, "empty", "the folder has no videos"),
        (Extend, "images.npz", "has samples of shape (1, 16, 16), and clips of (1, frames, 16, 16) are needed"),
        (Extend, "large.npz", "(1, 8, 32, 32)"),
        (Extend, "long.npz", "task.total_frames=16: the clip has 16 frames already"),
        (Extend, "mixed", "clip2 has 2, clip3 has 3"),
        (Extend, "broken", "broken has a frame that cannot be read, 0.png"),
        (Upscale, "long.npz", "clips of (1, frames, 8, 8) are needed"),
        (DoubleRate, "short.npz", "a clip of 1 frame has no frames in between"),
    ):
        with pytest.raises(UserError) as error:
            task(source=str(tmp_path / source))(job)
        assert line in str(error.value)


def test_missing_guidance_is_refused_before_anything_is_drawn(small):
    """The task checks it itself when it is called from Python, without the rules of the command line."""
    job = small(2, 2)
    guidance, job.model.guidance = job.model.guidance, unguided
    try:
        with pytest.raises(UserError, match="use guidance=reconstruction"):
            Extend()(job)
    finally:
        job.model.guidance = guidance
