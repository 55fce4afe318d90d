"""Define the keys and types of the root of each command's configuration; groups are checked by their classes."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class Space:
    """The space that diffusion works in."""

    channels: int = MISSING
    image_size: int = MISSING
    num_frames: int | None = None
    levels: int | None = None
    out_channels: int = MISSING
    bounded: bool = True
    clip: str = "static"
    sigma_data: float = 0.5


@dataclass
class ConditionSizes:
    """The sizes of the condition, filled in from what the conditioning provides."""

    num_classes: int | None = None
    vector_dim: int | None = None
    num_scalars: int | None = None
    context_dim: int | None = None
    image_channels: int = 0


@dataclass
class Paths:
    """The folders of outputs, of the run and of caches."""

    output_dir: str = MISSING
    run_dir: str = MISSING
    cache_dir: str = MISSING


@dataclass
class Logger:
    """Where metrics are logged."""

    mode: str = MISSING
    project: str = "diffsweep"
    entity: str | None = None


@dataclass
class Root:
    """The keys that every command has."""

    seed: int = MISSING
    trust: list[str] = field(default_factory=list)
    space: Space = field(default_factory=Space)
    condition: ConditionSizes = field(default_factory=ConditionSizes)
    paths: Paths = field(default_factory=Paths)
    logger: Logger = field(default_factory=Logger)
    trainer: Any = MISSING
    dataset: Any = MISSING
    perceptual: Any = MISSING
    discriminator: Any = MISSING
    autoencoder: Any = MISSING
    conditioning: Any = MISSING
    schedule: Any = MISSING
    noise: Any = MISSING
    prediction: Any = MISSING
    objective: Any = MISSING
    weighting: Any = MISSING
    time_sampling: Any = MISSING
    backbone: Any = MISSING
    guidance: Any = MISSING
    sampler: Any = MISSING
    optimizer: Any = MISSING
    lr_scheduler: Any = MISSING
    metrics: Any = MISSING
    likelihood: Any = MISSING
    callbacks: Any = MISSING
    model: Any = MISSING
    choices: dict[str, Any] = field(default_factory=dict)  # the option chosen in each group; filled in
    sweep: str | None = None  # the sweep that the run belongs to; filled in


@dataclass
class Train(Root):
    """The keys of train.py."""

    resume_from: str | None = None  # filled in by resume=
    verify: bool = False


@dataclass
class Evaluate(Root):
    """The keys of evaluate.py."""

    output: str | None = None
    num_samples: int | None = None


@dataclass
class Sample(Root):
    """The keys of sample.py."""

    output: str | None = None
    task: Any = MISSING
    num_samples: int = 64
    num_frames: int | None = None
    batch_size: int = 256


@dataclass
class Benchmark(Root):
    """The keys of benchmark.py."""

    output: str | None = None
    parts: list[str] = field(default_factory=list)
    repeats: int = 15
    train_steps: int = 12
    sample_batch: int = 128


@dataclass
class Verify(Root):
    """The keys of verify.py."""

    output: str | None = None


SCHEMAS = {"train": Train, "evaluate": Evaluate, "sample": Sample, "benchmark": Benchmark, "verify": Verify}
