r"""Models that learn from preferences, beside a frozen reference: the trained model that they start from.

At one time t and one noise :math:`\epsilon` for both samples of a pair, the model :math:`\theta` and the reference have
the losses :math:`L_\theta(w), L_\theta(l)` and :math:`L_{ref}(w), L_{ref}(l)` of the objective. A loss of preferences
(:mod:`diffsweep.diffusion.preference`), such as that of Diffusion-DPO (arXiv:2311.12908), compares these four.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffsweep.datasets import Batch
from diffsweep.diffusion import Compared, Condition, Denoiser, Noise, Preference, Stream, implicit_accuracy
from diffsweep.layers.distributed import only_first, summed
from diffsweep.models.borrowed import Borrowed
from diffsweep.models.comparisons import Comparisons
from diffsweep.models.diffusion import DiffusionModel
from diffsweep.models.distilled import VALIDATED
from diffsweep.models.scorers import Scorer
from diffsweep.models.timed import Losses


class AtOneTime(NamedTuple):
    """The losses of compared samples, those of a row at one time and with one noise.

    Attributes:
        compared: the losses of the model and of the reference, with what is known of the samples.
        t: the time of each row, (B,).
        weight: the importance weight of each time, (B,).
    """

    compared: Compared
    t: Tensor
    weight: Tensor


class PreferenceModel(DiffusionModel):
    """A diffusion model that learns from compared samples, such as pairs of a winner and a loser.

    A batch has ``compared`` (B, K, ...), samples in the space of diffusion, the winner first, with their ``score`` and
    ``desirable`` and the annotations that both were drawn under. The reference is the base of the model's
    ``adaptation``, the trained model that it has started from: it is frozen and in no checkpoint.

    Logged are the loss, and the implicit accuracy: the share of pairs of which the model prefers the winner more than
    the reference does, ``train/implicit_accuracy`` (if the loss uses the reference) and ``val/implicit_accuracy``. It
    is 1/2 at the beginning.

    Args:
        parts: the positional arguments of :class:`DiffusionModel`.
        preference: the loss of compared samples.
        comparisons: where they come from.
        scorer: a score of images, by which evaluation compares the model with the reference; None for none.
        num_duels: the number of prompts for which evaluation does.
        settings: the keyword arguments of :class:`DiffusionModel`.

    Raises:
        ValueError: a part is missing, the loss needs pairs and none are given, or ``num_duels`` is below 1.
    """

    requires = frozenset({"base", "preferences", "comparisons"})
    supports = frozenset({"preferences", "comparisons", "scores"})

    def __init__(
        self,
        *parts: Any,
        preference: Preference | None,
        comparisons: Comparisons | None,
        scorer: Scorer | None = None,
        num_duels: int = 500,
        **settings: Any,
    ) -> None:
        super().__init__(*parts, **settings)
        if preference is None or comparisons is None:
            raise ValueError(
                "model=preference needs a loss and compared samples; use preference=dpo and comparisons=scored"
            )
        if preference.requires_pairs and not comparisons.pairs:
            raise ValueError(
                "preference=dpo compares a winner and a loser, and comparisons.loser_column=null has single images; "
                "use preference=kto"
            )
        if num_duels < 1:
            raise ValueError(f"model.num_duels must be at least 1, not {num_duels}")
        self.preference, self.comparisons, self.scorer, self.num_duels = preference, comparisons, scorer, num_duels
        self.requires_pixels = True  # of the data nothing is stored: compared samples take their place
        self._preferred = torch.zeros(2)  # sum and number of implicit accuracies since the last log

    @property
    def reference(self) -> DiffusionModel:
        """Return the frozen reference, on the model's device."""
        if not isinstance(self.adaptation, Borrowed):
            raise ValueError("model=preference starts from a trained model, its reference; use train.py from=RUN")
        base = self.adaptation.on(self.device)
        assert isinstance(base, DiffusionModel)
        return base

    def compare(self, batch: Batch, noise: Noise, reference: bool) -> AtOneTime:
        """Return the losses of the compared samples of a batch at drawn times.

        Args:
            batch: compared samples.
            noise: the random numbers of the rows.
            reference: whether the losses of the reference are computed.
        """
        x = batch["compared"].to(self.float_type)
        count, each = x.shape[:2]
        row = torch.arange(count, device=x.device).repeat_interleave(each)
        t, weight = self.time_sampling(self.denoiser.schedule, noise.uniform(stream=Stream.TIME))
        eps = noise.like(x[:, 0], Stream.EPS)[row]

        def losses(denoiser: Denoiser, cond: Condition | None) -> Tensor:
            of_rows = None if cond is None else cond[row]
            found = self.objective(denoiser, x.flatten(0, 1), of_rows, t[row], eps, noise[row])
            return found.view(count, each)

        own = losses(self.denoiser, self.condition(batch, noise))
        theirs = None
        if reference:
            with torch.no_grad():
                theirs = losses(self.reference.denoiser, self.reference_condition(batch, noise))
        return AtOneTime(Compared(own, theirs, batch["score"].to(own), batch["desirable"].to(own.device)), t, weight)

    def reference_condition(self, batch: Batch, noise: Noise) -> Condition | None:
        """Return the condition of a batch that the reference takes, dropped in the same rows as the model's own.

        Args:
            batch: compared samples with their annotations.
            noise: the random numbers of the rows.
        """
        base = self.reference
        cond, rows = base.condition(batch), self.conditioning.dropped(noise)
        return cond if cond is None or rows is None else base.conditioning.without(cond, rows)

    def losses(self, batch: dict[str, Tensor]) -> Losses:
        noise = self.batch_noise(batch["position"])
        compared, t, weight = self.compare(batch, noise, self.preference.uses_reference)
        losses = self.preference(compared)
        self.update_time_sampling(self.denoiser.schedule, t, losses)
        if compared.reference is not None and self.comparisons.pairs:
            right = implicit_accuracy(compared).detach()
            self._preferred += torch.stack([right.sum(), torch.full_like(right.sum(), len(right))])
        return Losses(losses, t, weight)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the loss of held-out comparisons, ``val/loss``, and of pairs ``val/implicit_accuracy``, with fixed noise.

        Both are logged by quarter of t too.
        """
        for repeat in range(self.val_repeats):
            noise = Noise(VALIDATED, batch["index"] * self.val_repeats + repeat, clips=self.denoiser.noise)
            compared, t, weight = self.compare(batch, noise, reference=True)
            more = {"implicit_accuracy": implicit_accuracy(compared)} if self.comparisons.pairs else {}
            self.log_validation(weight * self.preference(compared), t, **more)

    def on_train_start(self) -> None:
        super().on_train_start()
        self._preferred = self._preferred.to(self.device)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx % self.trainer.accumulate_grad_batches == 0 and self.log_is_due():
            self._preferred.zero_()
        super().on_train_batch_start(batch, batch_idx)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["preferred"] = summed(self._preferred)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._preferred = only_first(checkpoint["preferred"])

    def training_metrics(self) -> dict[str, Tensor]:
        total, count = summed(self._preferred)
        accuracy = {"train/implicit_accuracy": total / count} if float(count) else {}
        return {**super().training_metrics(), **accuracy}
