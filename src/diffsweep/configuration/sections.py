"""Define the keys and types of parts that configurations of commands share: sizes, folders, loggers, searches."""

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class Space:
    """The sizes and values of x, the pixels or latents in which diffusion works.

    Attributes:
        channels: channels of x.
        image_size: side of x.
        num_frames: frames of clips; None for images.
        levels: the number of values that a number of x can take; None if it is continuous.
        out_channels: channels of the network's output, twice as many as of x with a learned variance.
        bounded: whether values lie in [-1, 1].
        clip: how samplers clip the predicted x_0.
        sigma_data: standard deviation of x_0.
    """

    channels: int = MISSING
    image_size: int = MISSING
    num_frames: int | None = None
    levels: int | None = None
    out_channels: int = MISSING
    bounded: bool = True
    clip: str = "static"
    sigma_data: float = 0.5


@dataclass
class ConditionSection:
    """The sizes of the parts of a condition, filled in from what the conditioning provides.

    A part that it does not provide has None, or 0 channels.

    Attributes:
        num_classes: number of classes.
        vector_dim: width of the feature vector of a sample.
        num_scalars: how many numbers a sample is conditioned on.
        context_dim: width of the tokens.
        image_channels: channels of the image that is concatenated with x.
    """

    num_classes: int | None = None
    vector_dim: int | None = None
    num_scalars: int | None = None
    context_dim: int | None = None
    image_channels: int = 0


@dataclass
class Paths:
    """The folders that a command writes into.

    Attributes:
        output_dir: the folder of all runs.
        run_dir: the folder of this run; None for a new one.
        cache_dir: decoded data, features and embeddings that runs share.
    """

    output_dir: str = MISSING
    run_dir: str | None = None
    cache_dir: str = MISSING


@dataclass
class Logger:
    """The settings of the loggers that metrics and pictures go to beside ``metrics.csv``: W&B and TensorBoard.

    Attributes:
        mode: of W&B: ``online``, ``offline`` or ``disabled``.
        project: the project on W&B.
        entity: the user or team on W&B; None for the default one.
        artifacts: whether checkpoints go to W&B when training has ended.
        tensorboard: whether a run writes files for TensorBoard.
    """

    mode: str = "disabled"
    project: str = "diffsweep"
    entity: str | None = None
    artifacts: bool = False
    tensorboard: bool = False


@dataclass
class OptunaSearch:
    """The keys of ``hydra.sweeper`` with ``hydra/sweeper=optuna``, a search by Optuna instead of every combination.

    Attributes:
        n_trials: jobs in all; with more than before, a search goes on.
        seed: keys what the search draws.
        params: the keys that an experiment sweeps, whose values the command line has taken over.
    """

    n_trials: int = 20
    seed: int = 0
    params: dict[str, str] | None = None
