"""What tasks share: what they refuse before a model is loaded, and images that they start from."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from diffsweep.autoencoders import Autoencoder
from diffsweep.errors import UserError
from diffsweep.guidance import Guidance, guidances_of
from diffsweep.samplers import Sampler
from diffsweep.tasks.sampling import Drawn, Job
from diffsweep.tasks.sources import images_missing_because

SHOWN = 100  # of so many samples there is a picture
KEPT = "task.source, whose clips keep their frames"


class Task(ABC):
    """A use of a model. It draws samples, writes pictures into a folder and says in a line what was done.

    Attributes:
        length_key: what says how many frames the clips get, where ``num_frames`` does not.
    """

    length_key: str | None = None

    def incompatible_because(self, space: Autoencoder, sampler: Sampler, guidances: Sequence[Guidance]) -> str | None:
        """Return a sentence why the task cannot be done with a model, and what to use instead; None where it can be done.

        It is asked before the model is loaded, so it must not depend on weights.

        Args:
            space: where the model diffuses.
            sampler: that walks.
            guidances: of the walk, from the outermost in.
        """
        return None

    @abstractmethod
    def run(self, job: Job) -> tuple[Drawn, str]:
        """Return the samples, and a line about them; write pictures into the job's folder.

        Raises:
            UserError: something that only the model or the data can show is wrong.
        """

    def __call__(self, job: Job) -> tuple[Drawn, str]:
        """Do the task, where it can be done: see :meth:`run`.

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
