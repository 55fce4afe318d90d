"""The task ``generate``: new samples from noise."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffsweep.autoencoders import Autoencoder
from diffsweep.diffusion import Noise
from diffsweep.guidance import Guidance
from diffsweep.samplers import Sampler
from diffsweep.tasks.base import Task
from diffsweep.tasks.drawing import Drawn
from diffsweep.tasks.sampling import Job, trajectory
from diffsweep.tasks.showing import sampling_of, show_controlled, show_grid, show_restored


class Generate(Task):
    """A task that draws new samples from noise.

    ``grid.png`` shows them below their classes or captions; more than 100 have several pages, ``grid_1.png`` and so on
    (for clips ``grid.gif``, and ``.mp4`` if PyAV is installed). ``trajectory.gif`` shows how the first 16 form from
    t = 1 to 0. ``restored.png``, of a model that restores degraded images, has what it reads, its samples, the original
    images and the difference in rows. ``controlled.png``, of a model with control networks, has their images and the
    samples in rows.

    Args:
        seeds: the seeds of the samples: one sample of each, the one that ``num_samples=1`` gives for this seed. None:
            ``num_samples`` samples of the one seed of the command.

    Raises:
        ValueError: the list of seeds is empty.
    """

    def __init__(self, seeds: list[int] | None = None) -> None:
        if seeds is not None and not seeds:
            raise ValueError("task.seeds is empty; give seeds, such as task.seeds=[3,17], or null")
        self.seeds = seeds

    def incompatible_because(self, space: Autoencoder, sampler: Sampler, guidances: Sequence[Guidance]) -> str | None:
        if sampler.start < 1:
            return f"sampler.start={sampler.start:g} starts from noised images; use task=edit, or sampler.start=1"
        return None

    def run(self, job: Job) -> tuple[Drawn, str]:
        seeds = None if self.seeds is None else torch.tensor(self.seeds)
        indices = torch.arange(job.num_samples) if seeds is None else torch.zeros_like(seeds)

        def seed_of(rows: slice | Tensor) -> int | Tensor:
            return job.seed if seeds is None else seeds[rows]

        def start(rows: Tensor) -> tuple[Tensor, Noise]:
            return job.model.start(indices[rows], seed_of(rows))

        drawn = job.draw(len(indices), start, job.request(indices))
        labels = job.model.conditioning.described(drawn.request)
        if self.seeds is not None:
            words = labels or [""] * len(drawn.x)
            labels = [f"{label} seed {seed}".strip() for label, seed in zip(words, self.seeds, strict=True)]
        shown = show_grid(job, drawn.x, labels, "grid", f"samples {sampling_of(job.model)}")
        if "clean" in drawn.request:
            show_restored(job, drawn)
        if "control" in drawn.request:
            show_controlled(job, drawn)
        trajectory(job.model, job.data, job.folder / "trajectory.gif", seed_of(slice(16)), indices[:16])
        return drawn, f"{len(drawn.x)} samples{shown}"
