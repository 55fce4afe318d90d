"""The formats that ``export.py`` writes: each a function of a model and a folder, which it fills."""

import importlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffsweep.adaptation import Adapter, Lora
from diffsweep.autoencoders import FirstStage
from diffsweep.errors import UserError
from diffsweep.interchange import adapter_files
from diffsweep.interchange.plain import Graph, graphs_of
from diffsweep.models import DiffusionModel, Model

TOLERANCE = 1e-4  # of the outputs of a graph and of the network that it was made from, relative to their size
DESCRIBED = ("backbone", "schedule", "prediction", "space", "conditioning", "sampler", "guidance")


@dataclass(frozen=True)
class Written:
    """The result of writing a model into a folder.

    Attributes:
        what: what the folder holds, for the command's last lines and the model card.
        example: lines of Python that load it from ``FOLDER``.
        library: the library that loads it, as the Hugging Face hub names libraries.
        difference: the largest difference of outputs from those of the run's network, relative to their size; None if
            nothing was computed.
    """

    what: str
    example: str
    library: str
    difference: float | None = None


def package(name: str, extra: str = "export", user: str = "the export") -> ModuleType:
    """Return an imported package that an export, or another use, needs.

    Args:
        name: the name of the package.
        extra: the extra of diffsweep that has it.
        user: what needs it, for the message.

    Raises:
        UserError: the package is not installed; the message has what to type.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or name).partition(".")[0]
        raise UserError(f"{user} needs the package {missing}: pip install 'diffsweep[{extra}]'") from error


def diffusers(model: Model, cfg: DictConfig, folder: Path) -> Written:
    """Write a folder that ``DiffusionPipeline.from_pretrained`` of diffusers loads."""
    package("diffusers")
    from diffsweep.interchange.diffusers_folder import pipeline_of

    pipeline = pipeline_of(_diffusion(model))
    pipeline.save(folder)
    code = ", with the code of its pipeline (trust_remote_code=True)" if pipeline.ships_code else ""
    what = f"a {type(pipeline.pipeline).__name__} of diffusers{code}"
    return Written(what, pipeline.example, "diffusers", pipeline.difference)


def safetensors(model: Model, cfg: DictConfig, folder: Path) -> Written:
    """Write the weights as ``model.safetensors`` and the choices that they belong to as ``config.json``.

    The autoencoder of latent diffusion is written as ``autoencoder.safetensors``.
    """
    save = package("safetensors.torch").save_file
    save(_tensors(model.state_dict()), folder / "model.safetensors", metadata={"format": "pt"})
    if isinstance(model, DiffusionModel) and isinstance(model.autoencoder, FirstStage):
        state = _tensors(model.autoencoder.trained.state_dict())
        save(state, folder / "autoencoder.safetensors", metadata={"format": "pt"})
    content = {"library": "diffsweep", "choices": plain(cfg.choices)}
    content |= {group: plain(cfg[group]) for group in DESCRIBED}
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    example = 'from safetensors.torch import load_file\n\nweights = load_file("FOLDER/model.safetensors")\n'
    return Written("weights under diffsweep's names, and their configuration", example, "diffsweep")


def onnx(model: Model, cfg: DictConfig, folder: Path) -> Written:
    """Write ``network.onnx``, and ``decoder.onnx`` for latents, for any batch size; onnxruntime's outputs are compared.

    The inputs of the network are x, c_noise (:meth:`Schedule.embedded_time`) and the parts of the condition.
    """
    for name in ("onnx", "onnxscript"):
        package(name)
    runtime = package("onnxruntime")

    def write(graph: Graph, file: Path) -> Callable[..., Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph.module,
                graph.example(2),
                str(file),
                input_names=list(graph.inputs),
                output_names=["output"],
                dynamo=True,
                dynamic_shapes=_dynamic(graph),
                external_data=False,
                verbose=False,
            )
        session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

        def run(*inputs: Tensor) -> Tensor:
            named = {name: value.numpy() for name, value in zip(graph.inputs, inputs, strict=True)}
            return torch.from_numpy(session.run(None, named)[0])

        return run

    difference = _compared(_diffusion(model), folder, "onnx", write)
    example = (
        'import onnxruntime\n\nsession = onnxruntime.InferenceSession("FOLDER/network.onnx")\n'
        "print([(each.name, each.shape) for each in session.get_inputs()])\n"
    )
    return Written("ONNX graphs of any batch size", example, "onnx", difference)


def torch_export(model: Model, cfg: DictConfig, folder: Path) -> Written:
    """Write ``network.pt2``, and ``decoder.pt2`` for latents, by torch.export for any batch size; outputs are compared.

    The inputs of the network are x, c_noise (:meth:`Schedule.embedded_time`) and the parts of the condition.
    """

    def write(graph: Graph, file: Path) -> Callable[..., Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(graph.module, graph.example(2), dynamic_shapes=_dynamic(graph), strict=True)
            torch.export.save(program, file)
        loaded: Callable[..., Tensor] = torch.export.load(file).module()
        return loaded

    difference = _compared(_diffusion(model), folder, "pt2", write)
    example = (
        'import torch\n\nnetwork = torch.export.load("FOLDER/network.pt2").module()\n'
        "# output = network(x, c_noise, ...)\n"
    )
    return Written("programs of torch.export of any batch size", example, "pytorch", difference)


def lora_peft(model: Model, cfg: DictConfig, folder: Path) -> Written:
    """Write the updates of a run of adaptation=lora as ``adapter_model.safetensors``, with peft's configuration."""
    package("peft", "adapt")
    adapter_files.write_peft(_adapter(model), folder)
    example = (
        "import diffsweep\nfrom peft import PeftModel\n\n"
        f'model = PeftModel.from_pretrained(diffsweep.load("{cfg.adaptation.run}").model, "FOLDER")\n'
    )
    return Written("updates of low rank, under peft's names", example, "peft")


