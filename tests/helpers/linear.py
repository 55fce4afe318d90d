"""Autoencoders without loss, for tests."""

import torch
from torch import nn
from torch.nn import functional

from diffsweep.autoencoders import LearnedAutoencoder, Reconstructed


class Rearrange(nn.Module):
    """A map of squares of f x f pixels to channels, or back, times a learned number."""

    def __init__(self, factor, back=False, gain=1.0):
        super().__init__()
        self.factor, self.back, self.gain = factor, back, nn.Parameter(torch.tensor(gain))

    def forward(self, x):
        shuffle = functional.pixel_shuffle if self.back else functional.pixel_unshuffle
        return shuffle(x, self.factor) * self.gain


class Perfect(LearnedAutoencoder):
    """An autoencoder whose latents have f x f pixels as their channels. With f = 1 it is the identity, bit by bit."""

    def __init__(self, channels=1, image_size=8, factor=2, gain=1.0, spread=0.0):
        size = image_size // factor
        super().__init__(channels * factor**2)
        self.shape, self.in_channels, self.factor = (channels * factor**2, size, size), channels, factor
        self.encoder, self.decoder = Rearrange(factor, gain=gain), Rearrange(factor, back=True, gain=1 / gain)
        self.spread, self.weights = spread, {"size": 0.0}

    def posterior(self, x):
        mean = (self.encoder(x) - self.shift) / self.scale
        return torch.cat([mean, torch.full_like(mean, self.spread)], 1)

    def draw(self, posterior, noise=None):
        mean, std = posterior[:, : self.shape[0]], posterior[:, self.shape[0] :]
        return mean if noise is None else mean + std * noise.like(mean)

    def decode(self, z):
        return self.decoder(z * self.scale + self.shift)

    def reconstruct(self, x, noise=None):
        z = self.encode(x, noise)
        return Reconstructed(self.decode(z), {"size": z.square().flatten(1).sum(1)})

    @property
    def last_layer(self):
        return self.decoder.gain
