"""Capabilities: one vocabulary of what the parts of a run require of each other and provide to each other.

Classes declare them; the rules of a configuration and ``--help`` read them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Declared(NamedTuple):
    """The names of the capabilities that a part of a run, or its class, requires, supports and provides.

    They are keys of :data:`CAPABILITIES`; :class:`Part` states what the three sets mean.
    """

    requires: frozenset[str] = frozenset()
    supports: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()


class Part:
    """A part of a run, such as its sampler, that declares the capabilities by which it depends on other parts.

    Capabilities are names in :data:`CAPABILITIES`, such as ``grid``, the T steps of a discrete schedule. A class
    declares ``requires = frozenset({"grid"})`` as a literal, which ``--help`` reads from the source. Where the
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
    """Return the capabilities that a part or a class declares; empty sets for anything that is no :class:`Part`."""
    return Declared(*(getattr(part, field, frozenset()) for field in Declared._fields))


class Capability(NamedTuple):
    """A capability that one part of a run provides to others.

    Attributes:
        noun: the words for it in messages and in ``--help``, after "requires", "provides", "supports" and "accepts".
        givers: the configuration groups that can provide it; a message names the first one if none does.
        users: groups of which at least one must support the capability if it is provided; empty if none has to.
        choice: the override that messages suggest first to provide it; empty to suggest options that provide it alone.
        settings: by group, the override with which that group no longer requires or provides it.
    """

    noun: str
    givers: tuple[str, ...]
    users: tuple[str, ...] = ()
    choice: str = ""
    settings: Mapping[str, str] = {}


CAPABILITIES: dict[str, Capability] = {
    "clips": Capability("clips of several frames", ("dataset", "autoencoder"), users=("backbone", "model")),
    "aspect_ratios": Capability(
        "images of several aspect ratios",
        ("dataset",),
        users=("backbone",),
        settings={"dataset": "dataset.buckets=null"},
    ),
    "class_output": Capability("an output of class logits instead of an image", ("backbone",), users=("model",)),
    "equal_blocks": Capability(
        "a network of equal blocks, which one compilation serves",
        ("backbone",),
        settings={"execution": "execution=compiled"},
    ),
    "grid": Capability("the T steps of a discrete schedule", ("schedule",)),
    "rate": Capability(
        "the time derivative of the log-SNR, which continuous schedules have",
        ("schedule",),
        settings={"objective": "objective.weight=sigma2"},
    ),
    "learned_schedule": Capability(
        "a learned schedule, which collapses under any loss but a variational bound",
        ("schedule",),
        users=("objective",),
    ),
    "learned_variance": Capability(
        "a learned variance of the reverse steps",
        ("prediction",),
        users=("objective",),
        choice="prediction.variance=learned_range",
        settings={"prediction": "prediction.variance=fixed_small"},
    ),
    "eps_output": Capability("an output that is the noise eps", ("prediction",)),
    "weights": Capability("a loss weight for each noise level", ("weighting",), users=("objective",)),
    "bound": Capability("a loss that is a variational bound", ("objective",)),
    "uniform_times": Capability("training times that are uniform, or weighted as if they were", ("time_sampling",)),
    "independent_noise": Capability("noise that frames do not share", ("noise",)),
    "range": Capability(
        "a space of values in [-1, 1], as pixels and unlike latents",
        ("autoencoder",),
        choice="autoencoder=identity",
        settings={"sampler": "sampler.clip=none"},
    ),
    "condition": Capability("a condition to guide towards", ("conditioning",), choice="model=classifier_free"),
    "num_classes": Capability("class labels", ("conditioning",), choice="conditioning=class"),
    "new_words": Capability(
        "a text encoder that takes new words",
        ("conditioning",),
        choice="conditioning=text",
        settings={"concept": "concept=none"},
    ),
    "vector_dim": Capability("a feature vector", ("conditioning",)),
    "num_scalars": Capability("scalars", ("conditioning",)),
    "context_dim": Capability("a sequence of tokens", ("conditioning",)),
    "image_channels": Capability("an image beside x", ("conditioning",)),
    "null_condition": Capability(
        "a null condition that has been trained, to guide away from",
        ("conditioning",),
        choice="conditioning.dropout=0.1",
    ),
    "fixed_steps": Capability("steps at fixed times, which adaptive solvers do not have", ("sampler",)),
    "cached_features": Capability(
        "reuse of the network's deep features between steps",
        ("feature_cache",),
        users=("backbone",),
        settings={"feature_cache": "feature_cache=none"},
    ),
    "measurement": Capability("guidance that keeps samples consistent with a measurement", ("guidance",)),
    "lower_stage": Capability(
        "a lower stage of a cascade",
        ("cascade",),
        users=("model",),
        choice="cascade=noise",
        settings={"cascade": "cascade=none", "model": "model=ddpm"},
    ),
    "teacher": Capability(
        "a trained teacher",
        ("teacher",),
        users=("model",),
        choice="teacher=trained",
        settings={"teacher": "teacher=none", "model": "model=ddpm"},
    ),
    "guidance_scale": Capability(
        "a network that takes the guidance scale as an input",
        ("teacher",),
        users=("guidance",),
        choice="'teacher.scale=[1,4]'",
        settings={"teacher": "teacher.scale=null", "guidance": "guidance=classifier_free"},
    ),
    "built_in_guidance": Capability("a guidance scale that the student has built in", ("teacher",)),
    "base": Capability(
        "a trained model to start from, which is its reference",
        ("adaptation",),
        choice="train.py from=RUN",
        settings={"model": "model=ddpm"},
    ),
    "preferences": Capability(
        "a loss of compared samples",
        ("preference",),
        users=("model",),
        settings={"preference": "preference=none", "model": "model=ddpm"},
    ),
    "comparisons": Capability(
        "compared samples",
        ("comparisons",),
        users=("model",),
        settings={"comparisons": "comparisons=none", "model": "model=ddpm"},
    ),
    "scores": Capability(
        "a score of images",
        ("scorer",),
        users=("model",),
        settings={"scorer": "scorer=none", "comparisons": "comparisons=parquet"},
    ),
    "time_pairs": Capability(
        "neighbouring times at which a consistency function is compared with itself",
        ("discretisation",),
        users=("model",),
        choice="discretisation=doubling",
        settings={"discretisation": "discretisation=none", "model": "model=ddpm"},
    ),
    "consistency": Capability(
        "a consistency function, whose estimate of x_0 is a sample and no mean",
        ("model",),
        choice="model=consistency",
        settings={"sampler": "sampler=ddim"},
    ),
    "samples": Capability("generated or reconstructed samples", ("model",)),
    "likelihood": Capability("a diffusion model", ("model",)),
    "reconstructions": Capability("the training of an autoencoder", ("model", "stages"), choice="model=ldm"),
    "compared_images": Capability(
        "training that compares images, of an autoencoder or a consistency model",
        ("model", "stages"),
        choice="model=ldm",
    ),
    "control": Capability(
        "a control network beside it",
        ("adaptation",),
        users=("backbone",),
        choice="adaptation=controlnet",
        settings={"adaptation": "adaptation=lora"},
    ),
    "other_data": Capability("data that a model was not trained on", ("dataset",)),
}
