"""What a run costs: the parameters and multiply-adds of its network, and the memory that it has used."""

import functools
import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffsweep.configuration.build import sized
from diffsweep.configuration.check import locate
from diffsweep.configuration.sizes import instantiated
from diffsweep.models import AutoencoderModel


class Cost(NamedTuple):
    """The cost of a network; as text it is the line that training prints first.

    Attributes:
        network: the name of the network.
        parameters: the number of its parameters.
        gmac: its multiply-adds for one image or clip, in thousands of millions.
        sample: ``an image`` or ``a clip``.
    """

    network: str
    parameters: int
    gmac: float
    sample: str

    def __str__(self) -> str:
        return f"{self.network}: {self.parameters:,} parameters, {self.gmac:.3g} GMAC {self.sample}"


def cost_of(cfg: DictConfig) -> str:
    """Return the cost of the network that is trained in a line of text: see :func:`network_cost`."""
    return str(network_cost(cfg))


def network_cost(cfg: DictConfig) -> Cost:
    """Return the cost of the network that is trained: its parameters and its multiply-adds.

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
    return Cost(name, *_cost(network, call, shape, tuple(cfg.trust)), "an image" if frames is None else "a clip")


def peak_memory() -> float:
    """Return the most memory in GiB that this process has used: of the GPU if it has used one, else of the machine.

    It is NaN on systems that do not count it.
    """
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**30
    try:
        import resource
    except ImportError:  # on Windows
        return float("nan")
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**30 if sys.platform == "darwin" else 2**20)  # bytes on macOS, KiB elsewhere


def _once(backbone: Any, x: torch.Tensor) -> None:
    backbone(x, torch.empty(1))


def _encode_and_decode(autoencoder: Any, x: torch.Tensor) -> None:
    autoencoder.decoder(autoencoder.encoder(x)[:, : autoencoder.shape[0]])


@functools.lru_cache(maxsize=8)  # 0.1 s for the default network, 2 s for the largest
def _cost(
    node: str, call: Callable[[Any, torch.Tensor], None], shape: tuple[int, ...], trust: tuple[str, ...]
) -> tuple[int, float]:
    """Return the parameters and GMAC of a network from its node, as text: jobs of a sweep mostly have the same one."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        network = instantiated(OmegaConf.create({"network": json.loads(node), "trust": list(trust)}), "network").eval()
        # The counter knows the operations of this attention only, on a CPU.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            call(network, torch.empty(1, *shape))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return parameters, counter.get_total_flops() / 2e9
