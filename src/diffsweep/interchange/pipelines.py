"""Pipelines of diffusers as runs: the options of ``train.py`` that describe them."""

import json
from collections.abc import Container
from pathlib import Path
from typing import Any, NamedTuple

from diffsweep import shell
from diffsweep.errors import UserError
from diffsweep.interchange.folders import CONFIG, INDEX, SCHEDULER, read_json
from diffsweep.interchange.options import Described, described
from diffsweep.interchange.scheduler_options import scheduler_options

NETWORKS = ("unet", "transformer")
AUTOENCODERS = ("vae", "vqvae")
TEXT_ENCODER, TOKENIZER = "text_encoder", "tokenizer"
OTHER_CONDITIONS = ("text_encoder_", "prior", "image_encoder", "controlnet")  # prefixes of parts that cannot be read
GUIDANCE_SCALE = 7.5  # of StableDiffusionPipeline, where a call gives none


class PipelineFolder(NamedTuple):
    """A pipeline of diffusers in a folder.

    Attributes:
        network: the folder of the U-Net or the DiT.
        autoencoder: the folder of the autoencoder; None for a pipeline in pixels.
        text: the folders of the text encoder and its tokeniser; () for a pipeline without texts.
        described: the network in terms of ours.
        null_class: the class that means none, if it is among the network's classes, as their last.
        overrides: the options of ``train.py`` that describe the pipeline, but for the dataset.
    """

    network: Path
    autoencoder: Path | None
    text: tuple[Path, ...]
    described: Described
    null_class: int | None
    overrides: list[str]


def read_pipeline(folder: Path, typed: Container[str] = ()) -> PipelineFolder:
    """Return what a pipeline of diffusers is, from its configurations; no weights are read.

    Args:
        folder: the folder of the pipeline, with ``model_index.json``.
        typed: the keys that the user sets; the scheduler's steps are not read if ``sampler`` is one of them.

    Raises:
        UserError: it is no pipeline, or has a part that no option expresses.
    """
    index = read_json(folder / INDEX)
    parts = {name for name, value in index.items() if isinstance(value, list) and value and value[0] is not None}
    if index.get("norm_groups") or index.get("null_token"):
        raise UserError(
            f"{folder} has norms with other groups than its network's, or a null token: use the run that it was "
            "exported from"
        )
    network = next((folder / name for name in NETWORKS if name in parts), None)
    if network is None:
        raise UserError(f"{folder / INDEX} has no {' or '.join(NETWORKS)}; other pipelines cannot be read")
    if other := sorted(name for name in parts if name.startswith(OTHER_CONDITIONS)):
        raise UserError(f"{folder} has a {other[0]}; pipelines with classes, one text encoder or neither can be read")
    text = _text_folders(folder, index) if TEXT_ENCODER in parts else ()
    autoencoder = next((folder / name for name in AUTOENCODERS if name in parts), None)
    read = described(read_json(network / CONFIG), str(network / CONFIG))
    null = index.get("null_class")
    classes = read.classes if null is None or read.classes is None or read.option == "dit" else read.classes - 1
    if autoencoder is None and read.option == "dit" and classes == 1:
        classes = None  # a DiT of diffusers has classes; an unconditional one has a single one
    read = read._replace(classes=classes)
    scheduler = folder / "scheduler" / SCHEDULER
    time_scale, with_sampler = index.get("time_scale", 1.0), "sampler" not in typed
    overrides = [
        *_conditioning(read, text, index, str(folder)),
        *_backbone(read),
        *scheduler_options(read_json(scheduler), str(scheduler), read, time_scale, with_sampler),
        *(_space(autoencoder) if autoencoder is not None else ()),
        *(["sampler.clip=none"] if autoencoder is not None else ()),
    ]
    return PipelineFolder(network, autoencoder, text, read, null if read.option == "unet" else None, overrides)


def _text_folders(folder: Path, index: dict[str, Any]) -> tuple[Path, ...]:
    """Return the folders of the text encoder and its tokeniser.

    Raises:
        UserError: the text encoder is no CLIP.
    """
    kind = index[TEXT_ENCODER][1]
    if kind != "CLIPTextModel" or not (folder / TOKENIZER).is_dir():
        raise UserError(
            f"{folder} has a {TEXT_ENCODER} of the class {kind}; a CLIPTextModel with its {TOKENIZER} can be read"
        )
    return folder / TEXT_ENCODER, folder / TOKENIZER


def _conditioning(read: Described, text: tuple[Path, ...], index: dict[str, Any], source: str) -> list[str]:
    """Return the options of family, condition and guidance."""
    if not text:
        if read.context_dim is not None:
            raise UserError(f"{source} has a network that attends to tokens, and no {TEXT_ENCODER} that makes them")
        return ["model=ddpm", f"conditioning={'class' if read.classes is not None else 'none'}"]
    encoder, tokenizer = read_json(text[0] / CONFIG), read_json(text[1] / "tokenizer_config.json")
    width, length = encoder.get("hidden_size", 512), encoder.get("max_position_embeddings", 77)
    if width != read.context_dim:
        raise UserError(f"{source} has tokens of width {width}, and a network for tokens of width {read.context_dim}")
    return [
        "model=ddpm",
        "conditioning=text_clip",
        "conditioning.null_condition=empty_text",
        "conditioning.dropout=0.1",
        f"conditioning.context_dim={width}",
        f"conditioning.encoder.max_length={min(length, tokenizer.get('model_max_length', length))}",
        "guidance=classifier_free",
        f"guidance.scale={index.get('guidance_scale', GUIDANCE_SCALE)}",
    ]


def _backbone(read: Described) -> list[str]:
    values = {key: "null" if value is None else json.dumps(value) for key, value in read.settings.items()}
    return [f"backbone={read.option}", *(f"backbone.{key}={value.strip(chr(34))}" for key, value in values.items())]


def _space(autoencoder: Path) -> list[str]:
    """Return the options of the autoencoder, whose weights are read where they lie."""
    config = read_json(autoencoder / CONFIG)
    factor = 2 ** (len(config.get("block_out_channels", [64])) - 1)
    return [
        "autoencoder=public",
        shell.override("autoencoder.model.path", str(autoencoder.absolute())),
        f"autoencoder.channels={config.get('latent_channels', 3 if config.get('_class_name') == 'VQModel' else 4)}",
        f"autoencoder.factor={factor}",
    ]
