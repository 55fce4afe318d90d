"""Capabilities: one vocabulary of what the parts of a run require of each other and provide to each other.

Classes declare them; the rules of a configuration and ``--help`` read them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Declared(NamedTuple):
    """The declarations of a part, or of its class: see :class:`Part`."""

    requires: frozenset[str] = frozenset()
    supports: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()


class Part:
    """A part of a run that declares what it requires, supports and provides: names of :data:`CAPABILITIES`.

    A class declares ``requires = frozenset({"grid"})`` as a literal, which ``--help`` reads from the source. Where the
    declaration depends on a setting, the constructor replaces it, or it is a property. The declaration of a class
    replaces that of its base class; it does not extend it.

    Attributes:
        requires: capabilities that some other part of the run must provide.
        supports: capabilities of other parts that this part can use.
        provides: capabilities that this part offers to the others.
    """

    requires: frozenset[str] = frozenset()
    supports: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()


def declared_by(part: Any) -> Declared:
    """Return the declarations of a part or of its class; empty ones for anything that is no :class:`Part`."""
    return Declared(*(getattr(part, field, frozenset()) for field in Declared._fields))


class Capability(NamedTuple):
    """A capability that one part of a run provides to others.

    Attributes:
        noun: the words for it in a sentence, after "needs" and "brings".
        givers: the configuration groups that can provide it; a message names the first one if none does.
        users: groups of which at least one must support the capability if it is provided; empty if none has to.
        choice: the override that provides it, if no option's class provides it by itself.
        settings: by group, the override with which that group no longer requires or provides it.
    """

    noun: str
    givers: tuple[str, ...]
    users: tuple[str, ...] = ()
    choice: str = ""
    settings: Mapping[str, str] = {}


CAPABILITIES: dict[str, Capability] = {
    "clips": Capability("clips of several frames", ("dataset", "autoencoder"), users=("backbone", "model")),
    "class_output": Capability("a network that puts out classes instead of images", ("backbone",), users=("model",)),
    "grid": Capability("the T steps of a discrete schedule", ("schedule",)),
    "rate": Capability(
        "the rate of the log-SNR of a continuous schedule",
        ("schedule",),
        settings={"objective": "objective.weight=sigma2"},
    ),
    "learned_schedule": Capability(
        "a schedule to train, which any loss but a bound would make collapse", ("schedule",), users=("objective",)
    ),
    "learned_variance": Capability(
        "a variance to train",
        ("prediction",),
        users=("objective",),
        choice="prediction.variance=learned_range",
        settings={"prediction": "prediction.variance=fixed_small"},
    ),
    "eps_output": Capability("an output that is the noise eps", ("prediction",)),
    "weights": Capability("weights of noise levels", ("weighting",), users=("objective",)),
    "bound": Capability("a loss that is a variational bound", ("objective",)),
    "uniform_times": Capability("times that are uniform, or weighted as if they were", ("time_sampling",)),
    "independent_noise": Capability("noise that frames do not share", ("noise",)),
    "range": Capability(
        "a space of values in [-1, 1], which latents are not",
        ("autoencoder",),
        choice="autoencoder=identity",
        settings={"sampler": "sampler.clip=none"},
    ),
    "condition": Capability("a condition to guide towards", ("conditioning",), choice="model=classifier_free"),
    "num_classes": Capability("the classes of the samples", ("conditioning",), choice="conditioning=class"),
    "vector_dim": Capability("features of the whole", ("conditioning",)),
    "num_scalars": Capability("numbers", ("conditioning",)),
    "context_dim": Capability("tokens", ("conditioning",)),
    "image_channels": Capability("an image", ("conditioning",)),
    "null_condition": Capability(
        "a null condition that has been trained, to guide away from",
        ("conditioning",),
        choice="conditioning.dropout=0.1",
    ),
    "measurement": Capability("guidance that keeps samples consistent with a measurement", ("guidance",)),
    "samples": Capability("a model that makes images", ("model",)),
    "likelihood": Capability("a diffusion model", ("model",)),
    "reconstructions": Capability("an autoencoder that is trained", ("model", "stages"), choice="model=ldm"),
    "other_data": Capability("data that it was not trained on", ("dataset",)),
}
