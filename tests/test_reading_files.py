"""Every file that a user or a stranger names is read without executing anything in it, and refused in one line."""

import ast
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from diffsweep import pictures
from diffsweep.autoencoders.perceptual import LPIPS
from diffsweep.errors import UserError
from diffsweep.files import ContentError
from diffsweep.interchange.folders import read_weights
from diffsweep.interchange.published import read
from diffsweep.metrics.reference_statistics import has_statistics, read_statistics
from diffsweep.runs.image_sets import ImageSet

SRC = Path(__file__).parents[1] / "src"
LOADERS = {"load", "loads", "Unpickler", "read_pickle", "unsafe_load", "full_load", "load_all", "load_from_checkpoint"}
HOMES = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle", "pandas")


def calls(path):
    """Yield the dotted name and the keywords of every call in a file, with names of modules resolved."""
    text = path.read_text()
    if not re.search(r"load|eval\(|exec\(|pickle|npyio|read_array|Importer", text):
        return
    nodes = list(ast.walk(ast.parse(text)))
    known = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.partition(".")[0]
                known[alias.asname or root] = alias.name if alias.asname else root
        elif isinstance(node, ast.ImportFrom):
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            first, _, rest = name.partition(".")
            arguments = [ast.unparse(argument) for argument in node.args]
            full = f"{known.get(first, first)}.{rest}".rstrip(".")
            yield full, {k.arg: ast.unparse(k.value) for k in node.keywords}
            for argument in arguments:  # partial(torch.load, ...)
                first, _, rest = argument.partition(".")
                if known.get(first) in ("torch", "numpy", "pickle") and rest.split(".")[-1] in LOADERS:
                    yield f"{known[first]}.{rest}", {}


def wrong_calls(path):
    """Return the calls in a file that could execute what they read."""
    found = []
    for name, keywords in calls(path):
        module, _, function = name.rpartition(".")
        if name in ("torch.load", "torch.serialization.load", "torch.hub.load_state_dict_from_url"):
            right = keywords.get("weights_only") == "True" and "pickle_module" not in keywords
        elif name in ("numpy.load", "numpy.lib.npyio.NpzFile", "numpy.lib.format.read_array"):
            right = keywords.get("allow_pickle") == "False"
        elif module.partition(".")[0] in HOMES and function in LOADERS:
            right = False
        elif module == "yaml" and function in LOADERS:
            right = function == "load" and keywords.get("Loader") == "loader"  # of read_yaml, SafeLoader
        elif name in ("torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "torch.export.load"):
            right = (name, path.name) in (
                ("torch.jit.load", "torchscript.py"),  # after its hash
                ("torch.export.load", "formats.py"),  # of what export.py has just written
            )
        elif function == "load_from_checkpoint" or name in ("eval", "exec", "builtins.eval", "builtins.exec"):
            right = False
        else:
            continue
        if not right:
            found.append(f"{path.name}: {name}")
    return found


def test_no_call_in_the_source_executes_what_it_reads():
    assert [line for path in sorted(SRC.rglob("*.py")) for line in wrong_calls(path)] == []
    assert [name for name, _ in calls(SRC / "diffsweep" / "tensor_files.py")].count("torch.load") == 1


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "from torch import load as l; l(path)",
        "import torch as t; t.load(path, map_location='cpu')",
        "partial(torch.load, path)",
        "import numpy as np; np.load(path)",
        "np.load(path, allow_pickle=True)",
        "pickle.load(file)",
        "joblib.load(path)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "torch.jit.load(path)",
        "eval(text)",
    ],
)
def test_a_call_that_would_execute_is_found(tmp_path, line):
    file = tmp_path / "a.py"
    file.write_text(f"import torch, pickle, joblib, yaml\nimport numpy as np\nfrom functools import partial\n{line}\n")
    assert len(wrong_calls(file)) == 1


class Malicious:
    """An object whose pickle makes a folder when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def as_pickle(path, evil):
    path.write_bytes(pickle.dumps({"mu": evil, "state_dict": evil}))


def as_tensors(path, evil):
    torch.save({"features.0.weight": torch.ones(2), "state_dict": evil}, path)


def as_arrays(path, evil):
    objects = np.array([evil], dtype=object)
    np.savez(path.with_suffix(".npz"), mu=objects, sigma=objects, arr_0=objects)
    os.replace(path.with_suffix(".npz"), path)


def as_text(path, evil):
    path.write_bytes(b"none of these\x00\xff")


READERS = {
    "weights of import.py": (read, "model.pt"),
    "a pickle of import.py": (read, "network.pkl"),
    "safetensors of import.py": (read, "model.safetensors"),
    "a pipeline's weights": (lambda path: read_weights(path.parent), "diffusion_pytorch_model.bin"),
    "a pipeline's safetensors": (lambda path: read_weights(path.parent), "diffusion_pytorch_model.safetensors"),
    "weights of LPIPS": (lambda path: LPIPS(3, 32, str(path)).check(), "vgg.pth"),
    "reference statistics": (read_statistics, "statistics.npz"),
    "images of evaluate.py": (lambda path: next(iter(ImageSet("images", str(path)).batches(1))), "images.npz"),
    "images of sample.py": (pictures.load_npz, "images.npz"),
}


@pytest.mark.parametrize("form", [as_pickle, as_tensors, as_arrays, as_text])
@pytest.mark.parametrize("reader", READERS)
def test_a_malicious_file_is_refused_in_one_line_of_ours(tmp_path, reader, form):
    call, name = READERS[reader]
    path, made = tmp_path / name, tmp_path / "made"
    form(path, Malicious(made))
    with pytest.raises((UserError, ContentError, ValueError)) as error:
        call(path)
    message = str(error.value)
    assert "\n" not in message
    assert "weights_only" not in message
    assert "allow_pickle" not in message
    assert name in message
    assert not made.exists()


@pytest.mark.parametrize("form", [as_pickle, as_tensors, as_arrays, as_text])
def test_a_malicious_file_is_no_reference_statistics(tmp_path, form):
    form(tmp_path / "a.npz", Malicious(tmp_path / "made"))
    has_statistics(tmp_path / "a.npz")
    assert not (tmp_path / "made").exists()
