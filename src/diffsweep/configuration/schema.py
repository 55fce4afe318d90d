"""Define the keys and types of the root of each command's configuration; groups are checked by their classes."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from diffsweep.configuration.bare import (
    LISTED,
    TEXT,
    Bare,
    Compare,
    Dashboard,
    Doctor,
    EvaluateImages,
    Runs,
)
from diffsweep.configuration.sections import ConditionSection, Logger, Paths, Space

__all__ = ["FORMS", "LISTED", "SCHEMAS", "TEXT", "Bare", "Root"]


@dataclass
class Root:
    """The keys at the root of every command's configuration: configuration groups (``Any``), and settings outside them.

    Attributes:
        seed: keys all randomness.
        trust: packages besides diffsweep whose classes a ``_target_`` may name.
        choices: the option that is chosen in each group.
        sweep: the name of the sweep that the run belongs to; None if it is alone.
    """

    seed: int = MISSING
    trust: list[str] = field(default_factory=list)
    space: Space = field(default_factory=Space)
    condition: ConditionSection = field(default_factory=ConditionSection)
    paths: Paths = field(default_factory=Paths)
    logger: Logger = field(default_factory=Logger)
    trainer: Any = MISSING
    execution: Any = MISSING
    dataset: Any = MISSING
    perceptual: Any = MISSING
    discriminator: Any = MISSING
    autoencoder: Any = MISSING
    degradation: Any = MISSING
    conditioning: Any = MISSING
    cascade: Any = MISSING
    teacher: Any = MISSING
    discretisation: Any = MISSING
    preference: Any = MISSING
    comparisons: Any = MISSING
    scorer: Any = MISSING
    schedule: Any = MISSING
    noise: Any = MISSING
    prediction: Any = MISSING
    objective: Any = MISSING
    weighting: Any = MISSING
    time_sampling: Any = MISSING
    backbone: Any = MISSING
    guidance: Any = MISSING
    sampler: Any = MISSING
    feature_cache: Any = MISSING
    optimizer: Any = MISSING
    lr_scheduler: Any = MISSING
    metrics: Any = MISSING
    likelihood: Any = MISSING
    callbacks: Any = MISSING
    adaptation: Any = MISSING
    concept: Any = MISSING
    model: Any = MISSING
    choices: dict[str, Any] = field(default_factory=dict)  # the option chosen in each group; filled in
    sweep: str | None = None  # the sweep that the run belongs to; filled in


@dataclass
class Train(Root):
    """The root keys of ``train.py``'s configuration.

    Attributes:
        resume_from: the directory of a run that training goes on with; None to begin anew.
        replay: whether the training batch that failed is computed again, in place of a training.
        halve_batch: whether a training step without memory is tried again with batches of half the size.
        plan: whether the costs of the run are predicted in its place; a name of a file gets them too.
        verify: whether the checks of ``verify.py`` run first.
        optimized_metric: the number by which sweeps and searches compare runs; None for the first headline.
    """

    resume_from: str | None = None  # filled in by resume=
    replay: bool = False
    halve_batch: bool = True
    plan: bool | str = False
    verify: bool = False
    optimized_metric: str | None = None


@dataclass
class Import(Root):
    """The root keys of ``import.py``'s configuration.

    Attributes:
        weights: a file of published weights.
        form: the name of the form of its keys; None: found by the keys.
        output: a folder for the run; None for a new one.
        resume_from: None, as for a training that begins anew.
    """

    weights: str | None = None
    form: str | None = None
    output: str | None = None
    resume_from: str | None = None


@dataclass
class Evaluate(Root):
    """The root keys of ``evaluate.py``'s configuration.

    Attributes:
        checkpoint: which checkpoint of the run is used: ``last``, ``best`` or ``previous``.
        ema: the relative width of an average that is made of the run's snapshots; None for its moving average.
        adapters: updates of low rank that are added to its weights, each ``PATH`` or ``PATH:WEIGHT``.
        output: a folder for the results; None for a new one in the run.
        num_samples: how many samples are compared with data; None for the number of the metrics.
        optimized_metric: the number by which sweeps and searches compare runs; None for the first headline.
    """

    checkpoint: str = "last"
    ema: float | None = None
    adapters: list[str] = field(default_factory=list)
    output: str | None = None
    num_samples: int | None = None
    optimized_metric: str | None = None


@dataclass
class Sample(Root):
    """The root keys of ``sample.py``'s configuration.

    Attributes:
        checkpoint: which checkpoint of the run is used: ``last``, ``best`` or ``previous``.
        ema: the relative width of an average that is made of the run's snapshots; None for its moving average.
        adapters: updates of low rank that are added to its weights, each ``PATH`` or ``PATH:WEIGHT``.
        output: a folder for the results; None for a new one in the run.
        task: the group of what is done with the model, such as ``generate``.
        num_samples: how many samples are drawn.
        num_frames: frames of clips; None for as many as in training.
        batch_size: samples that are drawn at once, or ``auto``.
        pages: the most pictures of one kind; None for as many as show all samples.
    """

    checkpoint: str = "last"
    ema: float | None = None
    adapters: list[str] = field(default_factory=list)
    output: str | None = None
    task: Any = MISSING
    num_samples: int = 64
    num_frames: int | None = None
    batch_size: Any = 256
    pages: int | None = 100


@dataclass
class Export(Root):
    """The root keys of ``export.py``'s configuration.

    Attributes:
        checkpoint: which checkpoint of the run is used: ``last``, ``best`` or ``previous``.
        ema: the relative width of an average that is made of the run's snapshots; None for its moving average.
        adapters: updates of low rank that are added to its weights, each ``PATH`` or ``PATH:WEIGHT``.
        output: a new folder for the model; None for one in the run.
        format: the format, a name of ``diffsweep.interchange.formats.FORMATS``.
        weights: ``ema`` or ``raw``.
        push: a repository of the Hugging Face hub that the folder is uploaded to; None for none.
        private: whether a new repository is private.
    """

    checkpoint: str = "last"
    ema: float | None = None
    adapters: list[str] = field(default_factory=list)
    output: str | None = None
    format: str = "diffusers"
    weights: str = "ema"
    push: str | None = None
    private: bool = True


@dataclass
class Benchmark(Root):
    """The root keys of ``benchmark.py``'s configuration.

    Attributes:
        output: a folder for the results; None for a new one.
        suite: the group of sets of benchmarks, such as ``peers``.
        parts: the names of the benchmarks to run, such as ``training``.
        cases: by name, the options of several measurements, each with its own parts; empty for one of ``parts``.
        words: the overrides that were typed, which hold for all cases; filled in.
        repeats: pairs of measurements of each ratio.
        train_steps: training steps of one repeat.
        sample_batch: samples that are drawn at once.
        logged_steps: steps that are logged.
    """

    output: str | None = None
    suite: Any = None
    parts: list[str] = field(default_factory=list)
    cases: dict[str, list[str]] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    repeats: int = 15
    train_steps: int = 12
    sample_batch: int = 128
    logged_steps: int = 20_000


@dataclass
class Verify(Root):
    """The root keys of ``verify.py``'s configuration.

    Attributes:
        output: a folder for the certificate, the results of the checks; None for a new one.
        task: the task of ``sample.py`` that is proved too, such as ``inpaint``; None for none.
    """

    output: str | None = None
    task: Any = None


@dataclass
class Preview(Root):
    """The root keys of ``preview.py``'s configuration.

    Attributes:
        output: a folder for the pictures and numbers; None for a new one.
        num_samples: how many samples of each split statistics are computed of; None for all.
        num_shown: how many samples of the first training batch are shown.
        num_noised: how many of them are shown with noise.
        num_times: the number of times t from 0 to 1 at which they are.
        spacing: whether the times are equally spaced in ``t`` or in ``log_snr``.
        strict: whether parts that do not go together are refused, as in training, or reported.
    """

    output: str | None = None
    num_samples: int | None = 10_000
    num_shown: int = 64
    num_noised: int = 6
    num_times: int = 9
    spacing: str = "t"
    strict: bool = False


SCHEMAS = {
    "train": Train,
    "import": Import,
    "evaluate": Evaluate,
    "evaluate_images": EvaluateImages,
    "sample": Sample,
    "export": Export,
    "benchmark": Benchmark,
    "verify": Verify,
    "preview": Preview,
    "compare": Compare,
    "runs": Runs,
    "dashboard": Dashboard,
    "doctor": Doctor,
}
# The configuration that a command has instead if a key is typed: evaluate.py images=FOLDER has no run.
FORMS = {"evaluate": ("images", "evaluate_images")}
