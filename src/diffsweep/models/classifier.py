"""Classifiers of noisy data."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from diffsweep.autoencoders import Autoencoder
from diffsweep.backbones import ClassifierBackbone
from diffsweep.datasets import ImageData, RandomShift
from diffsweep.diffusion import Noise, Prediction, Stream, TimeSampling, add_noise, network_input, stratified
from diffsweep.files import write_text
from diffsweep.layers import evaluating
from diffsweep.metrics import GenerationMetrics
from diffsweep.models.base import Losses, SelfMeasured, TimedModel
from diffsweep.plots import plot_accuracy
from diffsweep.schedules import Schedule

LEVELS = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)  # middles: their mean is that of uniform times
CLEAN = 0.0
Answer = TypeVar("Answer")


class NoisyClassifier(TimedModel, SelfMeasured):
    r"""The classifier of classifier guidance: p(y | x_t) at every t, by cross-entropy (Dhariwal and Nichol 2021, arXiv:2105.05233,
    section 4).

    Its network is given c_in x_t and c_noise as a denoiser's is, so that one schedule and prediction suit both. Everything is
    computed in float32 at least, whatever the precision of training, since guidance follows the gradient of log p.

    Args:
        backbone: the network, ``features, logits = backbone(x, c_noise)``.
        schedule: alpha_t and sigma_t; a learned one stays as it is.
        prediction: c_in and c_noise.
        time_sampling: which times a batch looks at.
        autoencoder: the space of x_t; identity for pixels.
        optimizer: parameters to an optimizer.
        lr_scheduler: an optimizer to its learning-rate scheduler, stepped every step.
        augmentation: moves training pictures, ``augmentation(x, noise)``; None for none.
        noisy: whether it learns, and is measured, at all times; else on clean data alone, at t = 0.
        seed: keys all randomness.
        val_repeats: draws of (t, eps) for each held-out sample; of eps at each level, where it is measured.
    """

    requires = frozenset({"class_output"})
    supports = frozenset({"class_output"})

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
        self.schedule = schedule.requires_grad_(False)  # the loss would make the data as clean as the schedule can
        self.prediction, self.time_sampling = prediction, time_sampling
        self.augmentation, self.val_repeats = augmentation, val_repeats
        self.noisy = self.by_quarter = noisy
        self.requires_pixels = augmentation is not None and augmentation.pixels > 0

    def forward(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, D) and logits (B, K) of x_t (B, C, H, W), in the space, and t, () or (B,)."""
        features, logits = self._answer(self.backbone, x_t, t)
        return features, logits.to(torch.promote_types(self.float_type, torch.float32))

    def _answer(self, network: Callable[[Tensor, Tensor], Answer], x_t: Tensor, t: Tensor) -> Answer:
        """What a network says when it is given c_in x_t and told c_noise."""
        x_t = x_t.to(torch.promote_types(self.float_type, torch.float32))
        with torch.autocast(x_t.device.type, enabled=False):
            x, c_noise, _, _ = network_input(self.schedule, self.prediction, x_t, t)
            return network(x.to(self.float_type), c_noise)

    def log_prob(self, x_t: Tensor, t: Tensor) -> Tensor:
        """log p(y | x_t) of every class y, (B, K), in float32 at least; x_t (B, C, H, W) in the space, t () or (B,)."""
        return self(x_t, t)[1].log_softmax(dim=1)

    @property
    def num_features(self) -> int:
        """D, the width of the layer before the logits."""
        return self.backbone.num_features

    def features_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The layer before the logits, (B, D), and the logits (B, K), of clean pixels (B, C, H, W)."""
        features, logits = self(self.autoencoder.encode(x), torch.tensor(CLEAN))
        return features, logits

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """The network's maps at the end of each level, from the largest, each (B, C', H', W'), of clean pixels (B, C, H, W)."""
        return self._answer(self.backbone.feature_maps, self.autoencoder.encode(x), torch.tensor(CLEAN))

    def noised(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t; x_0 itself where the classifier is one of clean data."""
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
        """-log p(y | x_t) of the true classes (B,), (B,)."""
        return functional.nll_loss(log_prob, label, reduction="none")

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Cross-entropy and accuracy at fixed (x, t, eps), stratified over t."""
        num_val = self.trainer.datamodule.num_val  # type: ignore[attr-defined]
        strata = stratified(num_val * self.val_repeats).to(batch["index"].device)
        x_0, label = self.autoencoder.of(batch), batch["label"]
        for repeat in range(self.val_repeats if self.noisy else 1):
            index = batch["index"] + repeat * num_val
            eps = Noise(0, index).like(x_0, Stream.VALIDATION)  # not of the run's seed: runs share their validation
            u = strata[index].float()
            t = self.schedule.time_at(u) if self.noisy else torch.zeros_like(u)
            log_prob = self.log_prob(self.noised(x_0, t, eps), t)
            hit = (log_prob.argmax(dim=1) == label).to(log_prob.dtype)
            self.validated(self.cross_entropy(log_prob, label), t, accuracy=hit)

    @torch.no_grad()
    def measure(self, data: ImageData, folder: Path, metrics: GenerationMetrics | None = None) -> dict[str, float]:
        """Accuracy on the held-out data at t = 0 and ten noise levels, whose mean is the accuracy over all t; ``accuracy.csv`` and,
        with matplotlib, ``accuracy.png``."""
        samples = data.split("val")
        batches = torch.arange(len(samples)).split(256)
        asked = (CLEAN, *LEVELS) if self.noisy else (CLEAN,)
        times = [CLEAN, *self.schedule.on_grid(torch.tensor(asked[1:], dtype=torch.float64)).tolist()]
        measured: list[tuple[float, float]] = []  # accuracy and cross-entropy of each level
        with (
            evaluating(self),
            tqdm(total=len(times) * len(batches), desc="accuracy", unit="batch", dynamic_ncols=True) as bar,
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
                    bar.update()
                draws = self.val_repeats if level > 0 else 1
                hit, entropy = (sums / (draws * len(samples))).tolist()
                measured.append((hit, entropy))
        over_all = measured[1:] if self.noisy else measured
        accuracy, cross_entropy = (sum(column) / len(over_all) for column in zip(*over_all, strict=True))
        self._report(folder, times, measured)
        by_level = {f"accuracy_t_{t:g}": hit for t, (hit, _) in zip(asked, measured, strict=True)}
        return {"accuracy": accuracy, "cross_entropy": cross_entropy, **by_level}

    def _at_level(self, x_0: Tensor, index: Tensor, count: int, level: int, t: float) -> list[Tensor]:
        """log p of each draw of the noise of samples of an index; of x_0 alone at the first level, which is clean."""
        time = torch.tensor(t, dtype=torch.float64)
        if level == 0:
            return [self.log_prob(x_0, time)]
        draws = [Noise(0, (index + repeat * count).to(x_0.device), level) for repeat in range(self.val_repeats)]
        return [self.log_prob(self.noised(x_0, time, noise.like(x_0, Stream.VALIDATION)), time) for noise in draws]

    def _report(self, folder: Path, times: list[float], measured: list[tuple[float, float]]) -> None:
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
