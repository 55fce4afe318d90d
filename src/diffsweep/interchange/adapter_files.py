r"""Files of updates of low rank, in the forms of peft and of kohya's scripts, which other programs read and write.

An update :math:`\frac{\alpha}{r} B A` of the layer ``denoiser.backbone.middle.0.attention.to_qkv`` has the entries

=======  =====================================================================  =======================================
form     names                                                                  :math:`\alpha`
=======  =====================================================================  =======================================
peft     ``base_model.model.denoiser.backbone.middle.0.attention.to_qkv``       in ``adapter_config.json`` beside it
         with ``.lora_A.weight`` and ``.lora_B.weight``
kohya    ``lora_unet_middle_0_attention_to_qkv`` with ``.lora_down.weight``     an entry ``.alpha`` for each layer
         and ``.lora_up.weight``; of the text encoder ``lora_te_...``
=======  =====================================================================  =======================================

The metadata of files that diffsweep writes have the hash of the base's weights, which other programs ignore.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffsweep.adaptation import Adapter, LowRank
from diffsweep.errors import UserError
from diffsweep.tensor_files import read_tensors

PEFT, CONFIG, KOHYA = "adapter_model.safetensors", "adapter_config.json", "lora.safetensors"
HASH = "diffsweep_base"  # in the metadata
PREFIX, NETWORK = "base_model.model.", "denoiser.backbone."
PLACES = {NETWORK: "lora_unet_", "conditioning.": "lora_te_"}  # parts of a model, by kohya's prefixes
PARTS = {"lora_A.weight": "down", "lora_B.weight": "up", "lora_down.weight": "down", "lora_up.weight": "up"}
PARTS |= {"alpha": "alpha"}


def write_peft(adapter: Adapter, folder: Path) -> None:
    """Write an adapter as peft does, into a folder that ``PeftModel.from_pretrained`` loads with the base's model."""
    from peft import LoraConfig

    tensors: dict[str, Tensor] = {}
    for name, update in adapter.updates.items():
        tensors |= {f"{PREFIX}{name}.lora_A.weight": update.down, f"{PREFIX}{name}.lora_B.weight": update.up}
    first, *_ = adapter.updates.values()
    alpha: Any = first.alpha  # peft takes fractions too, and its annotation does not
    config = LoraConfig(r=first.rank, lora_alpha=alpha, target_modules=list(adapter.updates), inference_mode=True)
    config.save_pretrained(str(folder))
    _save(tensors, folder / PEFT, {}, adapter.base)


def write_kohya(adapter: Adapter, folder: Path) -> None:
    """Write an adapter as ``lora.safetensors``, in the form of kohya's scripts.

    Raises:
        UserError: a layer is in no part of the model for which the form has names.
    """
    tensors: dict[str, Tensor] = {}
    first, *_ = adapter.updates.values()
    for name, update in adapter.updates.items():
        if (flat := _flat(name)) is None:
            raise UserError(
                f"format=lora_kohya has no name for {name}, only for {' and '.join(PLACES)}*; use lora_peft"
            )
        tensors |= {f"{flat}.lora_down.weight": update.down, f"{flat}.lora_up.weight": update.up}
        tensors[f"{flat}.alpha"] = torch.tensor(update.alpha)
    metadata = {"ss_network_module": "networks.lora", "ss_network_dim": first.rank, "ss_network_alpha": first.alpha}
    _save(tensors, folder / KOHYA, {key: str(value) for key, value in metadata.items()}, adapter.base)


def read_adapter(path: Path, layers: Iterable[str]) -> Adapter:
    """Return the adapter that a file of safetensors has, in either form, or that a folder with such a file has.

    Args:
        path: the file or the folder.
        layers: the names of the layers of the model to which the adapter is to be added.

    Raises:
        UserError: the file does not exist, or it is damaged, has other entries, or is of a model with other layers.
    """
    file = _file_in(path)
    tensors, metadata = read_tensors(file), _metadata(file)
    config = _config(file.parent / CONFIG) if any(name.endswith(".lora_A.weight") for name in tensors) else {}
    layers = list(layers)
    known: dict[str | None, str] = {name.removeprefix(NETWORK): name for name in layers}
    known |= {_flat(name): name for name in layers}
    known |= {name: name for name in layers}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        stem, part = next(
            ((key.removesuffix(f".{end}"), PARTS[end]) for end in PARTS if key.endswith(f".{end}")), ("", "")
        )
        if not part:
            raise UserError(f"{path}: its entry {key} is none of an update of low rank in the form of peft or kohya")
        if (name := known.get(stem.removeprefix(PREFIX))) is None:
            raise UserError(f"{path} is of another base: its layer {stem.removeprefix(PREFIX)} is none of this model")
        parts.setdefault(name, {})[part] = tensor
    updates = {}
    for name, each in parts.items():
        if not {"down", "up"} <= each.keys():
            raise UserError(f"{path}: the update of {name} has but one of its two weights")
        rank = len(each["down"])
        alpha = float(each["alpha"]) if "alpha" in each else _alpha(config, name, rank)
        updates[name] = LowRank(each["down"], each["up"], alpha)
    return Adapter(updates, metadata.get(HASH))


def _file_in(path: Path) -> Path:
    """Return the file of an adapter: the path itself, or the one of a known name in the folder."""
    if path.is_file():
        return path
    for name in (PEFT, KOHYA):
        if (path / name).is_file():
            return path / name
    raise UserError(f"{path} has no adapter: give a run of adaptation=lora, or a file or folder of its export")


def _metadata(file: Path) -> Mapping[str, str]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return opened.metadata() or {}


def _config(file: Path) -> dict[str, Any]:
    """Return peft's configuration of an adapter, which has its alpha.

    Raises:
        UserError: it does not exist, or describes something else than plain LoRA.
    """
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read, and has the alpha of the updates; copy it beside the weights"
        ) from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA" or "lora_alpha" not in config:
        raise UserError(f"{file} describes no LoRA of peft")
    if config.get("use_dora") or config.get("lora_bias") or config.get("fan_in_fan_out"):
        raise UserError(f"{file} has use_dora, lora_bias or fan_in_fan_out, which updates of low rank do not express")
    return config


def _alpha(config: Mapping[str, Any], name: str, rank: int) -> float:
    """Return the alpha of a layer's update; without one, as in kohya's form, it is the rank."""
    if not config:
        return float(rank)
    patterns = (config.get("alpha_pattern") or {}).items()
    alpha = next((each for key, each in patterns if re.fullmatch(rf"(.*\.)?({key})", name)), config["lora_alpha"])
    return float(alpha) * (math.sqrt(rank) if config.get("use_rslora") else 1.0)


def _flat(name: str) -> str | None:
    """Return the name of a layer in kohya's form; None if it is in no part of a model that has a prefix."""
    for place, prefix in PLACES.items():
        if name.startswith(place):
            return prefix + name.removeprefix(place).replace(".", "_")
    return None


def _save(tensors: Mapping[str, Tensor], file: Path, metadata: Mapping[str, str], base: str | None) -> None:
    from safetensors.torch import save_file

    more = {HASH: base} if base is not None else {}
    content = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(content, file, metadata={"format": "pt", **metadata, **more})
