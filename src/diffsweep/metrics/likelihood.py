"""How likely data are under a model, in bits per dimension: the variational bound, or the exact likelihood of the ODE."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from diffsweep.capabilities import Part
from diffsweep.datasets import Batch, InMemory, Samples
from diffsweep.diffusion import Condition, Denoiser, Noise, ode_log_likelihood, variational_bound
from diffsweep.diffusion.bound import chain_times
from diffsweep.diffusion.likelihood import Divergence, bits_per_dim, dequantised
from diffsweep.schedules import Schedule

Encode = Callable[[Batch], tuple[Tensor, Condition | None]]
Progress = Callable[[], object]


def _as_samples(samples: Samples | Mapping[str, Any]) -> Samples:
    return samples if isinstance(samples, Samples) else InMemory(samples)


class EncodedBatch(NamedTuple):
    """A batch of data whose likelihood is measured.

    Attributes:
        x_0: the data in the space of the denoiser, (B, ...).
        cond: their condition.
        noise: that of the samples.
        levels: the number of values that the space's data take; None where they are continuous.
    """

    x_0: Tensor
    cond: Condition | None
    noise: Noise
    levels: int | None


class Likelihood(Part, ABC):
    """Bits per dimension of a model's data. A subclass defines :meth:`measure`, on one batch.

    Args:
        split: of the dataset.
        num_samples: the first so many; None for the whole split.
        batch_size: samples at once.
        seed: keys the noise.

    Attributes:
        name: of the estimate, in ``metrics.json``.
    """

    requires = frozenset({"likelihood", "range", "independent_noise"})

    name: str

    def __init__(
        self,
        split: Literal["train", "val", "all"] = "val",
        num_samples: int | None = None,
        batch_size: int = 512,
        seed: int = 0,
    ) -> None:
        if batch_size < 1 or (num_samples is not None and num_samples < 2):
            raise ValueError(
                "likelihood needs batch_size of at least 1 and num_samples of at least 2 (for a standard error), not "
                f"{batch_size} and {num_samples}"
            )
        self.split, self.num_samples, self.batch_size, self.seed = split, num_samples, batch_size, seed

    def __call__(
        self,
        denoiser: Denoiser,
        samples: Samples | Mapping[str, Any],
        encode: Encode,
        levels: int | None,
        progress: Progress | None = None,
    ) -> tuple[dict[str, float], Tensor | None]:
        """The numbers, with the standard errors of their means over samples, and the curve of the bound's terms.

        Args:
            denoiser: the model.
            samples: the split, on the CPU; or its parts.
            encode: a batch to the space of the denoiser, and its condition.
            levels: the number of values that the space's data take; None where they are continuous.
            progress: called after each network call.
        """
        samples = _as_samples(samples)
        count = self.count(samples)
        measured: list[dict[str, Tensor]] = []
        for begin in range(0, count, self.batch_size):
            rows = torch.arange(begin, min(begin + self.batch_size, count))
            x_0, cond = encode(samples[rows])
            batch = EncodedBatch(x_0, cond, Noise(self.seed, rows.to(x_0.device)), levels)
            measured.append(self.measure(denoiser, batch, progress))
        columns = {name: torch.cat([part[name] for part in measured]).double().cpu() for name in measured[0]}
        terms = columns.pop("terms", None)
        numbers: dict[str, float] = {}
        for name, values in columns.items():
            numbers[name] = values.mean().item()
            numbers[f"{name}_se"] = values.std().item() / math.sqrt(len(values))
        return numbers, None if terms is None else terms.mean(0)

    def count(self, samples: Samples | Mapping[str, Any]) -> int:
        """How many of the samples are measured."""
        there = len(_as_samples(samples))
        return min(there, self.num_samples or there)

    def calls(self, schedule: Schedule, count: int) -> int | None:
        """Network calls for so many samples; None where a solver decides."""
        return None

    @abstractmethod
    def measure(self, denoiser: Denoiser, batch: EncodedBatch, progress: Progress | None) -> dict[str, Tensor]:
        """Numbers of each sample, (B,), by name; ``terms`` (B, K) is kept as a curve."""

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """What the numbers depend on beside the model."""

    def _drawn(self) -> dict[str, Any]:
        return {"split": self.split, "samples": self.num_samples, "seed": self.seed}


class BoundLikelihood(Likelihood):
    """The variational bound, an upper bound on the negative log-likelihood of the sampled chain.

    Args:
        steps: of the chain, on the schedule's grid where it has one; None for all of it, 1000 on a continuous one.
        clip: hold the predicted x0 in [-1, 1] where the space is bounded so, as improved-diffusion does.
        settings: those of :class:`Likelihood`.
    """

    name = "bits_per_dim"

    def __init__(self, *, steps: int | None = None, clip: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        if steps is not None and steps < 1:
            raise ValueError(f"likelihood.steps must be at least 1, not {steps}")
        self.steps, self.clip = steps, clip

    def calls(self, schedule: Schedule, count: int) -> int | None:
        return -(-count // self.batch_size) * (len(chain_times(schedule, self.steps)) - 1)

    def measure(self, denoiser: Denoiser, batch: EncodedBatch, progress: Progress | None) -> dict[str, Tensor]:
        times = chain_times(denoiser.schedule, self.steps)
        tell = None if progress is None else lambda k: progress()
        clip = self.clip and batch.levels is not None
        bound = variational_bound(denoiser, batch.x_0, times, batch.noise, batch.levels, batch.cond, clip, tell)
        return {"bits_per_dim": bound.total, "bits_per_dim_prior": bound.prior, "terms": bound.terms}

    def protocol(self) -> dict[str, Any]:
        return {"bound": {**self._drawn(), "steps": self.steps, "clip": self.clip}}


class ODELikelihood(Likelihood):
    """The likelihood of the probability-flow ODE, exact up to the solver's tolerance, of uniformly dequantised data.

    Args:
        divergence: ``exact``, a backward pass a dimension, or ``hutchinson``, an unbiased estimate from one.
        tolerance: of the adaptive solver.
        settings: those of :class:`Likelihood`.
    """

    name = "bits_per_dim_ode"

    def __init__(self, *, divergence: Divergence = "hutchinson", tolerance: float = 1e-4, **settings: Any) -> None:
        super().__init__(**settings)
        if tolerance <= 0:
            raise ValueError(f"likelihood.tolerance must be positive, not {tolerance}")
        self.divergence, self.tolerance = divergence, tolerance

    def measure(self, denoiser: Denoiser, batch: EncodedBatch, progress: Progress | None) -> dict[str, Tensor]:
        tell = None if progress is None else lambda calls: progress()
        x_0, cond, noise, levels = batch
        x = x_0 if levels is None else dequantised(x_0, levels, noise)
        found = ode_log_likelihood(denoiser, x, cond, self.divergence, noise, self.tolerance, progress=tell)
        return {self.name: bits_per_dim(found.nats, x_0[0].numel(), levels)}

    def protocol(self) -> dict[str, Any]:
        return {"ode": {**self._drawn(), "divergence": self.divergence, "tolerance": self.tolerance}}
