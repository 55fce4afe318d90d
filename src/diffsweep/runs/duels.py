"""The win rate of a model that learns from preferences: its samples against those of its reference, by a scorer."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor

from diffsweep import pictures
from diffsweep.datasets import Batch, ImageData, rows_of
from diffsweep.diffusion import Condition, Denoised, Noise
from diffsweep.layers import evaluating, weights_hash
from diffsweep.metrics.accuracy import ATTRIBUTES
from diffsweep.models import DiffusionModel, Model, PreferenceModel
from diffsweep.progress import ProgressMeter

AT_ONCE = 250  # samples that are drawn at once
SHOWN = 24  # prompts of which the picture has both samples
PICTURE = "against_the_reference.png"


class Duels(NamedTuple):
    """Samples of a model and of its reference for the same prompts, from the same noise.

    Attributes:
        own, theirs: the images, (N, C, H, W) in [-1, 1] on the CPU.
        request: what both were to show.
    """

    own: Tensor
    theirs: Tensor
    request: Batch


def fights_duels(model: Model) -> TypeGuard[PreferenceModel]:
    """Return whether a model is compared with its reference: one that learned from preferences and has a scorer.

    If the run of the reference is no longer where it was, the result is False, and a warning is printed.
    """
    if not isinstance(model, PreferenceModel) or model.scorer is None:
        return False
    run = getattr(model.adaptation, "run", None)
    if run is not None and not Path(run).is_dir():
        print(f"warning: no win rate, since {run}, the run of the reference, is gone; adaptation.run=DIR gives it")
        return False
    return True


def measure_duels(model: PreferenceModel, data: ImageData, seed: int, folder: Path) -> dict[str, float]:
    """Return the win rate of a model with a scorer against its reference, and by how much they differ.

    Both draw one sample for each of ``model.num_duels`` held-out prompts, by the model's sampler and guidance and from
    the same noise. The picture ``against_the_reference.png`` shows the first ones, the reference's above the model's.

    Args:
        model: the model, in evaluation mode.
        data: the dataset, whose held-out annotations are requested.
        seed: the seed of the noise.
        folder: where the picture is written.

    Returns:
        ``win_rate``, the share of prompts whose sample by the model has the larger score (equal ones count half);
        ``score_gain``, the median difference of the scores; and, where the dataset compares images with requests,
        ``colour_gain``, ``shape_gain``, ``position_gain`` and ``size_gain``, the differences of the shares of samples
        that show what is requested.
    """
    assert model.scorer is not None
    duels = draw_duels(model, data, seed)
    own, theirs = (model.scorer(x, duels.request, data) for x in (duels.own, duels.theirs))
    numbers = {
        "win_rate": float((own > theirs).double().mean() + (own == theirs).double().mean() / 2),
        "score_gain": float((own - theirs).median()),
    }
    right = [data.aligned(x, duels.request) for x in (duels.own, duels.theirs)]
    if right[0] is not None and right[1] is not None:
        for name in ATTRIBUTES:
            numbers[f"{name}_gain"] = float((right[0][name].double() - right[1][name].double()).mean())
    _show(duels, model.conditioning.described(duels.request), numbers["win_rate"], folder / PICTURE)
    return numbers


def duels_protocol(model: PreferenceModel, data: ImageData, seed: int) -> dict[str, Any]:
    """Return the settings that the numbers of :func:`measure_duels` depend on beside the model's own, by name.

    Args:
        model, data, seed: as those of :func:`measure_duels`.
    """
    assert model.scorer is not None
    return {
        "reference": weights_hash(model.reference),
        "scorer": {"name": type(model.scorer).__name__, **model.scorer.identity()},
        "num_duels": model.num_duels,
        "data": data.fingerprint,
        "seed": seed,
    }


def draw_duels(model: PreferenceModel, data: ImageData, seed: int) -> Duels:
    """Return samples of a model and of its reference for held-out prompts, with progress.

    Args:
        model, data, seed: as those of :func:`measure_duels`.
    """
    index = torch.arange(model.num_duels)
    request = model.conditioning.request(index, data.deferred("val"))
    draws: list[Callable[..., Tensor]] = [partial(_drawn, one, model) for one in (model, model.reference)]
    found: list[list[Tensor]] = [[], []]
    batches = index.split(AT_ONCE)
    with evaluating(model), ProgressMeter("against the reference", 2 * len(batches) * model.sampler.steps) as progress:

        def advance(step: int, t: Tensor, denoised: Denoised, x: Tensor) -> None:
            progress.update()

        for rows in batches:
            some = rows_of(request, rows)
            for draw, images in zip(draws, found, strict=True):
                images.append(draw(some, *model.start(rows, seed), advance))
    return Duels(torch.cat(found[0]), torch.cat(found[1]), request)


@torch.no_grad()
def _drawn(
    of: DiffusionModel, model: PreferenceModel, request: Batch, x: Tensor, noise: Noise, callback: Any
) -> Tensor:
    """Return samples of the model or of its reference, with the sampler and the guidance of the model."""
    sampler, cond = model.sampler, of.condition_of(request)
    guided = model.guidance(of.denoiser, times=sampler.times(model.denoiser.schedule)).to(model.device)
    complete: Condition | None = of.completed(cond, noise)
    return of.autoencoder.decode(sampler(guided, x, complete, noise, callback)).cpu()


def _show(duels: Duels, labels: list[str], win_rate: float, path: Path) -> None:
    both = [x[:SHOWN] for x in (duels.theirs, duels.own)]
    title = f"from the same noise; this run's sample wins in {win_rate:.1%} of {len(duels.own)} prompts"
    names = ("reference", "this run")
    pictures.save_png(pictures.rows(*both, names=names, labels=[labels[:SHOWN]], title=title), path)
