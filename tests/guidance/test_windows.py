"""Long clips in windows: the frames of each, and exact long clips of Markov processes from exact windows."""

import pytest
import torch

from diffsweep.diffusion import Condition, Frames, GaussianDenoiser, Known
from diffsweep.guidance import Reconstruction, between, filled, windows
from diffsweep.samplers import Heun
from diffsweep.schedules import VP


def shown(plan):
    """Return a string for each window: its first frame, then x for each known frame."""
    return [f"{int(w.frames[0])}{''.join('x' if known else '.' for known in w.known)}" for w in plan]


def test_windows_of_blocks():
    assert shown(windows(10, 4, 1)) == ["0....", "3x...", "6x..."]
    assert shown(windows(9, 4, 2)) == ["0....", "2xx..", "4xx..", "5xxx."]  # the last ends with the clip
    assert shown(windows(4, 4, 3)) == ["0...."]
    assert torch.equal(windows(9, 4, 2)[-1].frames, torch.arange(5, 9))
    assert shown(windows(9, 4, 2, given=6)) == ["4xx..", "5xxx."]
    assert shown(windows(9, 4, 2, given=1)) == ["0x...", "2xx..", "4xx..", "5xxx."]  # only one frame is known


def test_windows_in_between():
    assert shown(between(3, 5)) == ["0x.x.x"]
    assert shown(between(5, 5)) == ["0x.x.x", "4x.x.x"]
    assert shown(between(4, 4)) == [
        "0x.x.",
        "2x.x.",
        "3xx.x",
    ]  # frame 3 is drawn again, now with frame 4; the last window ends with the clip
    assert shown(between(2, 8)) == ["0x.x"]
    assert shown(between(5, 5, overlap=3)) == ["0x.x.x", "2xxx.x", "4xxx.x"]


@pytest.mark.parametrize("length", range(3, 9))
@pytest.mark.parametrize("count", range(2, 8))
def test_every_frame_is_drawn_between_known_ones(count, length):
    """Known frames exist, every frame is drawn in the end, and a kept frame's neighbours are in its window."""
    for overlap in range(1, length - 1):
        made = {2 * i for i in range(count)}
        for window in between(count, length, overlap):
            frames = window.frames.tolist()
            assert {f for f, known in zip(frames, window.known, strict=True) if known} == made & set(frames)
            made |= {f for f in frames if f + 1 in frames}
        assert made == set(range(2 * count - 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: windows(10, 4, 0), "overlap=0: windows of 4 frames overlap in 1 to 3"),
        (lambda: windows(10, 4, 4), "overlap=4"),
        (lambda: windows(3, 4, 1), "total_frames=3: the clip is shorter"),
        (lambda: windows(8, 4, 1, given=8), "total_frames=8: the clip has 8 frames already"),
        (lambda: between(1, 4), "count=1"),
        (lambda: between(4, 4, 3), "overlap=3: windows of 4 frames overlap in 1 to 2"),
        (lambda: between(4, 2), "overlap=1: windows of 2 frames"),
        (
            lambda: filled(lambda known, mask, index: known[:, :, 1:], torch.ones(1, 1, 8, 1, 1), windows(8, 4, 1)),
            "sample_window",
        ),
    ],
)
def test_windows_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def autoregressive(total, coefficients):
    """Return the covariance of the stationary process x_t = sum_k c_k x_{t-k} + noise, of unit variance."""
    if len(coefficients) == 1:
        correlations = [coefficients[0] ** k for k in range(total)]
    else:
        first, second = coefficients  # Yule-Walker
        correlations = [1.0, first / (1 - second)]
        while len(correlations) < total:
            correlations.append(first * correlations[-1] + second * correlations[-2])
    gaps = (torch.arange(total)[:, None] - torch.arange(total)).abs()
    return torch.tensor(correlations, dtype=torch.float64)[gaps]


