"""A reader of published autoencoders in the format of diffusers, such as the ``AutoencoderKL`` of Stable Diffusion."""

import importlib
import json
import math
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffsweep.autoencoders.convolutional import ConvolutionalAutoencoder
from diffsweep.autoencoders.kl import KLAutoencoder
from diffsweep.autoencoders.vq import VQAutoencoder
from diffsweep.errors import UserError
from diffsweep.layers.named_weights import Origin, assembled
from diffsweep.tensor_files import read_tensors

CONFIG = "config.json"
USES = ("codebook.usage",)  # the buffer of the uses of codes, which published codes do not have
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
# The values that the format uses for keys that a configuration leaves out.
DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
    "block_out_channels": [64],
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 32,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
# The classes of the format: the class of our network, values of keys that AutoencoderKL lacks or has others for, and
# further arguments of our network from a configuration.
KINDS: dict[str, tuple[type[ConvolutionalAutoencoder], dict[str, Any], Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "AutoencoderKL": (KLAutoencoder, {}, lambda _: {}),
    "VQModel": (
        VQAutoencoder,
        {"latent_channels": 3, "num_vq_embeddings": 256, "vq_embed_dim": None, "norm_type": "group"},
        lambda config: {"num_codes": config["num_vq_embeddings"], "codebook": "gradient"},
    ),
}
# The kinds of levels, and whether they have attention.
DOWN = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
UP = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}
# Patterns that turn our names of parameters into those of the format, applied in order.
RENAMED = (
    (r"^codebook\.embedding$", "quantize.embedding.weight"),
    (r"^encoder\.quant_conv", "quant_conv"),
    (r"^decoder\.post_quant_conv", "post_quant_conv"),
    (r"^(encoder|decoder)\.norm_out", r"\1.conv_norm_out"),
    (r"\.blocks\.(\d+)\.norm_in", r".resnets.\1.norm1"),
    (r"\.blocks\.(\d+)\.conv_in", r".resnets.\1.conv1"),
    (r"\.blocks\.(\d+)\.norm_out", r".resnets.\1.norm2"),
    (r"\.blocks\.(\d+)\.conv_out", r".resnets.\1.conv2"),
    (r"\.blocks\.(\d+)\.skip", r".resnets.\1.conv_shortcut"),
    (r"\.attentions\.(\d+)\.norm", r".attentions.\1.group_norm"),
    (r"\.to_out", ".to_out.0"),
    (r"\.down\.(\d+)\.resample", r".down.\1.downsamplers.0.conv"),
    (r"\.up\.(\d+)\.resample", r".up.\1.upsamplers.0.conv"),
    (r"\.(down|up)\.", r".\1_blocks."),
    (r"\.middle\.", ".mid_block."),
)
OLD = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}  # old and current names of attention layers


class Sizes(NamedTuple):
    """The sizes of an autoencoder.

    Attributes:
        in_channels: channels of the images.
        latent_channels: channels of the latents.
        factor: the side of an image divided by that of its latents.
    """

    in_channels: int
    latent_channels: int
    factor: int


