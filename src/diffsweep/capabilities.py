"""What the parts of a run ask of each other and give each other, in one vocabulary. Classes declare it; rules and ``--help`` read it."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Declared(NamedTuple):
    """What a part, or its class, declares: see :class:`Part`."""

    requires: frozenset[str] = frozenset()
    supports: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()


class Part:
    """A part of a run that declares what it requires, supports and provides: names of :data:`CAPABILITIES`.

    On a class it is written ``requires = frozenset({"grid"})``, a literal, which ``--help`` reads from the source. Where it depends on
    a setting, the constructor replaces it, or it is a property. Each class has its own: nothing is added to that of a base.

    Attributes:
        requires: what some other part of the run must provide.
        supports: what it can make use of, of that which others provide.
        provides: what it gives to the others.
    """

    requires: frozenset[str] = frozenset()
    supports: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()


def declared_by(part: Any) -> Declared:
    """Return what a part, or its class, declares; of what is no :class:`Part`, nothing."""
    return Declared(*(getattr(part, field, frozenset()) for field in Declared._fields))


class Capability(NamedTuple):
    """Something that one part of a run provides to others.

    Attributes:
        noun: what it is, to follow "needs" and "brings" in a sentence.
        givers: the groups that can provide it; the first one is named where none does.
        users: groups of which one has to support it wherever it is provided; none where nobody has to.
        choice: what a user can type to have it, where no option's class provides it by itself.
        settings: what a user can type so that a group neither requires nor provides it, where that is a setting.
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
    "condition": Capability("a condition to lead to", ("conditioning",), choice="model=classifier_free"),
    "num_classes": Capability("the classes of the samples", ("conditioning",), choice="conditioning=class"),
    "vector_dim": Capability("features of the whole", ("conditioning",)),
    "num_scalars": Capability("numbers", ("conditioning",)),
    "context_dim": Capability("tokens", ("conditioning",)),
    "image_channels": Capability("an image", ("conditioning",)),
    "null_condition": Capability(
        "a null condition that has been trained, to lead away from",
        ("conditioning",),
        choice="conditioning.dropout=0.1",
    ),
    "measurement": Capability("guidance that holds what is known of samples", ("guidance",)),
    "samples": Capability("a model that makes images", ("model",)),
    "likelihood": Capability("a diffusion model", ("model",)),
    "reconstructions": Capability("an autoencoder that is trained", ("model", "stages"), choice="model=ldm"),
    "other_data": Capability("data that it was not trained on", ("dataset",)),
}
