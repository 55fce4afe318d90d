"""Read a network of features from a torchscript file: the public one, known by its hash, or one that is trusted."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

TRUSTED = "torchscript"  # the entry of ``trust`` that allows any other file


class Script(NamedTuple):
    """A network from a torchscript file.

    Attributes:
        network: the network in evaluation mode.
        weights_hash: the SHA-256 of the file.
        device: the device that the network is on.
    """

    network: Any
    weights_hash: str
    device: torch.device


def read_script(
    path: str | None, public: str, missing: str, get: str, flags: Sequence[str], accelerator: str, trust: Sequence[str]
) -> Script:
    """Read a network from a torchscript file, if it is the public one or the user trusts it.

    A torchscript file is a program, so a file with another SHA-256 than the public one is read only if it is trusted.

    Args:
        path: the file, of the key ``metrics.features.path``.
        public: the SHA-256 of the public file.
        missing: what needs the file, for the message if ``path`` is None, such as "FVD needs the weights of I3D".
        get: how to get the public file, for messages.
        flags: the arguments that the network must take.
        accelerator: ``cpu`` puts the network on the CPU, anything else on the GPU if one is available.
        trust: the configuration's list of what the user trusts; with ``torchscript`` in it any file is read.

    Raises:
        ValueError: the file does not exist, is not trusted or no torchscript, or its network lacks the arguments.
    """
    if path is None:
        raise ValueError(f"metrics.features.path is missing: {missing}; {get}")
    file, key = Path(path), f"metrics.features.path={path}"
    if not file.is_file():
        raise ValueError(f"{key}: no such file; {get}")
    content = file.read_bytes()
    weights_hash = hashlib.sha256(content).hexdigest()
    if weights_hash != public and TRUSTED not in trust:
        raise ValueError(
            f"{key} is not the public file (its SHA-256 is {weights_hash[:8]}..., not {public[:8]}...), and "
            f"torchscript is a program; {get}, or add trust=[{TRUSTED}] if you trust this one"
        )
    device = torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    try:
        network = torch.jit.load(io.BytesIO(content), map_location=device).eval()
    except RuntimeError as error:
        raise ValueError(f"{key} is no torchscript file; {get}") from error
    for weight in network.parameters():
        weight.requires_grad_(False)
    taken = [argument.name for argument in network.forward.schema.arguments]
    if lacking := [flag for flag in flags if flag not in taken]:
        raise ValueError(f"{key}: its network does not take {', '.join(lacking)}, as the public one does; {get}")
    return Script(network, weights_hash, device)