class PublicAutoencoder:
    """A published autoencoder in the format of diffusers, whose weights are read when it is called.

    It is an ``AutoencoderKL`` or a ``VQModel``, with its codebook.

    The constructor reads ``config.json``; a call reads the weights beside it (``.safetensors``, or ``.bin`` with
    tensors only) and returns a :class:`KLAutoencoder` or a :class:`VQAutoencoder`. The latents are standardised as the
    format specifies: shift is ``shift_factor`` and scale is 1 / ``scaling_factor``. If the published network has no
    1 x 1 convolutions at its latents (SD3, FLUX.1), those of the returned one are the identity.

    Args:
        path: a folder, or a model of the Hugging Face hub (``owner/model``), which needs the package huggingface_hub.
        subfolder: subfolder of the folder or of the model, such as ``vae`` in a pipeline.

    Raises:
        ValueError: ``path`` is None, no such model exists, it is of another class, or it has layers that
            our autoencoders do not have.
    """

    def __init__(self, path: str | None, subfolder: str | None = None) -> None:
        if path is None:
            raise ValueError(
                "autoencoder.model.path is missing: give a folder with config.json and "
                "diffusion_pytorch_model.safetensors, or a model of the hub, such as stabilityai/sd-vae-ft-mse"
            )
        self.path, self.subfolder = path, subfolder
        self._name = f"autoencoder.model.path={path}" + (
            f" autoencoder.model.subfolder={subfolder}" if subfolder else ""
        )
        try:
            read = json.loads(self._find(CONFIG).read_text())
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{self._name}: {CONFIG} is not JSON") from error
        kind = read.get("_class_name") if isinstance(read, dict) else None
        if kind not in KINDS:
            raise ValueError(f"{self._name} is of the class {kind}; only {' and '.join(KINDS)} can be read")
        self._kind, own, self._arguments = KINDS[kind]
        self.config = {**DEFAULTS, **own, **read}
        self._check()

    @property
    def sizes(self) -> Sizes:
        """The sizes of the autoencoder, which follow from ``config.json`` without reading the weights."""
        factor = 2 ** (len(self.config["block_out_channels"]) - 1)
        return Sizes(self.config["in_channels"], self.config["latent_channels"], factor)

    def __call__(self, image_size: int | None = None) -> ConvolutionalAutoencoder:
        """Return the autoencoder with its weights, in float32, for images of a side, by default ``sample_size``."""
        autoencoder = self._network(self.config["sample_size"] if image_size is None else image_size)
        shift = self.config["shift_factor"] or 0.0
        state = {
            **self._converted(autoencoder),
            **{
                name: torch.ones(part.shape, device="cpu") for name, part in autoencoder.named_buffers() if name in USES
            },
            "shift": torch.full(autoencoder.shift.shape, shift, dtype=torch.float32, device="cpu"),
            "scale": torch.tensor(1 / self.config["scaling_factor"], dtype=torch.float32, device="cpu"),
        }
        autoencoder.load_state_dict(state, assign=True)
        return autoencoder

    def _network(self, image_size: int) -> ConvolutionalAutoencoder:
        """Return the untrained network on the meta device, where no weights are drawn that would be overwritten."""
        config, widths = self.config, self.config["block_out_channels"]
        channels = math.gcd(*widths)
        with torch.device("meta"):
            return self._kind(
                image_size=image_size,
                in_channels=config["in_channels"],
                latent_channels=config["latent_channels"],
                factor=self.sizes.factor,
                channels=channels,
                channel_mult=[width // channels for width in widths],
                num_res_blocks=config["layers_per_block"],
                attention_factors=[2**level for level, kind in enumerate(config["down_block_types"]) if DOWN[kind]],
                middle_attention=config["mid_block_add_attention"],
                norm_groups=config["norm_num_groups"],
                **self._arguments(config),
            )

    def _check(self) -> None:
        """Raise a ValueError if the configuration has a value that our autoencoder cannot represent."""
        config = self.config
        levels = len(config["block_out_channels"])
        for key, kinds in {"down_block_types": DOWN, "up_block_types": UP}.items():
            if len(config[key]) != levels or not set(config[key]) <= set(kinds):
                raise self._other(key, f"{levels} of {' and '.join(kinds)}, one for each of block_out_channels")
        if [UP[kind] for kind in config["up_block_types"]] != [DOWN[kind] for kind in config["down_block_types"]][::-1]:
            raise self._other("up_block_types", "attention at the levels where down_block_types has it")
        fixed = {"act_fn": "silu", "out_channels": config["in_channels"], "latents_mean": None, "latents_std": None}
        fixed |= {"norm_type": "group"} if self._kind is VQAutoencoder else {}
        fixed |= {"vq_embed_dim": config["latent_channels"]} if config.get("vq_embed_dim") is not None else {}
        for key, value in fixed.items():
            if config[key] != value:
                raise self._other(key, str(value))
        if not config["scaling_factor"]:
            raise self._other("scaling_factor", "a number other than 0")
        norms = [module for module in self._network(self.sizes.factor).modules() if isinstance(module, nn.GroupNorm)]
        if least := [norm.num_channels for norm in norms if norm.num_groups != config["norm_num_groups"]]:
            raise self._other("norm_num_groups", f"at most {min(least) // 4}, a divisor of the {min(least)} channels")

    def _other(self, key: str, fits: str) -> ValueError:
        return ValueError(f"{self._name}: {CONFIG} has {key}={self.config[key]}; this network has {fits}")

    def _find(self, *names: str) -> Path:
        """Return the path of the first of the named files that exists, in the folder or in the model of the hub."""
        inside = self.subfolder or ""
        if Path(self.path).is_dir():
            for name in names:
                if (found := Path(self.path) / inside / name).is_file():
                    return found
            raise ValueError(f"{self._name}: the folder has no {' or '.join(names)}")
        try:
            hub = importlib.import_module("huggingface_hub")
        except ModuleNotFoundError as error:
            raise ValueError(
                f"{self._name} is no folder; to load it from the hub, pip install huggingface_hub"
            ) from error
        errors = []
        for name in names:
            try:
                return Path(hub.hf_hub_download(self.path, name, subfolder=self.subfolder))
            except (OSError, ValueError) as error:
                errors.append(error)
        why = str(errors[0]).splitlines()[0] if str(errors[0]) else type(errors[0]).__name__
        raise ValueError(
            f"{self._name} is neither a folder with {' or '.join(names)} nor a readable model of the hub ({why})"
        ) from errors[0]

    @cached_property  # one request to the hub
    def weights_file(self) -> Path:
        """The path of the weights, which are downloaded if they are on the hub and not on this machine yet."""
        return self._find(*WEIGHTS)

    def _read(self) -> dict[str, Tensor]:
        """Return the weights under the current names of the format; older files name attention layers differently."""
        file = self.weights_file
        try:
            weights = read_tensors(file, file.name)
        except UserError as error:
            raise ValueError(f"{self._name}: {error}") from error
        return {
            re.sub(rf"\.({'|'.join(OLD)})\.(weight|bias)$", lambda m: f".{OLD[m[1]]}.{m[2]}", name): weight
            for name, weight in weights.items()
        }

    def _converted(self, autoencoder: ConvolutionalAutoencoder) -> dict[str, Tensor]:
        """Return the weights under the names of our network.

        Raises:
            ValueError: a parameter of our network has no counterpart in the file, or a tensor of the file has none in
                ours.
        """
        theirs = self._read()
        for key, module in {"use_quant_conv": "quant_conv", "use_post_quant_conv": "post_quant_conv"}.items():
            if not self.config[key]:
                channels = self.config["latent_channels"] * (2 if module == "quant_conv" else 1)
                theirs[f"{module}.weight"] = torch.eye(channels, device="cpu")
                theirs[f"{module}.bias"] = torch.zeros(channels, device="cpu")
        parameters = dict(autoencoder.named_parameters())
        made = assembled(parameters, theirs, lambda name: Origin(public_names(name)))
        if mismatch := made.mismatch(f"{self._name}: {self.weights_file.name}", CONFIG):
            raise ValueError(mismatch)
        return made.found


def public_names(name: str) -> tuple[str, ...]:
    """Return the names in diffusers' autoencoders of a parameter of one of ours.

    They are several if the parameter is a concatenation of theirs, as ``to_qkv`` is of ``to_q``, ``to_k`` and ``to_v``.
    """
    for ours, theirs in RENAMED:
        name = re.sub(ours, theirs, name)
    return tuple(name.replace("to_qkv", part) for part in ("to_q", "to_k", "to_v")) if "to_qkv" in name else (name,)
