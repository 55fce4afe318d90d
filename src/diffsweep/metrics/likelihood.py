r"""Measure how likely data are under a diffusion model, in bits per dimension, where lower is better.

For data x_0 of D dimensions the measure is :math:`-\log_2 p(x_0) / D`. :class:`BoundLikelihood` computes its upper
bound by the chain that is sampled (DDPM, arXiv:2006.11239, eq. 5),

.. math:: -\log p(x_0) &\le D_{KL}(q(x_{t_K} | x_0) \| p(x_{t_K})) - \log p(x_0 | x_{t_1}) \\
    &+ \sum_{k=1}^{K-1} D_{KL}(q(x_{t_k} | x_{t_{k+1}}, x_0) \| p(x_{t_k} | x_{t_{k+1}})),

and :class:`ODELikelihood` the density of the probability-flow ODE (arXiv:2011.13456, section 4.3). Images of L levels
are made continuous by uniform noise of one level's width, :math:`2 / (L - 1)`, whose :math:`\log_2` is subtracted from
the ODE's value.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from diffsweep.capabilities import Part
from diffsweep.datasets import Batch, InMemory, Samples
from diffsweep.diffusion import Condition, Denoiser, Noise, ode_log_likelihood, variational_bound
from diffsweep.diffusion.bound import chain_times
from diffsweep.diffusion.likelihood import Divergence, bits_per_dim, dequantised
from diffsweep.layers.modes import uncompiled
from diffsweep.schedules import Schedule

Encode = Callable[[Batch], tuple[Tensor, Condition | None]]
OnCall = Callable[[], object]


def _as_samples(samples: Samples | Mapping[str, Any]) -> Samples:
    return samples if isinstance(samples, Samples) else InMemory(samples)


class EncodedBatch(NamedTuple):
    """A batch of data, in the space in which the model diffuses, whose likelihood is to be measured.

    Attributes:
        x_0: pixels, or latents of an autoencoder, (B, ...).
        cond: the condition of each sample; None for an unconditional model.
        noise: a source of random numbers for each sample, keyed by its number in the split.
        levels: the number of equally spaced values on [-1, 1] that x_0 takes; None for continuous data such as latents.
    """

    x_0: Tensor
    cond: Condition | None
    noise: Noise
    levels: int | None


class Likelihood(Part, ABC):
    """A base class for estimates of the bits per dimension of data under a model; subclasses define :meth:`measure`.

    Subclasses also define :meth:`protocol`. An estimate is an option of its own group ``likelihood`` beside
    ``metrics``, since it measures data and not samples.

    Args:
        split: the split of the dataset that is measured.
        num_samples: measure only the first this many samples of the split; None for all.
        batch_size: samples in each call of the network.
        seed: determines the noise.
        optional: whether a run leaves the estimate out, instead of being refused, if the model diffuses in latents,
            which have no bits per dimension of the data.

    Attributes:
        name: the name of the estimate in ``metrics.json``.

    Raises:
        ValueError: ``batch_size`` is below 1 or ``num_samples`` below 2.
    """

    requires = frozenset({"likelihood", "range", "independent_noise"})

    name: str

    def __init__(
        self,
        split: Literal["train", "val", "all"] = "val",
        num_samples: int | None = None,
        batch_size: int = 512,
        seed: int = 0,
        optional: bool = False,
    ) -> None:
        if batch_size < 1 or (num_samples is not None and num_samples < 2):
            raise ValueError(
                "likelihood needs batch_size of at least 1 and num_samples of at least 2 (for a standard error), not "
                f"{batch_size} and {num_samples}"
            )
        self.split, self.num_samples, self.batch_size, self.seed = split, num_samples, batch_size, seed
        if optional:
            self.requires = self.requires - {"range"}

    def __call__(
        self,
        denoiser: Denoiser,
        samples: Samples | Mapping[str, Any],
        encode: Encode,
        levels: int | None,
        progress: OnCall | None = None,
    ) -> tuple[dict[str, float], Tensor | None]:
        """Return the means over samples of the estimates, with standard errors, and of the terms of a bound, if any.

        Args:
            denoiser: the model.
            samples: the samples of the split, or a dict of its columns, on the CPU.
            encode: maps a batch to the pair of x_0 in the space of the denoiser and the condition of each sample.
            levels: the number of equally spaced values on [-1, 1] that encoded data take; None for continuous data.
            progress: called after each network call.

        Returns:
            the means by name, in bits per dimension, with standard errors as ``..._se``; and the mean of each term of
            the bound in bits per dimension, (K,), from the term of the lowest noise to that of the highest, or None if
            the estimate has no terms.
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
        """Return the number of samples that are measured: ``num_samples``, or all of them if they are fewer."""
        available = len(_as_samples(samples))
        return min(available, self.num_samples or available)

    def calls(self, schedule: Schedule, count: int) -> int | None:
        """Return the number of network calls for ``count`` samples; None, as here, if an adaptive solver determines it.

        Args:
            schedule: the model's noise schedule, whose grid of times may be that of the estimate.
            count: number of samples.
        """
        return None

    @abstractmethod
    def measure(self, denoiser: Denoiser, batch: EncodedBatch, progress: OnCall | None) -> dict[str, Tensor]:
        """Return the estimates for each sample of a batch in bits per dimension; subclasses define it.

        Args:
            denoiser: the model.
            batch: the encoded data.
            progress: called after each network call.

        Returns:
            tensors (B,) by the names of the estimates; and, if an estimate is a sum of K terms, these as ``terms`` (B,
            K).
        """

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """Return the settings that the estimate depends on besides the model; subclasses define it.

        ``metrics.json`` keeps them with the values. The result has one entry, a dict of settings under a name of the
        estimate.
        """

    def _data_protocol(self) -> dict[str, Any]:
        """Return the settings that determine the samples and their noise."""
        return {"split": self.split, "samples": self.num_samples, "seed": self.seed}


