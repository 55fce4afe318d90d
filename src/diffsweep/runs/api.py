"""What ``import diffsweep`` gives: ``compose``, ``train`` and ``load``, under the same checks as the command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor

from diffsweep import shell
from diffsweep.conditioning import Conditioning
from diffsweep.configuration import compose as composing
from diffsweep.configuration.build import build, build_data
from diffsweep.configuration.loading import load_model
from diffsweep.configuration.preflight import preflight
from diffsweep.errors import UserError
from diffsweep.models import DiffusionModel, Model
from diffsweep.runs import training
from diffsweep.runs.stages import resolve_stages
from diffsweep.tasks.sampling import drawn_in_batches


class Trained(NamedTuple):
    """A finished training.

    Attributes:
        run: the run's directory.
        metric: the number that sweeps minimise: FID, or what else the run measures first.
    """

    run: Path
    metric: float


def compose(command: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Return the checked configuration of a command under overrides as on the command line.

    Args:
        command: ``train``, ``evaluate``, ``sample``, ``benchmark`` or ``verify``.
        overrides: such as ``["schedule=linear", "trainer.max_steps=500"]``.

    Raises:
        UserError: an option, key or value is wrong, or parts do not fit together; the message is one line and says what to use instead.
    """
    cfg = composing.compose(command, overrides)
    preflight(cfg)
    return cfg


def train(cfg: DictConfig) -> Trained:
    """Train, sample and measure a configuration of ``train``, which is checked again, since its values may have been changed.

    Raises:
        UserError: as :func:`compose`; or the run's directory is taken.
    """
    preflight(cfg)
    metric = training.train(cfg)
    return Trained(Path(cfg.paths.run_dir), metric)


def load(run: str | Path, overrides: Sequence[str] = ()) -> "Loaded":
    """Return a trained model with its averaged weights.

    Args:
        run: the directory of a run.
        overrides: other choices than the run's, as for ``sample.py``: ``["sampler=ddim", "sampler.steps=20"]``.

    Raises:
        UserError: there is no such run, or an override does not fit it.
    """
    cfg = compose("sample", [shell.override("run", str(run)), *overrides])
    resolve_stages(cfg, training.train)
    return Loaded(cfg, load_model(cfg))


class Loaded:
    """A trained model, ready to be used.

    Attributes:
        cfg: the configuration of the run, with other choices where some were made.
        model: the LightningModule, with averaged weights, in evaluation mode.
    """

    def __init__(self, cfg: DictConfig, model: Model) -> None:
        self.cfg, self.model = cfg, model

    def sample(self, num_samples: int, seed: int = 0, batch_size: int = 256, **conditions: Any) -> Tensor:
        """Return new samples, (N, C, H, W) or clips (N, C, F, H, W), in [-1, 1] on the CPU. Sample i of a seed has the same noise in any batch.

        Args:
            num_samples: N.
            seed: keys their noise.
            batch_size: how many are drawn at once.
            conditions: keys of ``conditioning``, such as ``labels=[3]`` or ``prompts=["a red circle"]``, each taken in turn.

        Raises:
            UserError: the model draws no samples, or its conditioning has no such key or value.
        """
        if not isinstance(self.model, DiffusionModel):
            raise UserError(
                f"{self.cfg.paths.run_dir} is a run of model={self.cfg.choices.model}, which draws no samples"
            )
        if num_samples < 1 or batch_size < 1:
            raise UserError(f"num_samples and batch_size must be at least 1, not {num_samples} and {batch_size}")
        model, indices = self.model, torch.arange(num_samples)
        request = self._conditioning(conditions).request(indices, build_data(self.cfg).split("val"))
        drawn = drawn_in_batches(model, num_samples, batch_size, lambda rows: model.start(indices[rows], seed), request)
        return drawn.x

    def _conditioning(self, conditions: dict[str, Any]) -> Conditioning:
        """Return the conditioning that makes the request, with other settings where they are given."""
        cfg = self.cfg.copy()
        cfg.conditioning = {**cfg.conditioning, **conditions}
        conditioning: Conditioning = build(cfg, "conditioning")
        return conditioning
