r"""Long clips from a model of short clips: windows are sampled one after another, given the frames that they share.

A function ``sample_window(known, mask, index)`` draws the unknown frames of a window given its known frames: by
sampling under :class:`~diffsweep.guidance.Reconstruction` or :class:`~diffsweep.guidance.Replacement`, or with a model
of conditional clips. The two plans are those of Ho et al. 2022 (arXiv:2204.03458, section 3.1): :func:`windows` extends
a clip block by block, :func:`between` draws frames between the frames of a slower clip. Where the frames of the data
are a Markov chain of order m, an exact sampler of windows gives exact long clips if the windows overlap in at least m
frames.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

SampleWindow = Callable[[Tensor, Tensor, int], Tensor]


class Window(NamedTuple):
    """A window: F frames of a long clip that a model of clips of F frames samples together.

    Some of these frames are known by then, given or drawn with an earlier window; the model draws the others.

    Attributes:
        frames: the indices of the frames in the long clip, int64, (F,), equally spaced.
        known: True for the frames that are known when the window is sampled, bool, (F,).
    """

    frames: Tensor
    known: Tensor


def windows(total_frames: int, length: int, overlap: int, given: int = 0) -> list[Window]:
    """Return the windows in which a clip is extended to ``total_frames``, block by block, in the order of sampling.

    Each window has ``length`` consecutive frames, of which the first ``overlap`` are known, given or drawn with windows
    before it. The last window ends with the clip, so more of its frames may be known.

    Args:
        total_frames: the number of frames of the long clip.
        length: the number of frames of a window.
        overlap: the number of known frames of a window, between 1 and length - 1.
        given: the number of frames, at the beginning of the clip, that are given. Where it is below the overlap, the
            first window has that many known frames.

    Raises:
        ValueError: the overlap is not between 1 and length - 1, total_frames is below length, or all frames are given.
    """
    if not 1 <= overlap < length:
        raise ValueError(f"overlap={overlap}: windows of {length} frames overlap in 1 to {length - 1} of them")
    if total_frames < length:
        raise ValueError(f"total_frames={total_frames}: the clip is shorter than a window of {length} frames")
    if given >= total_frames:
        raise ValueError(f"total_frames={total_frames}: the clip has {given} frames already")
    return _planned(total_frames, length, overlap, step=1, made=given)


def between(count: int, length: int, overlap: int = 1) -> list[Window]:
    """Return the windows that double the frame rate of a clip of ``count`` frames, in the order of sampling.

    The long clip has 2 count - 1 frames, of which those of even index are known from the beginning. A window has
    consecutive frames. A drawn frame is kept if its window has a known frame after it; an unknown frame at the end of a
    window is drawn again with the next window.

    Args:
        count: the number of frames of the slow clip, at least 2.
        length: the number of frames of a window, at least 3; a shorter long clip is one window.
        overlap: the number of kept frames that a window shares with the windows before it, between 1 and length - 2.

    Raises:
        ValueError: the clip has fewer than 2 frames, or the overlap is not between 1 and length - 2.
    """
    if count < 2:
        raise ValueError(f"count={count}: frames between others need a clip of at least 2 frames")
    if not 1 <= overlap <= length - 2:
        raise ValueError(
            f"overlap={overlap}: windows of {length} frames overlap in 1 to {length - 2} when the rate is doubled"
        )
    total = 2 * count - 1
    return _planned(total, min(length, total), overlap, step=2)


def _planned(total: int, length: int, overlap: int, step: int, made: int = 0) -> list[Window]:
    """Return windows over ``total`` frames, of which the first ``made`` exist, and with ``step`` 2 every other one too.

    A window keeps its frames up to the last one whose index is a multiple of ``step``.
    """
    plan: list[Window] = []
    while made < total:
        start = max(0, min(made - overlap, total - length))
        frames = torch.arange(start, start + length)
        given = frames % step == 0 if step > 1 else torch.zeros(length, dtype=torch.bool)
        plan.append(Window(frames, given | (frames < made)))
        made = (start + length - 1) // step * step + 1
    return plan


def filled(sample_window: SampleWindow, clip: Tensor, plan: Sequence[Window]) -> Tensor:
    """Return clips whose unknown frames are drawn, window by window.

    Args:
        sample_window: a function ``sample_window(known, mask, index)`` that returns the frames of a window, (B, C, F,
            H, W). ``known`` has its known frames, and zeros elsewhere, in that shape; ``mask`` is True for the known
            frames, bool, (B, F); ``index`` is the number of the window from 0, by which its noise may be keyed.
        clip: B clips with all T frames, (B, C, T, H, W), of which those that are given have their values; the frames
            that a window draws may have any finite values. The tensor is not changed.
        plan: the windows, in the order in which they are sampled.

    Returns:
        The clips with all frames, (B, C, T, H, W); frames that were given are unchanged.

    Raises:
        ValueError: ``sample_window`` returns another shape than that of the window.
    """
    clip = clip.clone()
    for index, window in enumerate(plan):
        frames, is_known = window.frames.to(clip.device), window.known.to(clip.device)
        mask = is_known.expand(len(clip), -1)  # (B, F)
        known = clip[:, :, frames] * is_known[:, None, None]
        made = sample_window(known, mask, index)
        if made.shape != known.shape:
            raise ValueError(
                f"sample_window returned the shape {tuple(made.shape)}, not that of the window, {tuple(known.shape)}"
            )
        clip[:, :, frames] = torch.where(is_known[:, None, None], known, made)
    return clip
