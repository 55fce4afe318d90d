"""Tasks of clips refuse models, samplers, guidance and settings that do not suit them before anything is loaded."""

import pytest

from diffsweep.autoencoders import Identity
from diffsweep.configuration.compose import compose
from diffsweep.configuration.preflight import preflight
from diffsweep.errors import UserError
from diffsweep.guidance import ClassifierFreeGuidance, Reconstruction, Replacement
from diffsweep.samplers import DDIM
from diffsweep.schedules import VP
from diffsweep.tasks import DoubleRate, Extend, Upscale


def clips_of(frames, **facts):
    return Identity(1, 16, num_frames=frames, **facts)


def free(denoiser):
    return ClassifierFreeGuidance(denoiser, 2.0)


INCOMPATIBLE = [
    (
        Extend(),
        (clips_of(None), DDIM(), [Replacement]),
        "clips are needed, and this model makes images; use a run of model=video",
    ),
    (Extend(), (clips_of(1), DDIM(), [Replacement]), "windows of the 1 frames of a clip do not fit"),
    (Extend(), (clips_of(8), DDIM(start=0.5), [Replacement]), "sampler.start=0.5"),
    (Upscale(), (clips_of(8), DDIM(), []), "guidance has no use for one; use guidance=reconstruction, or replacement"),
    (Extend(), (clips_of(8), DDIM(), [free]), "use guidance=reconstruction_free"),
    (
        Extend(total_frames=7),
        (clips_of(8), DDIM(), [Replacement]),
        "task.total_frames=7: the clip is shorter than a window of 8",
    ),
    (
        Extend(total_frames=8, overlap=8),
        (clips_of(8), DDIM(), [Replacement]),
        "task.overlap=8: windows of 8 frames overlap in 1 to 7",
    ),
    (
        DoubleRate(overlap=7),
        (clips_of(8), DDIM(), [Replacement]),
        "task.overlap=7: windows of 8 frames overlap in 1 to 6",
    ),
    (
        Upscale(factor=3),
        (clips_of(8), DDIM(), [Replacement]),
        "task.factor=3 does not divide a frame's side of 16 pixels",
    ),
    (Upscale(), (clips_of(8, bounded=False), DDIM(), [Replacement]), "this model draws latents"),
    (Upscale(factor=4), (clips_of(1), DDIM(), [Replacement]), None),
    (Extend(), (clips_of(8), DDIM(), [Replacement]), None),
    (DoubleRate(), (clips_of(8), DDIM(), [free, Reconstruction]), None),
]


@pytest.mark.parametrize(("task", "facts", "message"), INCOMPATIBLE, ids=[str(row[2])[:40] for row in INCOMPATIBLE])
def test_a_task_that_does_not_suit_the_model_is_refused(gaussian, task, facts, message):
    space, sampler, guidances = facts
    reason = task.incompatible_because(space, sampler, [make(gaussian(VP())) for make in guidances])
    assert reason is None if message is None else message in reason


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Extend(total_frames=1), "task.total_frames must be at least 2"),
        (lambda: Extend(overlap=0), "task.overlap must be at least 1"),
        (lambda: DoubleRate(overlap=-1), "task.overlap must be at least 1"),
        (lambda: Upscale(factor=1), "task.factor must be at least 2"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            ["task=extend"],
            "task=extend: clips are .* use guidance=reconstruction_free.* \\[rule task_suits_the_model\\]",
        ),
        (
            ["task=extend", "guidance=replacement", "num_frames=9"],
            "num_frames=9 .* use task.total_frames \\[rule num_frames_is_set_once\\]",
        ),
        (
            ["task=edit", "sampler.start=0.6", "num_frames=9"],
            "num_frames=9 .* use task.source, whose clips keep .* \\[rule num_frames_is_set_once\\]",
        ),
    ],
)
def test_rules_check_the_task(finished_clips, typed, message):
    with pytest.raises(UserError, match=message):
        preflight(compose("sample", [f"run={finished_clips}", *typed]))
