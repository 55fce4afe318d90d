"""The base classes of models: how optimizers, random numbers and logging work in training, whatever the loss."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from diffsweep.capabilities import Part
from diffsweep.datasets import ImageData
from diffsweep.diffusion import INDEPENDENT, BatchNoise, ClipNoise
from diffsweep.layers.distributed import summed
from diffsweep.layers.sharding import whole
from diffsweep.metrics import GenerationMetrics
from diffsweep.models.optimizers import parameters_by_optimizer
from diffsweep.phases import LOGGING, phase
from diffsweep.precision import Computed, Precision, float32_products, wide_type


class Model(LightningModule, Part, Computed):
    """A LightningModule whose random numbers in training follow from the seed, the step and the samples alone.

    So a run that is resumed draws what the uninterrupted run would have drawn. Subclasses define the training step and
    :meth:`training_metrics`.

    Args:
        optimizer: makes the optimizer of a list of parameters.
        lr_scheduler: makes the learning-rate scheduler of an optimizer; it advances after every optimizer step.
        seed: the seed of all random numbers of training.
        noise: the covariance over the frames of a clip of the noise that is added in training.

    Attributes:
        batch_noise: maps the positions of samples in the endless training stream, int64 (B,), to their noise.
        requires_pixels: whether training needs the images themselves, even if diffusion is in latents, which could be
            stored in place of the images.
        on_gradients: called with the optimizer and the norms of the gradients, one for each of
            :func:`~diffsweep.models.optimizers.parameters_by_optimizer`, after each backward pass that a step follows
            and before that step; None for nothing. It is not called with the scaled gradients of float16.
        round: the index of the present round of the training, if the model is trained in several; else 0.
        adaptation: what has changed the model and started it from the weights of a trained one; None for nothing.
        average: how the loaded weights were made of snapshots of a training, with its error; None if they were not.
        given: the names of the frozen weights that this base has, which checkpoints leave out.
        precision: the types in which the model is kept and computed: see :meth:`compute_in`.
        networks: the paths of the submodules that take most of the time of training and sampling, and can be compiled.
        shardable: whether training can shard the weights over devices: only those of ``networks`` are trained, each of
            which is called as a whole and not copied.
        next_command: the command that a user would run next with a trained model, without ``=DIRECTORY`` of its run at
            the end, such as ``sample.py run``.
    """

    networks: tuple[str, ...] = ()
    shardable = False
    requires_pixels = False
    round = 0
    on_gradients: Callable[[torch.optim.Optimizer, Tensor], None] | None = None
    next_command = "evaluate.py run"
    adaptation: Any = None
    average: Any = None
    given: frozenset[str] = frozenset()

    def __init__(
        self,
        optimizer: Callable[..., torch.optim.Optimizer],
        lr_scheduler: Callable[[torch.optim.Optimizer], Any],
        seed: int = 0,
        noise: ClipNoise = INDEPENDENT,
    ) -> None:
        super().__init__()
        self.make_optimizer, self.make_lr_scheduler, self.seed = optimizer, lr_scheduler, seed
        self.batch_noise = BatchNoise(seed, noise)
        self._held_out: dict[str, Tensor] = {}  # sums and numbers of what this validation has logged

    def trained_parameters(self) -> list[torch.nn.Parameter]:
        """Return the parameters that the optimizer changes: those that require a gradient."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.trained_parameters())
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make_lr_scheduler(optimizer), "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients by value or by norm, as the trainer is set; each optimizer of several by its own norm.

        It replaces Lightning's clipping, which refuses fused optimizers under any mixed precision. Only the scaled
        gradients of float16 cannot be clipped with them, since fused optimizers unscale gradients themselves; with
        float16 Lightning's clipping is used.

        Args:
            optimizer: the optimizer, whose parameters' gradients are clipped.
            gradient_clip_val: the largest norm or absolute value; None or 0: nothing is clipped.
            gradient_clip_algorithm: ``value``, or ``norm``, the default.
        """
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            parts = parameters_by_optimizer(optimizer)
            if gradient_clip_algorithm == "value":
                self._report_gradients(optimizer)
                for part in parts:
                    torch.nn.utils.clip_grad_value_(part, gradient_clip_val)
            else:
                norms = [whole(torch.nn.utils.clip_grad_norm_(part, gradient_clip_val)) for part in parts]
                self._report_gradients(optimizer, norms)
        else:
            self._report_gradients(optimizer)

    def _report_gradients(self, optimizer: torch.optim.Optimizer, norms: list[Tensor] | None = None) -> None:
        """Call ``on_gradients``, if it is set, with the norms of the gradients; they are computed if none are given."""
        if self.on_gradients is None:
            return
        if norms is None:
            parts = parameters_by_optimizer(optimizer)
            gradients = [[weight.grad for weight in part if weight.grad is not None] for part in parts]
            norms = [whole(torch.nn.utils.get_total_norm(part)) for part in gradients]
        self.on_gradients(optimizer, torch.stack(norms))

    def saved_weights(self) -> dict[str, Tensor]:
        """Return the weights that checkpoints have: the state dict without those that are ``given``."""
        return {name: weight for name, weight in self.state_dict().items() if name not in self.given}

    def with_given(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of a checkpoint with those that are ``given`` added, as the model has them.

        Args:
            weights: what a checkpoint has, see :meth:`saved_weights`.
        """
        own = self.state_dict()
        return {**{name: own[name] for name in self.given}, **weights}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: weight for name, weight in weights.items() if name not in self.given}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = self.with_given(checkpoint["state_dict"])

    def round_at(self, step: int) -> int:
        """Return the index of the round to which optimizer step ``step`` = 0, 1, ... belongs; by default 0 for all.

        Each round starts from the averaged weights of the one before.
        """
        return 0

    def begin_round(self, number: int) -> None:
        """Begin a round, with the averaged weights in place; called for all rounds but the first.

        By default nothing is done but to count it in ``round``.

        Args:
            number: the index of the round.
        """
        self.round = number

    def progress_notes(self) -> list[str]:
        """Return what the progress of training shows beside steps and loss, such as the present round."""
        return []

    def log_is_due(self) -> bool:
        """Return whether training metrics are logged at this optimizer step, a multiple of ``log_every_n_steps``."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return self.global_step % every == 0

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.seed_dropout(self.global_step, batch_idx % self.trainer.accumulate_grad_batches, self.global_rank)

    def seed_dropout(self, step: int, accumulated: int = 0, rank: int = 0) -> None:
        """Seed torch's generators for a training batch, which dropout inside networks draws from.

        So a resumed run draws what the uninterrupted one would have drawn.

        Args:
            step: the optimizer steps that were taken before.
            accumulated: the batches of the step before this one.
            rank: the number of the process.
        """
        keys = (self.seed, step, accumulated, rank)
        seed = functools.reduce(lambda mixed, key: (mixed * 1_000_003 + key) % 2**63, keys)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would queue a stack trace for absent devices
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    @abstractmethod
    def training_metrics(self) -> dict[str, Tensor]:
        """Return the numbers to log of training, scalars by name, such as ``train/loss``; subclasses define them."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        stepped = (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0
        if stepped and self.log_is_due():
            with phase(LOGGING):
                self.log_dict(self.training_metrics(), sync_dist=True)
                self.log("step", float(self.global_step))  # the steps taken; Lightning's count is one behind here

    def log_mean(self, name: str, values: Tensor) -> None:
        """Log the mean over a whole validation, on all devices, of one number for each held-out sample.

        It is called with each batch, and the means are logged at the end of the validation. They are means of sums over
        all processes: those that Lightning reduces round the number of samples of a process down to a whole one.

        Args:
            name: the name in the log.
            values: the numbers of a batch, (B,).
        """
        part = torch.stack([values.detach().sum(), values.new_full((), len(values))])
        self._held_out[name] = self._held_out[name] + part if name in self._held_out else part

    def on_validation_epoch_start(self) -> None:
        self._held_out = {}

    def on_validation_epoch_end(self) -> None:
        if self._held_out:
            totals = summed(torch.stack(list(self._held_out.values())))
            self._log_validated(dict(zip(self._held_out, totals[:, 0] / totals[:, 1], strict=True)))
        self.log("step", float(self.global_step))

    def _log_validated(self, numbers: dict[str, Tensor]) -> None:
        """Log numbers of a validation that are the same in all processes."""
        self.log_dict(numbers, sync_dist=True)  # Lightning warns without it

    @property
    def float_type(self) -> torch.dtype:
        """The floating-point type of the model's weights."""
        return next(self.parameters()).dtype

    @property
    def sample_type(self) -> torch.dtype:
        """The type of samples while they are drawn: that of the weights, and under :meth:`compute_in` at least float32.

        In bfloat16 each step of a sampler rounds the state by 0.4 %. A model that its user has converted by ``to`` is
        given samples in the type of its weights, which is all that its network takes.
        """
        return self.float_type if self.precision.weights is None else wide_type(self.float_type)

    def compute_in(self, precision: Precision) -> None:
        """Convert the weights to the type of a precision, if it has one, and let its parts compute in it from now on.

        Other models that it depends on, such as a lower stage or a teacher, are no parts of it.

        Args:
            precision: that of ``trainer.precision``.
        """
        for part in self.modules():
            if isinstance(part, Computed):
                part.precision = precision
        if precision.weights is not None:
            self.to(precision.weights)

    @contextmanager
    def computing_exactly(self) -> Iterator[None]:
        """Compute in float32, or in float64 if the weights have it, in the body of a ``with`` statement.

        Narrower weights are converted to float32, which is exact, and back at its end.
        """
        before, dtype = self.precision, self.float_type
        self.compute_in(Precision(wide_type(self.float_type)))
        try:
            with float32_products("highest"):
                yield
        finally:
            self.to(dtype)
            self.compute_in(before)


class SelfMeasured(ABC):
    """A model that is not measured by samples that it draws, but by its own :meth:`measure` on held-out data."""

    @abstractmethod
    def measure(self, data: ImageData, folder: Path, metrics: GenerationMetrics | None = None) -> dict[str, float]:
        """Return the metrics of the trained model on held-out data, by name.

        Subclasses define the metrics, and which files are written.

        Args:
            data: the dataset, whose held-out samples are used.
            folder: where pictures and tables are written.
            metrics: the metrics of images, for models that make images; None for none.
        """
