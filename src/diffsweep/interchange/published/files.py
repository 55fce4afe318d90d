"""Files of published weights, read without executing anything in them."""

import importlib
import shlex
from pathlib import Path
from typing import Any

import torch

from diffsweep.errors import UserError

PICKLE = b"\x80"  # the first byte of a plain pickle; files that torch.save writes are zip archives
EDM = "import pickle, torch; torch.save(pickle.load(open({file!r}, 'rb'))['ema'].state_dict(), {new!r})"
TENSORS = (
    "import torch; c = torch.load({file!r}, map_location='cpu', weights_only=False); "
    "torch.save({{'state_dict': c.get('state_dict', c)}}, {new!r})"
)


def read(path: str | Path) -> Any:
    """Return the content of a file of weights, with its tensors on the CPU; nothing in it is executed.

    Args:
        path: a file that ``torch.save`` or safetensors has written.

    Raises:
        UserError: the file does not exist, is damaged, or has objects of Python classes beside tensors; for these the
            message has the command that writes the tensors alone.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"weights={path}: no such file; download it first, since nothing is downloaded here")
    try:
        if file.suffix == ".safetensors":
            return importlib.import_module("safetensors.torch").load_file(file, device="cpu")
        return torch.load(file, map_location="cpu", weights_only=True)
    except ModuleNotFoundError as error:
        raise UserError(f"weights={path} needs the package safetensors: pip install safetensors") from error
    except Exception as error:
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise UserError(_how_to_convert(file)) from error
        raise UserError(f"weights={path} cannot be read: {str(error).splitlines()[0]}") from error


def _how_to_convert(file: Path) -> str:
    """Return a message with the command that writes the tensors of a file with Python objects."""
    with file.open("rb") as stream:
        is_pickle = stream.read(1) == PICKLE
    place = "in a clone of its code (github.com/NVlabs/edm), " if is_pickle else ""
    code = (EDM if is_pickle else TENSORS).format(file=str(file), new=f"{file.stem}_tensors.pt")
    return (
        f"weights={file} has Python objects beside tensors, and code of a file is never executed; if you trust it, "
        f"{place}python -c {shlex.quote(code)} writes its tensors into {file.stem}_tensors.pt"
    )
