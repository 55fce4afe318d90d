"""Draws samples from a model, with a progress bar."""

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from diffsweep import pictures
from diffsweep.diffusion import Denoised
from diffsweep.files import write_atomically
from diffsweep.models import DiffusionModel
from diffsweep.runs import report
from diffsweep.runs.errors import UserError
from diffsweep.runs.loading import load_model


class Drawn(NamedTuple):
    """Samples (N, C, H, W) in [-1, 1] on the CPU, and the seconds that they took."""

    x: Tensor
    seconds: float


def draw(model: DiffusionModel, num_samples: int, seed: int, batch_size: int) -> Drawn:
    """``num_samples`` samples, in batches; sample i has the same noise whatever the batch size."""
    training = model.training
    model.eval()
    indices = torch.arange(num_samples).split(batch_size)
    begin = time.perf_counter()
    parts = []
    with tqdm(total=len(indices) * model.sampler.steps, desc="sampling", unit="step", dynamic_ncols=True) as bar:

        def advance(step: int, t: Tensor, denoised: Denoised, x: Tensor) -> None:
            bar.update()

        for batch in indices:
            parts.append(model.sample(batch, seed, callback=advance).cpu())
    model.train(training)
    return Drawn(torch.cat(parts), time.perf_counter() - begin)


def trajectory(model: DiffusionModel, path: Path, seed: int, num_samples: int = 16, frames: int = 40) -> None:
    """A GIF of the walk: x_t on the left, the predicted x_0 on the right, of the first samples."""
    kept: list[Tensor] = []
    every = max(1, model.sampler.steps // frames)

    def keep(step: int, t: Tensor, denoised: Denoised, x: Tensor) -> None:
        if step % every == 0 or step == model.sampler.steps - 1:
            kept.append(torch.stack([model.autoencoder.decode(part).cpu() for part in (x, denoised.x0)]))

    training = model.training
    model.eval()
    model.sample(torch.arange(num_samples), seed, callback=keep)
    model.train(training)
    side = [pictures.beside(pictures.grid(x_t.clamp(-2, 2) / 2), pictures.grid(x_0)) for x_t, x_0 in kept]
    pictures.save_gif(side, path)


def sample(cfg: DictConfig) -> Path:
    """The command ``sample.py``: writes samples.npz, grid.png and trajectory.gif; returns their folder."""
    if cfg.num_samples < 1 or cfg.batch_size < 1:
        raise UserError(f"num_samples and batch_size must be at least 1, not {cfg.num_samples} and {cfg.batch_size}")
    folder = Path(cfg.output)
    model = load_model(cfg)
    drawn = draw(model, cfg.num_samples, cfg.seed, cfg.batch_size)
    write_atomically(folder / "samples.npz", lambda file: np.savez(file, arr_0=pictures.to_uint8(drawn.x)))
    pictures.save_png(pictures.grid(drawn.x[:100]), folder / "grid.png")
    trajectory(model, folder / "trajectory.gif", cfg.seed, num_samples=min(16, cfg.num_samples))
    rate = len(drawn.x) / drawn.seconds
    print(f"\n{len(drawn.x)} samples by {cfg.choices.sampler} in {model.sampler.steps} steps, {rate:.0f} images/s")
    for name in ("samples.npz", "grid.png", "trajectory.gif"):
        print(f"  {report.shown(folder / name)}")
    return folder
