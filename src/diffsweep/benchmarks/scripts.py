"""Training loops as users of other packages run them, on networks of the same size as ours, to be timed beside ours."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from diffsweep.backbones import DiT
from diffsweep.benchmarks.base import Bench, Results, part
from diffsweep.benchmarks.peers import parameters
from diffsweep.benchmarks.training import Loop, bare_loop, beside
from diffsweep.datasets import ImageData
from diffsweep.errors import UserError
from diffsweep.interchange import networks
from diffsweep.interchange.formats import package
from diffsweep.models import DiffusionModel

PRECISIONS = {"32-true": "no", "bf16-mixed": "bf16", "16-mixed": "fp16", "32": "no", "bf16": "bf16", "16": "fp16"}
PACKAGES = ("accelerate", "diffusers")
RATE, LOGGED = 1e-4, 50  # the learning rate of the other loops, and the steps between two looks at their loss


@part
def scripts(bench: Bench) -> Results:
    """Return the ratios of the time of diffsweep's training step to that of a bare loop's and of diffusers' script.

    This is the part ``scripts`` of ``benchmark.py``. The script is diffusers' example of unconditional training, whose
    network here is diffusers' own of the same architecture and weights as the model's; all loops run in turn. Where
    diffusers or accelerate is not installed, one line is printed, and the bare loop alone is timed.

    Raises:
        UserError: diffusers has no network like the model's.
    """
    clip, precision = bench.cfg.trainer.gradient_clip_val, bench.cfg.trainer.precision
    shared = _accelerate_precision(precision)
    try:
        for name in PACKAGES:
            package(name, "peers", "the script of diffusers in parts=[scripts]")
        script: Callable[..., Loop] | None = script_of_diffusers
    except UserError as error:
        print(f"{error}; it is left out", flush=True)
        script = None

    def others(model: DiffusionModel, data: ImageData) -> dict[str, Loop]:
        loops = {"a bare loop": bare_loop(model, data, clip, precision)}
        if script is not None:
            loops["diffusers' training script"] = script(model, data, clip, shared)
        return loops

    return beside(bench, others)


@part
def denoising_diffusion(bench: Bench) -> Results:
    """Return the ratio of the time of diffsweep's training step to that of denoising-diffusion-pytorch's Trainer.

    This is the part ``denoising_diffusion`` of ``benchmark.py``. The other network has the same factors of width and,
    as nearly as its width can be chosen, the same number of parameters, which the label gives.

    Raises:
        UserError: denoising-diffusion-pytorch is not installed.
    """
    precision = _accelerate_precision(bench.cfg.trainer.precision)
    return beside(bench, lambda model, data: denoising_diffusion_loop(model, data, precision))


def script_of_diffusers(model: DiffusionModel, data: ImageData, clip: float | None, precision: str = "no") -> Loop:
    """Return the loop of diffusers' ``train_unconditional.py``: a function that runs a given number of steps.

    It makes the calls of that script in its order: its scheduler adds the noise, accelerate runs the backward pass and
    clips the gradients, AdamW steps, the learning rate follows its cosine, and ``EMAModel`` averages the weights.

    Args:
        model: the model whose network is trained as diffusers' of the same architecture and weights.
        data: the training data, of which batches are drawn from memory.
        clip: the norm that gradients are clipped to; None or 0 for no clipping.
        precision: accelerate's, ``no``, ``bf16`` or ``fp16``.

    Raises:
        UserError: diffusers or accelerate is not installed, or diffusers has no such network.
    """
    for name in PACKAGES:
        package(name, "peers", "parts=[scripts]")
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_cosine_schedule_with_warmup
    from diffusers.training_utils import EMAModel

    backbone: Any = model.denoiser.backbone
    theirs = networks.converted(backbone, model.autoencoder.shape[-1])
    if theirs.kind == "UNet2DConditionModel":
        raise UserError("diffusers' script trains a network without texts; use conditioning=none or class")
    network = networks.made(theirs.kind, theirs.config).train()
    network.load_state_dict(theirs.weights, strict=False)  # buffers stay
    learned = 2 if network.config.out_channels == 2 * network.config.in_channels else 1
    accelerator = _accelerator(model, precision)
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    rate = get_cosine_schedule_with_warmup(optimizer, 500, 1_000_000)
    average = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    average.to(accelerator.device)
    network, optimizer, rate = accelerator.prepare(network, optimizer, rate)
    batches = _batches(model, data, accelerator.device)

    def run(count: int) -> None:
        for step in range(count):
            x_0, classes = next(batches)
            eps = torch.randn(x_0.shape, dtype=x_0.dtype, device=x_0.device)
            timesteps = torch.randint(0, 1000, (len(x_0),), device=x_0.device).long()
            noisy = scheduler.add_noise(x_0, eps, timesteps)
            with accelerator.accumulate(network):
                output = network(noisy, timesteps, class_labels=classes).sample
                output = output.chunk(learned, 1)[0]
                loss = functional.mse_loss(output.float(), eps.float())
                accelerator.backward(loss)
                if accelerator.sync_gradients and clip:
                    accelerator.clip_grad_norm_(network.parameters(), clip)
                optimizer.step()
                rate.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                average.step(network.parameters())
            if step % LOGGED == 0:  # the script does at each step, which would wait for the GPU
                loss.detach().item()

    return run


def denoising_diffusion_loop(model: DiffusionModel, data: ImageData, precision: str = "no") -> dict[str, Loop]:
    """Return the loop of denoising-diffusion-pytorch's ``Trainer`` by a name with the numbers of parameters.

    Its network, ``Unet``, has factors of width like those of the model's, and the width that makes their sizes nearest.

    Args:
        model: the model to compare with.
        data: the training data, of which batches are drawn from memory.
        precision: accelerate's, ``no``, ``bf16`` or ``fp16``.

    Raises:
        UserError: the package is not installed.
    """
    for name in ("accelerate", "denoising_diffusion_pytorch", "ema_pytorch"):
        package(name, "peers", "parts=[denoising_diffusion]")
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from ema_pytorch import EMA

    backbone: Any = model.denoiser.backbone
    size, channels = model.autoencoder.shape[-1], model.autoencoder.shape[0]
    mults = (1, 2, 2, 2) if isinstance(backbone, DiT) else tuple(backbone.options.channel_mult)
    ours = parameters(backbone)

    def made(width: int) -> Any:
        return Unet(dim=width, dim_mults=mults, channels=channels, attn_dim_head=32, attn_heads=4)

    def distance(width: int) -> float:
        with torch.device("meta"):  # no memory, no time
            return abs(parameters(made(width)) - ours)

    width = min(range(8, 257, 2), key=distance)
    accelerator = _accelerator(model, precision)
    diffusion = GaussianDiffusion(made(width), image_size=size, timesteps=1000, objective="pred_noise")
    diffusion = diffusion.to(accelerator.device)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=RATE, betas=(0.9, 0.99))
    average = EMA(diffusion, beta=0.995, update_every=10).to(accelerator.device)
    diffusion, optimizer = accelerator.prepare(diffusion, optimizer)
    batches = _batches(model, data, accelerator.device)

    def run(count: int) -> None:
        for _ in range(count):
            x_0, _ = next(batches)
            with accelerator.autocast():
                loss = diffusion((x_0 + 1) / 2)  # it takes [0, 1]
            loss.item()  # as its progress bar does
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(diffusion.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            average.update()

    sizes = f"{ours:,} against {parameters(diffusion.model):,} parameters"
    return {f"denoising-diffusion-pytorch ({sizes})": run}


def _batches(model: DiffusionModel, data: ImageData, device: torch.device) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield batches of x_0 in the model's space and of its classes, from memory; latents are random numbers."""
    samples = data.split("train")
    x = samples["x"] if model.autoencoder.bounded else torch.randn(len(samples), *model.autoencoder.shape)
    backbone: Any = model.denoiser.backbone
    count = backbone.options.num_classes or (
        1 if isinstance(backbone, DiT) else None
    )  # diffusers' DiT takes them always
    classes = None if count is None else torch.arange(data.batch_size, device=device) % count
    while True:
        yield x[torch.randint(len(x), (data.batch_size,))].to(device), classes


def _accelerator(model: DiffusionModel, precision: str) -> Any:
    """Return accelerate's Accelerator on the model's device, whatever precision one had before in this process."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(mixed_precision=precision, cpu=model.device.type == "cpu")


def _accelerate_precision(precision: str) -> str:
    """Return accelerate's name of a precision of Lightning's."""
    if (precision := str(precision)) not in PRECISIONS:
        raise UserError(
            f"trainer.precision={precision}: scripts of accelerate, such as diffusers', keep weights of 32 bits; type "
            f"{' or '.join(f'trainer.precision={one}' for one in list(PRECISIONS)[:3])}"
        )
    return PRECISIONS[precision]