class BoundLikelihood(Likelihood):
    """A measure of bits per dimension by the variational bound of a chain of reverse steps (DDPM, arXiv:2006.11239).

    It is an upper bound of -log2 p(x_0) / D.

    Args:
        steps: K, the number of steps of the chain, which must lie on a discrete schedule's grid; None for the whole
            grid, or for 1000 steps of a continuous schedule.
        clip: clamp the predicted x0 to [-1, 1] if the data have levels, as improved-diffusion does.
        settings: arguments of :class:`Likelihood`.

    Raises:
        ValueError: ``steps`` is below 1.
    """

    name = "bits_per_dim"

    def __init__(self, *, steps: int | None = None, clip: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        if steps is not None and steps < 1:
            raise ValueError(f"likelihood.steps must be at least 1, not {steps}")
        self.steps, self.clip = steps, clip

    def calls(self, schedule: Schedule, count: int) -> int | None:
        return -(-count // self.batch_size) * (len(chain_times(schedule, self.steps)) - 1)

    def measure(self, denoiser: Denoiser, batch: EncodedBatch, progress: OnCall | None) -> dict[str, Tensor]:
        times = chain_times(denoiser.schedule, self.steps)
        on_step = None if progress is None else lambda k: progress()
        clip = self.clip and batch.levels is not None
        bound = variational_bound(denoiser, batch.x_0, times, batch.noise, batch.levels, batch.cond, clip, on_step)
        return {"bits_per_dim": bound.total, "bits_per_dim_prior": bound.prior, "terms": bound.terms}

    def protocol(self) -> dict[str, Any]:
        return {"bound": {**self._data_protocol(), "steps": self.steps, "clip": self.clip}}


class ODELikelihood(Likelihood):
    """A measure of bits per dimension by the density of the probability-flow ODE (arXiv:2011.13456, section 4.3).

    With the exact divergence it is exact up to the solver's tolerance, with Hutchinson's estimate it is random. Data
    with levels are dequantised by uniform noise first.

    Args:
        divergence: ``exact``, which takes one backward pass for each dimension, or ``hutchinson``, an unbiased estimate
            of the trace by one backward pass with random signs.
        tolerance: relative and absolute tolerance of the adaptive solver.
        settings: arguments of :class:`Likelihood`.

    Raises:
        ValueError: ``tolerance`` is not positive.
    """

    name = "bits_per_dim_ode"

    def __init__(self, *, divergence: Divergence = "hutchinson", tolerance: float = 1e-4, **settings: Any) -> None:
        super().__init__(**settings)
        if tolerance <= 0:
            raise ValueError(f"likelihood.tolerance must be positive, not {tolerance}")
        self.divergence, self.tolerance = divergence, tolerance

    def measure(self, denoiser: Denoiser, batch: EncodedBatch, progress: OnCall | None) -> dict[str, Tensor]:
        on_call = None if progress is None else lambda calls: progress()
        x_0, cond, noise, levels = batch
        x = x_0 if levels is None else dequantised(x_0, levels, noise)
        exact = self.divergence == "exact"  # with a gradient for each dimension, of which compiled code gives one
        with uncompiled() if exact else nullcontext():
            density = ode_log_likelihood(denoiser, x, cond, self.divergence, noise, self.tolerance, progress=on_call)
        return {self.name: bits_per_dim(density.nats, x_0[0].numel(), levels)}

    def protocol(self) -> dict[str, Any]:
        return {"ode": {**self._data_protocol(), "divergence": self.divergence, "tolerance": self.tolerance}}
