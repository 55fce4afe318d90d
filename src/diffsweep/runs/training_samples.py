"""What the loaders yield in place of the data: latents, pairs of a teacher, compared samples, or a new concept."""

from omegaconf import DictConfig

from diffsweep.datasets import ImageData
from diffsweep.models import Model
from diffsweep.runs.comparisons import keep_comparisons
from diffsweep.runs.concepts import keep_concept
from diffsweep.runs.latents import keep_latents
from diffsweep.runs.pairs import keep_pairs


def keep_samples(cfg: DictConfig, model: Model, data: ImageData) -> None:
    """Let the data loaders yield what the model is trained on, if that is not the data; it is made and kept once.

    Args:
        cfg: the run's configuration.
        model: the model.
        data: the dataset, whose samples are replaced.

    Raises:
        UserError: what is kept cannot be made or read.
    """
    for keep in (keep_latents, keep_pairs, keep_comparisons, keep_concept):
        keep(cfg, model, data)