def lora_kohya(model: Model, cfg: DictConfig, folder: Path) -> Written:
    """Write the updates of a run of adaptation=lora as ``lora.safetensors``, in the form of kohya's scripts."""
    package("safetensors.torch", "adapt")
    adapter_files.write_kohya(_adapter(model), folder)
    example = (
        "import diffsweep\n\n"
        f'loaded = diffsweep.load("{cfg.adaptation.run}", ["adapters=[FOLDER:1.0]"])\nx = loaded.sample(16)\n'
    )
    return Written("updates of low rank, under the names of kohya's scripts", example, "diffsweep")


Format = Callable[[Model, DictConfig, Path], Written]
FORMATS: Mapping[str, Format] = {
    "diffusers": diffusers,
    "safetensors": safetensors,
    "onnx": onnx,
    "torch_export": torch_export,
    "lora_peft": lora_peft,
    "lora_kohya": lora_kohya,
}
OF_UPDATES = ("lora_peft", "lora_kohya")  # formats of an adaptation's updates alone; others have them merged


def plain(node: Any) -> Any:
    """Return a part of a configuration with its interpolations resolved, as plain lists and dicts."""
    return OmegaConf.to_container(node, resolve=True)


def _diffusion(model: Model) -> DiffusionModel:
    if not isinstance(model, DiffusionModel):
        raise UserError(f"{type(model).__name__} draws no samples; format=safetensors has the weights of any model")
    return model


def _adapter(model: Model) -> Adapter:
    if not isinstance(model.adaptation, Lora):
        raise UserError("the run has no updates of low rank; give the directory of a run of adaptation=lora")
    return model.adaptation.adapter(model)


def _tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}


def _dynamic(graph: Graph) -> Any:
    """Return the dynamic shapes of a graph's inputs: the first axis of each is the batch."""
    axes = [{0: torch.export.Dim.DYNAMIC} for _ in graph.inputs]
    return (*axes[:2], tuple(axes[2:])) if len(axes) > 2 else tuple(axes)  # further ones are one argument, *parts


@torch.no_grad()
def _compared(
    model: DiffusionModel, folder: Path, suffix: str, write: Callable[[Graph, Path], Callable[..., Tensor]]
) -> float:
    """Write each graph of a model, and return the largest difference of its outputs in batches of 1 and 3.

    Raises:
        UserError: a layer cannot be written.
        RuntimeError: the outputs differ.
    """
    worst = 0.0
    for graph in graphs_of(model):
        graph.module(*graph.example(2))  # positions and frequencies that layers keep are computed before tracing
        try:
            run = write(graph, folder / f"{graph.name}.{suffix}")
        except Exception as error:
            first = next(iter(str(error.__cause__ or error).splitlines()), type(error).__name__)
            raise UserError(f"the {graph.name} cannot be written as {suffix}: {first}") from error
        for batch in (1, 3):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(batch)
                inputs = graph.example(batch)
            ours = graph.module(*inputs)
            worst = max(worst, float((run(*inputs) - ours).abs().max() / ours.abs().max().clamp(min=1e-12)))
    if not worst < TOLERANCE:
        raise RuntimeError(f"the outputs of the {suffix} differ from the network's by {worst:.2g}")
    return worst