class ExactWindows:
    """An exact sampler of the unknown frames of a window of a process, given the known ones.

    Row b of the batch is the response to the number b of all standard normal numbers that are drawn, so the sum of the
    rows' outer products is the exact covariance of the samples.
    """

    def __init__(self, covariance, drawn):
        self.covariance, self.rows, self.used, self.calls = covariance, drawn, 0, []

    def __call__(self, known, mask, index):
        self.calls.append(index)
        length = known.shape[2]
        c, a = self.covariance[:length, :length], mask[0]  # stationary: all windows have the covariance of the first
        made = known.clone()
        gain = torch.zeros(int((~a).sum()), 0).double()
        spread = c[~a][:, ~a]
        if a.any():
            gain = torch.linalg.solve(c[a][:, a], c[a][:, ~a]).T
            spread = spread - gain @ c[a][:, ~a]
        made[:, 0, ~a, 0, 0] = known[:, 0, a, 0, 0] @ gain.T
        root = torch.linalg.cholesky(spread)
        made[self.used : self.used + len(root), 0, ~a, 0, 0] += root.T
        self.used += len(root)
        return made


def covariance_of(clip):
    return torch.einsum("bf,bg->fg", *[clip[:, 0, :, 0, 0]] * 2)


@pytest.mark.parametrize(
    ("coefficients", "overlap", "right"),
    [([0.8], 1, True), ([0.8], 3, True), ([0.9, -0.5], 2, True), ([0.9, -0.5], 3, True), ([0.9, -0.5], 1, False)],
)
def test_an_extended_clip_has_the_covariance_of_the_process(coefficients, overlap, right):
    """It has if windows overlap in as many frames as the order of the process, and not with fewer."""
    total, length = 14, 5
    truth = autoregressive(total, coefficients)
    exact = ExactWindows(truth, drawn=total)
    clip = filled(exact, torch.zeros(total, 1, total, 1, 1).double(), windows(total, length, overlap))
    assert exact.used == total
    assert exact.calls == list(range(len(windows(total, length, overlap))))
    if right:
        torch.testing.assert_close(covariance_of(clip), truth, rtol=0, atol=1e-12)
    else:
        torch.testing.assert_close(covariance_of(clip).diagonal(), truth.diagonal(), rtol=0, atol=1e-12)
        assert (covariance_of(clip) - truth).abs().max() > 0.05


@pytest.mark.parametrize("length", [3, 4, 5, 6])
def test_frames_in_between_complete_the_process(length):
    """Every other frame is drawn from the process; the frames in between complete it, for any length of windows."""
    count, truth = 6, autoregressive(11, [0.8])
    exact = ExactWindows(truth, drawn=40)
    slow = torch.zeros(40, 1, count, 1, 1).double()
    slow[:count, 0, :, 0, 0] = torch.linalg.cholesky(truth[::2, ::2]).T
    exact.used = count
    known = torch.zeros(40, 1, 2 * count - 1, 1, 1).double()
    known[:, :, ::2] = slow
    clip = filled(exact, known, between(count, length))
    assert torch.equal(clip[:, :, ::2], slow)
    torch.testing.assert_close(covariance_of(clip), truth, rtol=0, atol=1e-12)


def test_guided_sampling_extends_a_clip_as_exact_samplers_do():
    """A guided denoiser of 4 frames draws 7 frames of an AR(1) process in windows.

    The guidance is reconstruction of weight covariance, and the covariance of the frames is right to 2 %. The samples
    are affine in the first x and in the known frames, so the rows are responses to single numbers.
    """
    length, total, truth = 4, 7, autoregressive(7, [0.8]) / 4
    schedule, sampler = VP(), Heun(steps=40, clip="none", spacing="quadratic")
    guided = Reconstruction(
        GaussianDenoiser(schedule, torch.zeros(length).double(), truth[:length, :length]), weight="covariance"
    )
    sigma = schedule(torch.ones((), dtype=torch.float64))[1]

    def sample_window(known, mask, index):
        x = torch.zeros(3 * length, length, dtype=torch.float64)
        x[length * index : length * (index + 1)] = sigma * torch.eye(length)
        return sampler(guided, x.reshape(known.shape), Condition(known=Known(Frames(mask), known)))

    nothing = torch.zeros(3 * length, 1, total, 1, 1).double()
    clip = filled(sample_window, nothing, windows(total, length, overlap=2))
    measured = covariance_of(clip)
    assert (measured - truth).norm() < 0.02 * truth.norm()
