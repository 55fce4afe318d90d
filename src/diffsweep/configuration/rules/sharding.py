"""Rules on training whose weights are sharded over devices."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffsweep.callbacks import PowerAverages
from diffsweep.configuration.check import locate
from diffsweep.configuration.rules.base import BuiltParts, rule


def shards(cfg: DictConfig) -> bool:
    """Return whether the strategy of the trainer shards the weights."""
    target = OmegaConf.select(cfg, "trainer.strategy._target_") if OmegaConf.is_dict(cfg.trainer) else None
    return target is not None and bool(getattr(locate(target, list(cfg.trust)), "shards_weights", False))


@rule
def sharded_weights_have_several_devices(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if weights are to be sharded over a single device."""
    devices: Any = cfg.trainer.devices
    count = devices if isinstance(devices, int | str) else len(devices)
    if shards(cfg) and str(count) == "1" and cfg.trainer.get("num_nodes", 1) == 1:
        return (
            f"trainer={cfg.choices.trainer} shards the weights over several devices, and trainer.devices={devices} is "
            "one; use trainer=auto"
        )
    return None


@rule
def sharded_models_train_their_networks_alone(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if weights are to be sharded of a model that trains others than those of its networks.

    So is it with a learned schedule, new words of a text encoder, and an autoencoder with its discriminator, which has
    several optimizers; and of a model that copies its network, or calls it with other weights.
    """
    if not shards(cfg):
        return None
    if not parts.model.shardable:
        return _refusal(cfg, f"model={cfg.choices.model} trains or copies other weights than those of one network")
    if "learned_schedule" in parts.schedule.provides:
        return _refusal(cfg, f"schedule={cfg.choices.schedule} is learned, with weights beside those of the network")
    if parts.concept is not None and "new_words" in parts.concept.requires:
        return _refusal(cfg, f"concept={cfg.choices.concept} trains new words beside the network")
    return None


@rule
def sharded_networks_are_not_compiled(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if networks are to be compiled whose weights are sharded."""
    if shards(cfg) and parts.execution.compile != "none":
        return (
            f"execution={cfg.choices.execution} compiles networks with whole weights, and trainer="
            f"{cfg.choices.trainer} gathers them block by block; use execution=eager, or trainer=ddp"
        )
    return None


@rule
def sharded_networks_have_first_derivatives_alone(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if weights are to be sharded, and the loss takes second derivatives of the network."""
    if shards(cfg) and parts.objective.second_derivatives:
        return _refusal(cfg, f"objective={cfg.choices.objective} takes second derivatives of the network")
    return None


@rule
def sharded_gradients_are_not_scaled(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if weights are to be sharded in float16, whose gradients are scaled."""
    if shards(cfg) and (precision := str(cfg.trainer.precision)) in ("16", "16-mixed"):
        return (
            f"trainer.precision={precision} scales gradients, each device by what overflows in its own part; use "
            f"trainer.precision=bf16-mixed with trainer={cfg.choices.trainer}"
        )
    return None


@rule
def sharded_weights_have_one_average(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if weights are to be sharded, and snapshots of several averages of them are kept."""
    if shards(cfg) and any(isinstance(callback, PowerAverages) for callback in parts.callbacks.values()):
        return _refusal(cfg, f"callbacks={cfg.choices.callbacks} keeps snapshots of averages of all weights")
    return None


def _refusal(cfg: DictConfig, why: str) -> str:
    return f"{why}, which trainer={cfg.choices.trainer} does not shard; use trainer=ddp"
