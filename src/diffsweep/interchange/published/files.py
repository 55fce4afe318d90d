"""Files of published weights, read without executing anything in them."""

import shlex
import sys
from pathlib import Path
from typing import Any

from diffsweep.errors import UserError
from diffsweep.tensor_files import PICKLE, UnsafeFile, read_tensors

# Modules of Python whose objects are data that training code saves beside weights.
DATA = ("collections", "argparse", "pathlib", "copyreg", "copy_reg", "_codecs", "datetime", "enum", "logging")
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
        return read_tensors(file, f"weights={path}")
    except UnsafeFile as error:
        if any(map(_is_of_python, error.objects)):
            raise  # no training code saves these: the file is an attack
        raise UserError(f"{error}; {_how_to_convert(file)}") from error


def _is_of_python(name: str) -> bool:
    """Return whether the name in a file is a function of Python itself, such as ``os.system``, and no data."""
    module = name.partition(".")[0]
    return module in (*sys.stdlib_module_names, "__builtin__") and module not in DATA


def _how_to_convert(file: Path) -> str:
    """Return a message with the command that writes the tensors of a file with Python objects."""
    with file.open("rb") as stream:
        is_pickle = stream.read(1) == PICKLE
    place = "in a clone of its code (github.com/NVlabs/edm), " if is_pickle else ""
    code = (EDM if is_pickle else TENSORS).format(file=str(file), new=f"{file.stem}_tensors.pt")
    return f"if you trust it, {place}python -c {shlex.quote(code)} writes its tensors into {file.stem}_tensors.pt"
