"""The base classes of tasks, which check that a task can be done before a model is loaded."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from diffsweep.autoencoders import Autoencoder
from diffsweep.errors import UserError
from diffsweep.guidance import Guidance, guidances_of
from diffsweep.models import ModelParts
from diffsweep.samplers import Sampler
from diffsweep.tasks.drawing import Drawn
from diffsweep.tasks.sampling import Job
from diffsweep.tasks.sources import images_missing_because

KEPT = "task.source, whose clips keep their frames"


class Task(ABC):
    """A use of a trained model by ``sample.py``: it draws samples, writes pictures of them and sums them up in a line.

    A subclass defines :meth:`run`. Tasks differ in what sampling starts from (noise, images, clips), not in the
    sampler, so only ``sample.py`` has the configuration group ``task`` (the folder ``conf/task/``).

    Attributes:
        length_key: the configuration key that sets the number of frames of clips, in words for a message that refuses
            ``num_frames``; None if the task uses ``num_frames``.
        reuses_features: whether its samples are drawn with the model's ``feature_cache``.
    """

    length_key: str | None = None
    reuses_features: bool = True

    def incompatible_because(self, space: Autoencoder, sampler: Sampler, guidances: Sequence[Guidance]) -> str | None:
        """Return a sentence why the task cannot be done with a model and what to use instead; None if it can.

        Subclasses override it; by default a task can always be done. It is called before the model is loaded, so it
        must not depend on weights.

        Args:
            space: the autoencoder whose space the model diffuses in (that of pixels has an autoencoder too).
            sampler: the sampler that the task would use.
            guidances: the guidances around the model's denoiser, from the outermost to the innermost; empty for none.
        """
        return None

    def unsuited_because(self, parts: ModelParts) -> str | None:
        """Return a sentence why the task cannot be done with the parts of a model, and what to use; None if it can.

        It is called together with :meth:`incompatible_because`, which knows of space, sampler and guidance alone.
        Subclasses override it; by default a task can always be done.

        Args:
            parts: the model's network, conditioning and others, whose weights may not be loaded.
        """
        return None

    @abstractmethod
    def run(self, job: Job) -> tuple[Drawn, str]:
        """Draw the samples, write the task's pictures of them into ``job.folder``, and return them with a line of text.

        Subclasses define it; their docstrings name the pictures.

        Args:
            job: the model, its data, the folder, and the number of samples to draw.

        Returns:
            The samples, and a text that ``sample.py`` prints, such as ``64 samples``.

        Raises:
            UserError: an option of the task does not suit the model or the data, as was not visible before they were
                loaded.
        """

    def __call__(self, job: Job) -> tuple[Drawn, str]:
        """Do the task and return the result of :meth:`run`.

        Raises:
            UserError: the task cannot be done with the model: see :meth:`incompatible_because` and
                :meth:`unsuited_because`; or as in :meth:`run`.
        """
        model = job.model
        guidances = guidances_of(model.guided(model.sampler))
        reason = self.incompatible_because(model.autoencoder, model.sampler, guidances)
        backbone = getattr(model.denoiser, "backbone", model.denoiser)
        parts = ModelParts(backbone, model.conditioning, guidances, job.data, getattr(model, "cascade", None))
        if reason := reason or self.unsuited_because(parts):
            raise UserError(reason)
        return self.run(job)


class FromImages(Task):
    """A task of ``sample.py`` that starts from images, and is refused where ``source`` has none.

    Args:
        source: where the images come from: ``data`` for held-out data of the model, or a path: see
            :func:`~diffsweep.tasks.sources.load_images`.
    """

    length_key = KEPT

    def __init__(self, source: str = "data") -> None:
        self.source = source

    def incompatible_because(self, space: Autoencoder, sampler: Sampler, guidances: Sequence[Guidance]) -> str | None:
        return images_missing_because(self.source)

    def unsuited_because(self, parts: ModelParts) -> str | None:
        return drawn_below_because(parts)


def drawn_below_because(parts: ModelParts) -> str | None:
    """Return a sentence why a task that starts from images or noises cannot be done with a cascade; None for others."""
    if parts.cascade is None:
        return None
    return (
        "the last stage of a cascade is conditioned on what its lower stage draws, not on what the task starts from; "
        "use a run without a lower stage, such as that of cascade.base, or of model=super_resolution"
    )
