r"""Long clips from a model of short ones: windows whose known frames are those that are there already.

Given the known frames of a window, the rest of it is drawn by ``sample_window(known, mask, index)``: a walk under
:class:`~diffsweep.guidance.Reconstruction` or :class:`~diffsweep.guidance.Replacement`, or a model of conditional clips. Both ways are those
of Ho et al. 2022 (arXiv:2204.03458, section 3.1): blocks that extend a clip, and frames between the frames of a slower one. Where frames are a
Markov chain of order m, an exact sampler of windows gives exact long clips if the windows overlap in m frames at least.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

SampleWindow = Callable[[Tensor, Tensor, int], Tensor]


class Window(NamedTuple):
    """Frames that are sampled at once.

    Attributes:
        frames: which frames of the long clip they are, int64, (F,), equally far apart.
        known: True for those that are known when the window is sampled, bool, (F,).
    """

    frames: Tensor
    known: Tensor


def windows(total_frames: int, length: int, overlap: int, given: int = 0) -> list[Window]:
    """Return the windows that extend a clip to ``total_frames``, block by block.

    Each has ``length`` frames and knows the last ``overlap`` of those before; the last one ends with the clip and may know more.

    Args:
        total_frames: of the long clip.
        length: frames of a window.
        overlap: frames.
        given: how many frames the clip has already; where these are fewer than the overlap, the first window knows so many.

    Raises:
        ValueError: the overlap is not at least 1 and below the length, or the clip is shorter than a window, or has all its frames.
    """
    if not 1 <= overlap < length:
        raise ValueError(f"overlap={overlap}: windows of {length} frames overlap in 1 to {length - 1} of them")
    if total_frames < length:
        raise ValueError(f"total_frames={total_frames}: the clip is shorter than a window of {length} frames")
    if given >= total_frames:
        raise ValueError(f"total_frames={total_frames}: the clip has {given} frames already")
    return _planned(total_frames, length, overlap, step=1, made=given)


def between(count: int, length: int, overlap: int = 1) -> list[Window]:
    """Return the windows that double the frame rate of a clip of ``count`` frames: of 2 count - 1 frames, every other one is known from
    the start.

    A frame is kept where a window knows a frame behind it, too: an unknown frame at a window's end is drawn anew with the next.

    Args:
        count: frames of the slow clip, at least 2.
        length: frames of a window, at least 3.
        overlap: frames that a window shares with what is kept of the ones before, at least 1 and at most length - 2.

    Raises:
        ValueError: there is nothing in between, or windows of this length cannot overlap so.
    """
    if count < 2:
        raise ValueError(f"count={count}: there are frames in between from 2 frames on")
    if not 1 <= overlap <= length - 2:
        raise ValueError(f"overlap={overlap}: windows of {length} frames overlap in 1 to {length - 2} of them here")
    total = 2 * count - 1
    return _planned(total, min(length, total), overlap, step=2)


def _planned(total: int, length: int, overlap: int, step: int, made: int = 0) -> list[Window]:
    """Return windows over ``total`` frames, of which ``made`` are there, and with step 2 every other one; what a window keeps ends with one
    of the step."""
    plan: list[Window] = []
    while made < total:
        start = max(0, min(made - overlap, total - length))
        frames = torch.arange(start, start + length)
        given = frames % step == 0 if step > 1 else torch.zeros(length, dtype=torch.bool)
        plan.append(Window(frames, given | (frames < made)))
        made = (start + length - 1) // step * step + 1
    return plan


def filled(sample_window: SampleWindow, clip: Tensor, plan: Sequence[Window]) -> Tensor:
    """Return a clip whose unknown frames are drawn, window by window.

    Args:
        sample_window: ``sample_window(known, mask, index)``, the frames of a window (B, C, F, H, W), for known frames like them and their mask
            (B, F); the index of the window, from 0, is what its noise may be keyed by.
        clip: (B, C, F, H, W); frames that no window before made, and that a window knows, are given in it.
        plan: the windows.

    Returns:
        (B, C, F, H, W), with the frames that were given as they were.
    """
    clip = clip.clone()
    for index, window in enumerate(plan):
        frames, there = window.frames.to(clip.device), window.known.to(clip.device)
        mask = there.expand(len(clip), -1)  # (B, F)
        known = clip[:, :, frames] * there[:, None, None]
        made = sample_window(known, mask, index)
        if made.shape != known.shape:
            raise ValueError(f"sample_window gives {tuple(made.shape)} for a window of {tuple(known.shape)}")
        clip[:, :, frames] = torch.where(there[:, None, None], known, made)
    return clip
