r"""Classifiers of noisy data, p(y | x_t), whose gradient guides diffusion towards a class y.

.. math:: L(t) = -\log p_\phi(y | x_t), \quad x_t = \alpha_t x_0 + \sigma_t \epsilon

is the cross-entropy that training minimises at drawn times t, for data x_0 of class y. Classifier guidance of scale s
adds :math:`s \nabla_{x_t} \log p_\phi(y | x_t)` to the score (arXiv:2105.05233).
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from diffsweep.autoencoders import Autoencoder
from diffsweep.backbones import ClassifierBackbone
from diffsweep.datasets import ImageData, RandomShift
from diffsweep.diffusion import Noise, Prediction, Stream, TimeSampling, add_noise, network_input, stratified
from diffsweep.files import write_text
from diffsweep.layers import evaluating
from diffsweep.metrics import GenerationMetrics
from diffsweep.models.base import SelfMeasured
from diffsweep.models.timed import Losses, TimedModel
from diffsweep.phases import NETWORK, phase
from diffsweep.plots import plot_accuracy
from diffsweep.progress import ProgressMeter
from diffsweep.schedules import Schedule

LEVELS = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)  # middles of tenths, as a mean over uniform t
CLEAN = 0.0  # the time of clean data
Output = TypeVar("Output")


class NoisyClassifier(TimedModel, SelfMeasured):
    r"""A classifier of noisy data, p(y | x_t) at every t, for classifier guidance.

    The training loss of a sample is the cross-entropy :math:`-\log p(y | x_t)` at a drawn t (Dhariwal and Nichol 2021,
    arXiv:2105.05233, section 4). The network's inputs are c_in x_t and c_noise, as those of a denoiser, so one schedule
    and prediction serve both. Everything is computed in float32 at least, whatever the precision of training, since
    guidance follows the gradient of log p.

    Args:
        backbone: the network, ``features, logits = backbone(x, c_noise)``.
        schedule: the noise schedule, alpha_t and sigma_t; a learned one is not trained here.
        prediction: the parametrisation whose c_in and c_noise the network's inputs use.
        time_sampling: how the times of a batch are drawn.
        autoencoder: maps pixels to the space of x_t; the identity for pixels.
        optimizer: makes the optimizer of a list of parameters.
        lr_scheduler: makes the learning-rate scheduler of an optimizer; it advances after every optimizer step.
        augmentation: a random change of training images, ``augmentation(x, noise)``, such as a shift; None for none.
        noisy: whether the classifier learns and is measured at all times; if False, on clean data alone, at t = 0.
        seed: the seed of all random numbers of training.
        val_repeats: the number of draws of (t, eps) for each held-out sample in a validation, and of eps at each noise
            level in :meth:`measure`.

    Raises:
        ValueError: ``val_repeats`` is below 1.
    """

    requires = frozenset({"class_output"})
    supports = frozenset({"class_output"})
    networks = ("backbone",)
    shardable = True

    def __init__(
        self,
        backbone: ClassifierBackbone,
        schedule: Schedule,
        prediction: Prediction,
        time_sampling: TimeSampling,
        autoencoder: Autoencoder,
        optimizer: Callable[..., torch.optim.Optimizer],
        lr_scheduler: Callable[[torch.optim.Optimizer], Any],
        augmentation: RandomShift | None = None,
        noisy: bool = True,
        seed: int = 0,
        val_repeats: int = 4,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, seed)
        if val_repeats < 1:
            raise ValueError(f"model.val_repeats must be at least 1, not {val_repeats}")
        self.backbone, self.autoencoder = backbone, autoencoder
        # The cross-entropy would train a learned schedule towards as little noise as it can have.
        self.schedule = schedule.requires_grad_(False)
        self.prediction, self.time_sampling = prediction, time_sampling
        self.augmentation, self.val_repeats = augmentation, val_repeats
        self.noisy = self.by_quarter = noisy
        self.requires_pixels = augmentation is not None and augmentation.pixels > 0

    def forward(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, D) and logits (B, K) of noisy samples, the logits in float32 at least.

        Args:
            x_t: samples in the space of diffusion (pixels or latents), (B, C, H, W).
            t: their times, () or (B,).
        """
        features, logits = self._evaluate(self.backbone, x_t, t)
        return features, logits.to(torch.promote_types(self.float_type, torch.float32))

    def _evaluate(self, network: Callable[[Tensor, Tensor], Output], x_t: Tensor, t: Tensor) -> Output:
        """Return the output of a network for the inputs c_in x_t and c_noise."""
        x_t = x_t.to(torch.promote_types(self.float_type, torch.float32))
        with torch.autocast(x_t.device.type, enabled=False):
            x, c_noise, _, _ = network_input(self.schedule, self.prediction, x_t, t)
            with phase(NETWORK):
                return network(x.to(self.float_type), c_noise)

    def log_prob(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return log p(y | x_t) of every class y, (B, K), in float32 at least.

        Args:
            x_t: samples in the space of diffusion (pixels or latents), (B, C, H, W).
            t: their times, () or (B,).
        """
        return self(x_t, t)[1].log_softmax(dim=1)

    @property
    def num_features(self) -> int:
        """The number D of features, the inputs of the layer that makes the logits."""
        return self.backbone.num_features

    def features_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of the last layer's input, (B, D), and the logits (B, K) of clean pixels (B, C, H, W)."""
        features, logits = self(self.autoencoder.encode(x), torch.tensor(CLEAN))
        return features, logits

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Return the network's feature maps of clean pixels (B, C, H, W), at t = 0, at the end of each of its levels.

        Returns:
            A list of maps (B, C', H', W'), from the largest to the smallest.
        """
        return self._evaluate(self.backbone.feature_maps, self.autoencoder.encode(x), torch.tensor(CLEAN))

    def noised(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Return x_t = alpha_t x_0 + sigma_t eps, or x_0 itself for a classifier of clean data (``noisy=False``).

        Args:
            x_0: clean samples in the space of diffusion, (B, C, H, W).
            t: their times, () or (B,).
            eps: standard normal noise, of the shape of x_0.
        """
        return add_noise(self.schedule, x_0, t, eps) if self.noisy else x_0

    def losses(self, batch: dict[str, Tensor]) -> Losses:
        noise = self.batch_noise(batch["position"])
        if self.augmentation is not None and self.requires_pixels:
            batch = {**batch, "x": self.augmentation(batch["x"], noise)}
        x_0 = self.autoencoder.of(batch, noise)
        u, eps = noise.uniform(stream=Stream.TIME), noise.like(x_0, Stream.EPS)
        t, weight = self.time_sampling(self.schedule, u) if self.noisy else (torch.zeros_like(u), torch.ones_like(u))
        losses = self.cross_entropy(self.log_prob(self.noised(x_0, t, eps), t), batch["label"])
        self.update_time_sampling(self.schedule, t, losses)
        return Losses(losses, t, weight)

    @staticmethod
    def cross_entropy(log_prob: Tensor, label: Tensor) -> Tensor:
        """Return -log p(y | x_t) of the true classes, (B,), from log p of all classes (B, K) and the labels (B,)."""
        return functional.nll_loss(log_prob, label, reduction="none")

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the cross-entropy of held-out samples, ``val/loss``, and the accuracy, ``val/accuracy``.

        Both are means over all t, and by quarter of t (``_q1`` to ``_q4``). Times and noise are the same in each
        validation and run; the times are spread evenly over [0, 1]; a classifier of clean data is measured at t = 0.
        """
        num_val = self.trainer.datamodule.num_val  # type: ignore[attr-defined]
        strata = stratified(num_val * self.val_repeats).to(batch["index"].device)
        x_0, label = self.autoencoder.of(batch), batch["label"]
        for repeat in range(self.val_repeats if self.noisy else 1):
            index = batch["index"] + repeat * num_val
            eps = Noise(0, index).like(x_0, Stream.VALIDATION)  # not the run's seed: runs share their validation
            u = strata[index].float()
            t = self.schedule.time_at(u) if self.noisy else torch.zeros_like(u)
            log_prob = self.log_prob(self.noised(x_0, t, eps), t)
            hit = (log_prob.argmax(dim=1) == label).to(log_prob.dtype)
            self.log_validation(self.cross_entropy(log_prob, label), t, accuracy=hit)

    @torch.no_grad()
    def measure(self, data: ImageData, folder: Path, metrics: GenerationMetrics | None = None) -> dict[str, float]:
        """Return accuracy and cross-entropy on the held-out data, and the accuracy at each noise level.

        Levels are t = 0 and ten times from 0.05 to 0.95, in steps of 0.1. ``accuracy`` and ``cross_entropy`` are means
        over the ten times, and ``accuracy_t_0``, ``accuracy_t_0.05``, ... the accuracies at each. A classifier of clean
        data (``noisy=False``) is measured at t = 0 alone. Writes the numbers of each level to ``accuracy.csv`` and, for
        a classifier of noisy data if matplotlib is installed, a plot of the accuracy over t to ``accuracy.png``.

        Args:
            data: the dataset, whose held-out samples are used.
            folder: where the table and the picture are written.
            metrics: not used.
        """
        samples = data.split("val")
        batches = torch.arange(len(samples)).split(256)
        levels = (CLEAN, *LEVELS) if self.noisy else (CLEAN,)
        times = [CLEAN, *self.schedule.on_grid(torch.tensor(levels[1:], dtype=torch.float64)).tolist()]
        measured: list[tuple[float, float]] = []  # accuracy and cross-entropy of each level
        with (
            evaluating(self),
            ProgressMeter("accuracy", len(times) * len(batches), "batch") as progress,
        ):
            for level, t in enumerate(times):
                sums = torch.zeros(2, dtype=torch.float64)
                for index in batches:
                    batch = samples[index]
                    x_0 = self.autoencoder.encode(batch["x"].to(self.device, self.float_type))
                    for log_prob in self._at_level(x_0, index, len(samples), level, t):
                        label = batch["label"].to(log_prob.device)
                        hits = (log_prob.argmax(dim=1) == label).sum()
                        sums += torch.stack([hits, self.cross_entropy(log_prob, label).sum()]).double().cpu()
                    progress.update()
                draws = self.val_repeats if level > 0 else 1
                hit, entropy = (sums / (draws * len(samples))).tolist()
                measured.append((hit, entropy))
        over_all = measured[1:] if self.noisy else measured
        accuracy, cross_entropy = (sum(column) / len(over_all) for column in zip(*over_all, strict=True))
        self._write(folder, times, measured)
        by_level = {f"accuracy_t_{t:g}": hit for t, (hit, _) in zip(levels, measured, strict=True)}
        return {"accuracy": accuracy, "cross_entropy": cross_entropy, **by_level}

    def _at_level(self, x_0: Tensor, index: Tensor, count: int, level: int, t: float) -> list[Tensor]:
        """Return log p of samples of given indices for each draw of noise at time t; one of x_0 itself at level 0."""
        time = torch.tensor(t, dtype=torch.float64)
        if level == 0:
            return [self.log_prob(x_0, time)]
        draws = [Noise(0, (index + repeat * count).to(x_0.device), level) for repeat in range(self.val_repeats)]
        return [self.log_prob(self.noised(x_0, time, noise.like(x_0, Stream.VALIDATION)), time) for noise in draws]

    def _write(self, folder: Path, times: list[float], measured: list[tuple[float, float]]) -> None:
        log_snr = self.schedule.log_snr(torch.tensor(times, dtype=torch.float64)).tolist()
        log_snr[0] = float("inf")
        rows = [
            f"{t:g},{snr:.6g},{accuracy:.6g},{entropy:.6g}"
            for t, snr, (accuracy, entropy) in zip(times, log_snr, measured, strict=True)
        ]
        write_text(folder / "accuracy.csv", "\n".join(["t,log_snr,accuracy,cross_entropy", *rows]) + "\n")
        if self.noisy and importlib.util.find_spec("matplotlib") is not None:
            figure = plot_accuracy(times, log_snr, [hit for hit, _ in measured], 1 / self.backbone.num_classes)
            figure.savefig(folder / "accuracy.png", dpi=120)
