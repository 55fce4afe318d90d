"""Small models with random weights, to be written in the formats of other programs."""

import torch
from composing import composed
from weights import redrawn

from diffsweep.autoencoders import FirstStage
from diffsweep.configuration.build import build_diffusion

FEW = ("trainer=cpu", "metrics=none", "logger=csv", "dataset=shapes", "dataset.image_size=8", "sampler.steps=8")
SMALL = {"channels": 8, "channel_mult": [1, 2], "norm_groups": 2, "factor": 2}


def model_of(*overrides, network=None):
    """Return a diffusion model with random weights, in the latents of a random autoencoder if one is given."""
    cfg = composed("train", *FEW, *overrides)
    model = build_diffusion(cfg).eval().requires_grad_(False)
    redrawn(model.denoiser.backbone, 0.08)
    if network is not None:
        shape, side = network.shape, network.shape[1] * network.factor
        model.autoencoder = FirstStage(
            shape[0], shape[1], network.factor, lambda: type(network)(side, 3, shape[0], **SMALL), lambda: network
        )
    return model


def autoencoder(kind, image_size=8):
    """Return an autoencoder with random weights, whose latents have a shift and a scale."""
    torch.manual_seed(1)
    network = kind(image_size, 3, 4, **SMALL).eval()
    redrawn(network, 0.2)
    network.standardise(torch.tensor([0.4, -0.3, 0.2, 0.0]), torch.tensor(1.7))
    return network
