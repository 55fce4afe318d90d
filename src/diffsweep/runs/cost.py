"""The name, parameters and multiply-adds of the network, for the first line that training prints."""

import functools
import json
from collections.abc import Callable
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffsweep.configuration.build import sized
from diffsweep.configuration.check import locate
from diffsweep.configuration.sizes import instantiated
from diffsweep.models import AutoencoderModel


def cost_of(cfg: DictConfig) -> str:
    """Return one line of text: the name of the network that is trained, its parameters, and its multiply-adds (GMAC).

    The multiply-adds are those of one image or clip, by torch's counter, half of its floating-point operations. The
    network is not allocated.

    Args:
        cfg: a checked configuration of ``train``.
    """
    if issubclass(locate(cfg.model._target_, list(cfg.trust)), AutoencoderModel):  # type: ignore[arg-type]
        name, node, size, frames = cfg.choices.autoencoder, cfg.autoencoder.network, cfg.dataset, None
    else:
        cfg = sized(cfg)
        name, node, size, frames = cfg.choices.backbone, cfg.backbone, cfg.space, cfg.space.num_frames
    network = json.dumps(OmegaConf.to_container(node, resolve=True) | {"_partial_": False})  # type: ignore[operator]
    call = _once if node is cfg.backbone else _encode_and_decode
    shape = (size.channels, *([] if frames is None else [frames]), size.image_size, size.image_size)
    return f"{name}: {_cost(network, call, shape, tuple(cfg.trust))} {'an image' if frames is None else 'a clip'}"


def _once(backbone: Any, x: torch.Tensor) -> None:
    backbone(x, torch.empty(1))


def _encode_and_decode(autoencoder: Any, x: torch.Tensor) -> None:
    autoencoder.decoder(autoencoder.encoder(x)[:, : autoencoder.shape[0]])


@functools.lru_cache(maxsize=8)  # 0.1 s for the default network, 2 s for the largest
def _cost(node: str, call: Callable[[Any, torch.Tensor], None], shape: tuple[int, ...], trust: tuple[str, ...]) -> str:
    """Return the cost of a network from its node, as text, since jobs of a sweep mostly have the same one."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        network = instantiated(OmegaConf.create({"network": json.loads(node), "trust": list(trust)}), "network").eval()
        # The counter knows the operations of this attention only, on a CPU.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            call(network, torch.empty(1, *shape))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return f"{parameters:,} parameters, {counter.get_total_flops() / 2e9:.3g} GMAC"
