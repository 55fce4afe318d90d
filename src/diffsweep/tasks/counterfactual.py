"""The task ``counterfactual``: images of one class are turned into another, to see where what makes their class is."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffsweep.autoencoders import Autoencoder
from diffsweep.diffusion import Condition
from diffsweep.errors import UserError
from diffsweep.guidance import Guidance
from diffsweep.models import ModelParts
from diffsweep.samplers import Callback, Sampler
from diffsweep.tasks.base import FromImages
from diffsweep.tasks.drawing import Drawn, drawn_by_trajectories, steps_taken
from diffsweep.tasks.inversion import not_invertible_because
from diffsweep.tasks.sampling import Job
from diffsweep.tasks.showing import sampling_of, show_rows
from diffsweep.tasks.sources import load_images

QUANTILES = torch.cat([torch.arange(50, 99) / 100, torch.arange(990, 1000) / 1000])  # that the best is chosen from


class Counterfactual(FromImages):
    r"""Turn images into another class with as little change as possible, and map where they changed.

    Images are encoded by DDIM with the null condition up to the noise of t = ``sampler.start``, and decoded under the
    class that the model's conditioning requests, with classifier-free guidance (Sanchez et al. 2022, "What is healthy?
    Generative counterfactual diffusion for lesion localization"). The map of an image x and its counterfactual x' is

    .. math:: m = \tfrac{1}{C} \sum_c |x_c - x'_c|.

    It localises what makes the class, such as a lesion in images that are decoded as healthy. The predicted region are
    the pixels with m above one threshold for all images, the ``quantile`` of all their pixels.

    ``counterfactual.png`` shows the images, their counterfactuals, the maps, from black to white, the predicted regions
    and, if the data know them, the true ones; where not all fit, several pages show them. If the regions are known, the
    text of the task reports the mean over images of Dice's coefficient :math:`2 |A \cap B| / (|A| + |B|)` of both
    regions, and that of the threshold which is best on these images.

    Args:
        source: where the images come from: ``data`` for those held-out images whose class is another than the one
            requested, or a path: see :func:`~diffsweep.tasks.sources.load_images`.
        quantile: the share of all pixels that are not in a predicted region, in (0, 1).

    Raises:
        ValueError: the quantile is not in (0, 1).
        UserError: on a run, all held-out images have the class that is requested.
    """

    def __init__(self, source: str = "data", quantile: float = 0.95) -> None:
        super().__init__(source)
        if not 0 < quantile < 1:
            raise ValueError(f"task.quantile is a share of the pixels, between 0 and 1, not {quantile}")
        self.quantile = quantile

    def incompatible_because(self, space: Autoencoder, sampler: Sampler, guidances: Sequence[Guidance]) -> str | None:
        if sampler.start == 1:
            return "from sampler.start=1 little of an image is left; use sampler.start=0.5, or another time below 1"
        return not_invertible_because(sampler) or super().incompatible_because(space, sampler, guidances)

    def unsuited_because(self, parts: ModelParts) -> str | None:
        if (reason := super().unsuited_because(parts)) or "null_condition" in parts.conditioning.provides:
            return reason
        return (
            "images are encoded without a class and decoded with one, and this model has not learned both; use a run "
            "of model=classifier_free"
        )

    def run(self, job: Job) -> tuple[Drawn, str]:
        model = job.model
        indices, images, regions = self._found(job)
        target = job.request(indices)

        def make(rows: Tensor, cond: Condition | None, callback: Callback) -> Tensor:
            assert cond is not None  # a null condition is one of a condition
            state = model.invert(images[rows], cond.null(), guided=False, callback=callback)
            return model.sample_from(state, model.noise_of(rows, job.seed), cond, callback=callback)

        steps = model.sampler.steps + steps_taken(model)  # of the way to the noise, and back
        drawn = drawn_by_trajectories(model, len(images), job.batch_size, make, target, steps)
        maps = (drawn.x - images).abs().mean(1)  # (N, H, W)
        predicted = maps > _quantiles(maps, torch.tensor([self.quantile]))
        words = model.conditioning.described
        sets: list[tuple[str, Tensor, Sequence[str]]] = [
            ("source", images, words(job.request(indices, "data")) if self.source == "data" else []),
            ("counterfactual", drawn.x, words(target)),
            ("difference", _picture(maps / maps.max().clamp(min=1e-6), images), ()),
            (f"above the {100 * self.quantile:g} % quantile", _picture(predicted, images), ()),
        ]
        if regions is not None:
            sets.append(("true region", _picture(regions, images), ()))
        title = f"counterfactuals from t = {model.sampler.start:g} {sampling_of(model)}"
        shown = show_rows(job, sets, "counterfactual", title)
        line = f"{len(images)} counterfactuals from t = {model.sampler.start:g}, "
        line += f"which change pixels by {float(maps.mean()):.4f} on [-1, 1] in the mean{shown}"
        if regions is not None:
            tried = torch.cat([torch.tensor([self.quantile]), QUANTILES])
            scores = [float(dice(maps > level, regions)) for level in _quantiles(maps, tried)]
            best = max(scores)
            line += f"\nDice of the true regions {scores[0]:.3f} at the quantile {self.quantile:g}, "
            line += f"{best:.3f} at the best one, {float(tried[scores.index(best)]):g}"
        return drawn, line

    def _found(self, job: Job) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the numbers of the images, the images, and the true regions if the data know them, (N, H, W).

        Raises:
            UserError: all held-out images have the class that is requested.
        """
        if self.source != "data":
            images = load_images(self.source, job.data, job.num_samples)
            return torch.arange(len(images)), images, None
        samples = job.data.split("val")
        indices = torch.arange(len(samples))
        wanted = job.request(indices).get("label")
        if wanted is not None:
            indices = indices[wanted != samples["label"]]
        if not len(indices):
            raise UserError(
                "task.source=data: all held-out images have the class that is requested; choose another by "
                "conditioning.labels"
            )
        indices = indices[: job.num_samples]
        try:
            regions: Tensor | None = samples["region"][indices]
        except KeyError:
            regions = None
        return indices, samples[indices]["x"], regions


def dice(predicted: Tensor, true: Tensor) -> Tensor:
    """Return the mean over images of Dice's coefficient 2 |A and B| / (|A| + |B|) of regions, bool, (N, H, W).

    It is 1 for an image in which both regions are empty.
    """
    both, sizes = (predicted & true).flatten(1).sum(1), (predicted.flatten(1).sum(1) + true.flatten(1).sum(1))
    return torch.where(sizes > 0, 2 * both / sizes.clamp(min=1), 1.0).mean()


def _quantiles(maps: Tensor, quantiles: Tensor) -> Tensor:
    """Return the quantiles (Q,) of all pixels of maps together, (Q,): of each the next lower pixel's value."""
    ordered = maps.flatten().sort().values  # torch.quantile takes 16 million values at most
    return ordered[(quantiles * (len(ordered) - 1)).long()]


def _picture(values: Tensor, images: Tensor) -> Tensor:
    """Return values in [0, 1] or regions, (N, H, W), as grey images with as many channels as ``images``."""
    return (2 * values.float() - 1)[:, None].expand_as(images)
