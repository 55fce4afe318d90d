"""Imports between packages follow their layers, and the command line starts without heavy packages."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
ROOT = SRC / "diffsweep"
# A package may import those of its own rank and below.
RANKS = {
    "capabilities": 0,
    "discovery": 0,
    "errors": 0,
    "files": 0,
    "metric_table": 0,
    "phases": 0,
    "precision": 0,
    "pictures": 0,
    "processes": 0,
    "progress": 0,
    "shell": 0,
    "tensor_files": 0,
    "words": 0,
    "schedules": 1,
    "plots": 2,
    "proof_plots": 2,
    "diffusion": 2,
    "layers": 2,
    "degradations": 3,
    "samplers": 3,
    "guidance": 3,
    "backbones": 3,
    "autoencoders": 3,
    "conditioning": 3,
    "datasets": 3,
    "metrics": 3,
    "models": 4,
    "callbacks": 4,
    "adaptation": 4,
    "interchange": 4,
    "configuration": 5,
    "tasks": 6,
    "proofs": 6,
    "benchmarks": 6,
    "comparison": 6,
    "runs": 7,
}
PURE = ("schedules", "diffusion", "layers", "samplers", "guidance", "backbones")
UNUSED = ("sklearn", "pandas", "wandb", "datasets", "diffusers", "peft", "tensorboard")  # before the first step
HEAVY = ("torch", "lightning", "wandb", "matplotlib", "sklearn", "datasets", "torchmetrics", "numpy", "PIL", "scipy")
FILES = sorted(ROOT.rglob("*.py"))


def name_of(path):
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def imports(path, inside=True):
    """Return the modules that a file imports, with ``from`` names resolved to modules, without those for types only.

    ``inside`` includes imports in functions.
    """

    def collect(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if not inside and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: a relative import"
                for alias in child.names:
                    full = f"{child.module}.{alias.name}"
                    yield full if full in MODULES else child.module
            else:
                yield from collect(child)

    return set(collect(ast.parse(path.read_text())))


def group(module):
    return module.split(".")[1] if module.startswith("diffsweep.") else None


def test_every_package_has_its_layer():
    assert {group(module) for module in MODULES} - {None} == set(RANKS)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_no_higher_layer(module):
    own = group(module)
    if own is None:  # the package diffsweep itself
        assert not imports(MODULES[module]) & MODULES.keys()
        return
    for imported in imports(MODULES[module]):
        other = group(imported)
        if other is not None and other != own:
            assert RANKS[other] <= RANKS[own], f"{module} imports {imported}"


def test_modules_have_no_cycles():
    """Imports inside functions count too."""
    known = {module: imports(path) & MODULES.keys() - {module} for module, path in MODULES.items()}
    list(graphlib.TopologicalSorter(known).static_order())


def test_packages_have_no_cycles():
    known = {}
    for module, path in MODULES.items():
        known.setdefault(group(module), set()).update(group(i) for i in imports(path) if group(i) != group(module))
    list(graphlib.TopologicalSorter({k: v - {None} for k, v in known.items() if k}).static_order())


@pytest.mark.parametrize("package", PURE)
def test_the_mathematics_imports_torch_einops_and_an_ode_solver_only(package):
    for path in (ROOT / package).rglob("*.py"):
        outside = {name.partition(".")[0] for name in imports(path)} - {"diffsweep"}
        assert outside - set(sys.stdlib_module_names) <= {"torch", "torchdiffeq", "einops", "typing_extensions"}, path


@pytest.mark.parametrize("package", ["wandb", "matplotlib", "sklearn", "datasets", "torchmetrics"])
def test_heavy_packages_are_imported_where_they_are_used(package):
    for path in FILES:
        assert package not in {name.partition(".")[0] for name in imports(path, inside=False)}, path


def test_command_scripts_import_runs_alone():
    for path in SRC.glob("*.py"):
        assert {name for name in imports(path) if not name.startswith("diffsweep.runs")} == set(), path


LOADED = """
import runpy, sys, atexit
atexit.register(lambda: print('LOADED', *sys.modules))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def loaded(process_result):
    (line,) = [line for line in process_result.stdout.splitlines() if line.startswith("LOADED")]
    return {name.partition(".")[0] for name in line.split()}


@pytest.fixture(scope="module")
def modules_of(environment, tmp_path_factory):
    """``done, modules = modules_of("train", *arguments)`` runs a command and returns the packages it has imported."""

    def modules_of(name, *arguments, program=LOADED, **variables):
        script = str(SRC / f"{name}.py")
        done = subprocess.run(
            [sys.executable, "-c", program, script, *arguments],
            env={**environment, "PYTHONPATH": str(SRC), **variables},
            cwd=tmp_path_factory.mktemp("here"),
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done, loaded(done)

    return modules_of


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("train", ["--help"]),
        ("sample", ["--help"]),
        ("train", ["-h", "schedule", "sampler=ddim"]),
        ("train", ["schedule=lineer"]),
    ],
)
def test_help_and_configurations_import_nothing_heavy(modules_of, name, arguments):
    done, modules = modules_of(name, *arguments)
    assert modules & set(HEAVY) == set()
    if "--help" in arguments:
        assert done.returncode == 0
        for expected in ("schedule", "scaled_linear", "Examples", f"python src/{name}.py"):
            assert expected in done.stdout


def test_a_configuration_is_shown_without_lightning(modules_of):
    """Its sizes are those of built parts, which import torch."""
    done, modules = modules_of("train", "--cfg", "job", "schedule=linear")
    assert "out_channels: 1" in done.stdout
    assert modules & set(HEAVY) <= {"torch", "numpy"}


def test_tab_completion_imports_nothing_heavy(modules_of):
    typed = {"COMP_LINE": "python src/train.py sched", "COMP_POINT": "25"}  # as the shell gives it
    done, modules = modules_of("train", "-sc", "query=bash", **typed)
    assert "schedule=" in done.stdout.split(), done.stderr
    assert modules & set(HEAVY) == set()


@pytest.mark.parametrize("words", [["--help"], ["-h", "schedule"]])
def test_help_does_not_import_hydra(modules_of, words):
    _, modules = modules_of("train", *words)
    assert modules & {"hydra", "tqdm"} == set()


COUNTED = """
import os, runpy, sys
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

compositions, compose = [], ConfigLoaderImpl.load_configuration
def counted(*arguments, **keywords):
    compositions.append(0)
    return compose(*arguments, **keywords)
def end(*_):
    print("COMPOSED", len(compositions))
    print("LOADED", *sys.modules, flush=True)
    os._exit(0)
def called(module, _):
    from diffsweep.backbones.base import Backbone
    if "/train.py" not in sys.argv[0] and isinstance(module, Backbone) and not next(module.parameters()).is_meta:
        end()

ConfigLoaderImpl.load_configuration = counted
register_optimizer_step_post_hook(end)
register_module_forward_pre_hook(called)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    "name", ["train", pytest.param("evaluate", marks=pytest.mark.slow), pytest.param("sample", marks=pytest.mark.slow)]
)
def test_until_its_first_step_a_command_composes_once_and_imports_nothing_that_it_does_not_use(
    name, modules_of, request
):
    words = [] if name == "train" else [f"run={request.getfixturevalue('finished')}", "logger=wandb"]
    words += ["metrics=digits"] * (name == "evaluate")
    done, modules = modules_of(name, *words, program=COUNTED)
    assert "COMPOSED 1\n" in done.stdout, done.stderr
    assert {"torch", "lightning"} <= modules
    assert modules & set(UNUSED) == set()
