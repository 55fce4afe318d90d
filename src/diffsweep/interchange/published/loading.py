"""Find the form of a file of published weights by its keys, and load it into the network of a model."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from diffsweep.errors import UserError
from diffsweep.interchange.published.base import Form, Tensors, names_of, tensors_of
from diffsweep.interchange.published.guided import ConsistencyUNet, GuidedClassifier, GuidedUNet, NewGuidedUNet
from diffsweep.interchange.published.latent import ClassTokens, LatentAutoencoder, LatentUNet
from diffsweep.interchange.published.preconditioned import EDMDhariwal, EDMSong, ScoreSDE
from diffsweep.interchange.published.transformers import PublishedDiT, PublishedUViT

FORMS: tuple[Form, ...] = (
    GuidedUNet(),
    NewGuidedUNet(),
    ConsistencyUNet(),
    GuidedClassifier(),
    LatentUNet(),
    LatentAutoencoder(),
    ClassTokens(),
    PublishedDiT(),
    PublishedUViT(),
    EDMSong(),
    EDMDhariwal(),
    ScoreSDE(),
)


@dataclass(frozen=True)
class LoadedWeights:
    """What was loaded.

    Attributes:
        form: the form of the file.
        network: the network that has its weights now.
        tensors: the number of tensors in the network that come from the file.
        initial: the names of parameters that are not in the file, and keep their initial values.
    """

    form: Form
    network: nn.Module
    tensors: int
    initial: list[str]


def load(content: Any, model: nn.Module, file: str, name: str | None = None) -> LoadedWeights:
    """Load the content of a file of published weights into the network of a model that it is for.

    Args:
        content: what :func:`~diffsweep.interchange.published.files.read` returns.
        model: a model that has the network, such as a LightningModule, or the network itself.
        file: the name of the file, for messages.
        name: the name of the form; None: it is found by the keys.

    Raises:
        UserError: no form fits the keys, several forms do and are other weights, or the keys or shapes are not those of
            the network.
    """
    forms = [form for form in FORMS if name is None or form.name == name]
    if not forms:
        raise UserError(f"form={name} does not exist; use {names_of(FORMS)}")
    found = [(form, weights) for form in forms if (weights := form.weights_of(content)) and form.matches(weights)]
    if not found:
        raise UserError(f"{file} has none of the forms {', '.join(form.name for form in forms)}: {_described(content)}")
    every = [(form, weights, network) for form, weights in found if (network := _network_for(form, model))]
    usable = [part for part in every if not part[0].beside]
    if not usable:
        needed = " or ".join(sorted({kind.__name__ for form, _ in found for kind in form.networks if not form.beside}))
        raise UserError(f"{file} has the form {found[0][0].name}, which is for the network {needed}; choose it")
    form, weights, network = usable[0]
    if len(usable) > 1 and form.is_uncertain(network):
        raise UserError(f"{file} has keys that several codes use for other weights; type which: "
                        f"{names_of(other for other, *_ in usable)}")  # fmt: skip
    loaded = _loaded(form, weights, network, file)
    for beside in [part for part in every if part[0].beside]:
        _loaded(*beside, file)
    return loaded


def _loaded(form: Form, weights: Tensors, network: nn.Module, file: str) -> LoadedWeights:
    state = form.converted(network, weights, file)
    initial = [key for key in network.state_dict() if key not in state]
    network.load_state_dict(state, strict=False)
    return LoadedWeights(form, network, len(state), initial)


def _network_for(form: Form, model: nn.Module) -> nn.Module | None:
    """Return the first part of a model, or the model itself, that a form can be loaded into."""
    return next((module for module in model.modules() if type(module) in form.networks), None)


def _described(content: Any) -> str:
    """Return what a file has, for a message: its first keys and their count."""
    weights = tensors_of(content)
    keys = [str(key) for key in (weights if weights is not None else content if isinstance(content, dict) else ())]
    if not keys:
        return f"it is a {type(content).__name__}, and no state dict"
    return f"its keys are {', '.join(keys[:3])}, ... ({len(keys)} in all)"
