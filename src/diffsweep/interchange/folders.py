"""Read folders of diffusers: configurations in JSON and weights, without executing anything in them."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from diffsweep.errors import UserError
from diffsweep.tensor_files import read_tensors

INDEX, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
STEM = "diffusion_pytorch_model"


def read_json(file: Path) -> dict[str, Any]:
    """Return the content of a JSON file that holds one object.

    Raises:
        UserError: the file does not exist, cannot be read, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{file.parent} is no folder of diffusers: it has no {file.name}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is not JSON") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is no configuration of diffusers")
    return content


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a model of diffusers by name, on the CPU: of one file, or of several that an index lists.

    Args:
        folder: the folder of the model, such as ``unet`` in a pipeline.

    Raises:
        UserError: no weights are in the folder, or they cannot be read.
    """
    for suffix in (".safetensors", ".bin"):
        index = folder / f"{STEM}{suffix}.index.json"
        if index.is_file():
            names = sorted(set(read_json(index).get("weight_map", {}).values()))
            return {name: value for part in names for name, value in read_tensors(folder / part).items()}
        if (folder / f"{STEM}{suffix}").is_file():
            return dict(read_tensors(folder / f"{STEM}{suffix}"))
    raise UserError(f"{folder} has no {STEM}.safetensors or {STEM}.bin")
