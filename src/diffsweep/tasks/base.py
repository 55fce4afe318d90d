"""The base classes of tasks, which check that a task can be done before a model is loaded."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from diffsweep.autoencoders import Autoencoder
from diffsweep.errors import UserError
from diffsweep.guidance import Guidance, guidances_of
from diffsweep.samplers import Sampler
from diffsweep.tasks.sampling import Drawn, Job
from diffsweep.tasks.sources import images_missing_because

SHOWN = 100  # samples in a picture at most
KEPT = "task.source, whose clips keep their frames"


class Task(ABC):
    """A use of a model that draws samples, writes pictures into a folder and returns a line about them.

    Tasks differ in what sampling starts from (noise, images, clips), not in the sampler, so they are a group of
    ``sample.py`` alone.

    Attributes:
        length_key: for messages, the key that sets the number of frames of clips; None if ``num_frames`` sets it.
    """

    length_key: str | None = None

    def incompatible_because(self, space: Autoencoder, sampler: Sampler, guidances: Sequence[Guidance]) -> str | None:
        """Return a sentence why the task cannot be done with a model and what to use instead; None if it can.

        It is called before the model is loaded, so it must not depend on weights.

        Args:
            space: in which the model diffuses.
            sampler: of the task.
            guidances: of the sampler, from the outermost to the innermost.
        """
        return None

    @abstractmethod
    def run(self, job: Job) -> tuple[Drawn, str]:
        """Return the samples, and a line about them; write pictures into the job's folder.

        Raises:
            UserError: an option does not suit the model or the data, which only they show.
        """

    def __call__(self, job: Job) -> tuple[Drawn, str]:
        """Do the task if it can be done: see :meth:`run`.

        Raises:
            UserError: see :meth:`incompatible_because`.
        """
        model = job.model
        guidances = guidances_of(model.guided(model.sampler))
        if reason := self.incompatible_because(model.autoencoder, model.sampler, guidances):
            raise UserError(reason)
        return self.run(job)


class FromImages(Task):
    """A task that starts from images.

    Args:
        source: see :func:`~diffsweep.tasks.sources.load_images`.
    """

    length_key = KEPT

    def __init__(self, source: str = "data") -> None:
        self.source = source

    def incompatible_because(self, space: Autoencoder, sampler: Sampler, guidances: Sequence[Guidance]) -> str | None:
        return images_missing_because(self.source)
