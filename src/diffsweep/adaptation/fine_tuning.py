"""Fine-tuning: a model goes on training from the weights of another run, all of them or some."""

from diffsweep.adaptation.base import Adaptation
from diffsweep.models import Model


class FineTuning(Adaptation):
    """An adaptation without a change of the model: its weights train on from those of the base, all or some of them.

    Args: those of :class:`Adaptation`.
    """

    def change(self, model: Model) -> None:
        """Leave the model as it is."""
