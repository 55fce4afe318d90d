"""Rules on how networks are computed."""

from omegaconf import DictConfig

from diffsweep.configuration.rules.base import BuiltParts, rule


@rule
def compiled_models_have_networks_to_compile(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if networks are to be compiled, and the model names none: it trains an autoencoder."""
    if parts.execution.compile == "none" or parts.model.networks:
        return None
    return (
        f"execution={cfg.choices.execution} compiles networks of diffusion models and classifiers, and model="
        f"{cfg.choices.model} has another; use execution=eager"
    )


@rule
def compiled_networks_have_first_derivatives_alone(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if networks are to be compiled, and the loss takes second derivatives of them."""
    if parts.execution.compile == "none" or not parts.objective.second_derivatives:
        return None
    return (
        f"objective={cfg.choices.objective} takes second derivatives of the network, which a compiled one does not "
        "have; use execution=eager, or objective=dsm"
    )
