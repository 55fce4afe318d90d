"""Adversarial losses: a discriminator of patches, and what it and the decoder learn from each other."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from diffsweep.capabilities import Part
from diffsweep.layers import group_norm

AdversarialLossKind = Literal["hinge", "vanilla", "least_squares"]


class Game(NamedTuple):
    """Losses of logits: the discriminator's where images are real and where they are made, and their maker's."""

    real: Callable[[Tensor], Tensor]
    made: Callable[[Tensor], Tensor]
    maker: Callable[[Tensor], Tensor]


GAMES: dict[AdversarialLossKind, Game] = {
    "hinge": Game(lambda d: functional.relu(1 - d), lambda d: functional.relu(1 + d), lambda d: -d),
    "vanilla": Game(lambda d: functional.softplus(-d), functional.softplus, lambda d: functional.softplus(-d)),
    "least_squares": Game(lambda d: (d - 1).square(), torch.square, lambda d: (d - 1).square() / 2),
}


class PatchDiscriminator(nn.Module):
    """Says of each patch of an image whether it is real: the PatchGAN of Isola et al. 2017 (arXiv:1611.07004), the discriminator of
    VQGAN (arXiv:2012.09841) and latent diffusion (arXiv:2112.10752).

    Convolutions of 4 x 4: ``halvings`` of stride 2, to 1, 2, 4, 8 times ``channels``, one of stride 1, and one to a logit of each
    patch; 3 halvings see 70 pixels. Weights are drawn from N(0, 0.02^2).

    In place of the public codes' BatchNorm there is GroupNorm: an image's loss does not depend on its batch, so that it is the
    same on any number of devices, and real and made images can be looked at in one batch.

    Args:
        in_channels: C of the images.
        image_size: their side, at least 6.
        channels: of the first maps.
        halvings: null: 3 as in the public codes, or as many as leave a patch.
    """

    def __init__(self, in_channels: int, image_size: int, channels: int = 64, halvings: int | None = None) -> None:
        super().__init__()
        # The last two convolutions take a pixel each.
        fit = [count for count in range(1, image_size.bit_length()) if image_size >> count >= 3]
        if not fit:
            raise ValueError(
                f"discriminator=patch needs images of at least 6 pixels, not {image_size}; use discriminator=none"
            )
        if halvings is not None and halvings not in fit:
            raise ValueError(
                f"discriminator.network.halvings={halvings} does not fit: {image_size} pixels can be halved from 1 to {fit[-1]} times"
            )
        if channels < 1:
            raise ValueError(f"discriminator.network.channels must be at least 1, not {channels}")
        halvings = min(3, fit[-1]) if halvings is None else halvings
        widths = [channels * min(2**level, 8) for level in range(halvings + 1)]
        layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for level in range(1, halvings + 1):
            stride = 2 if level < halvings else 1
            layers += [
                nn.Conv2d(widths[level - 1], widths[level], 4, stride, padding=1, bias=False),
                group_norm(widths[level]),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, padding=1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 1, H', W') of images (B, C, H, W): above 0 where a patch looks real."""
        logits: Tensor = self.layers(x)
        return logits


class AdversarialLoss(nn.Module, Part):
    r"""What a discriminator D and the decoder, whose images are :math:`\hat x`, learn from each other; means over patches.

    ============== ================================================================== ===============================
    loss           of D, half of                                                      of the decoder
    ============== ================================================================== ===============================
    hinge          :math:`\max(0, 1 - D(x)) + \max(0, 1 + D(\hat x))`                 :math:`-D(\hat x)`
    vanilla        :math:`\log(1 + e^{-D(x)}) + \log(1 + e^{D(\hat x)})`              :math:`\log(1 + e^{-D(\hat x)})`
    least_squares  :math:`(D(x) - 1)^2 + D(\hat x)^2`                                 :math:`(D(\hat x) - 1)^2 / 2`
    ============== ================================================================== ===============================

    They are of Lim and Ye 2017 (arXiv:1705.02894), Goodfellow et al. 2014 (arXiv:1406.2661; VQGAN's public code has
    :math:`-D(\hat x)` there too) and Mao et al. 2016 (arXiv:1611.04076).

    Neither loss gives gradients to who should not follow it, so that their sum has one backward pass.

    Args:
        network: D, images (B, C, H, W) to logits (B, ...).
        loss: ``hinge``, ``vanilla`` or ``least_squares``.
        start: the optimizer step before which neither learns from the other.
        weight: of the decoder's loss, beside :func:`adaptive_weight`.
        lr: D's learning rate.
    """

    requires = frozenset({"reconstructions"})

    def __init__(
        self,
        network: nn.Module,
        loss: AdversarialLossKind = "hinge",
        start: int = 0,
        weight: float = 0.5,
        lr: float = 0.002,
    ) -> None:
        super().__init__()
        if loss not in GAMES:
            raise ValueError(f"discriminator.loss is one of {', '.join(GAMES)}, not {loss}")
        if start < 0:
            raise ValueError(f"discriminator.start is a step, 0 or later, not {start}")
        if weight <= 0:
            raise ValueError(f"discriminator.weight must be above 0, not {weight}; discriminator=none has no such loss")
        if lr <= 0:
            raise ValueError(f"discriminator.lr must be above 0, not {lr}")
        self.network, self.game = network, GAMES[loss]
        self.start, self.weight, self.lr = start, weight, lr

    def generator_loss(self, made: Tensor) -> Tensor:
        """The decoder's, (B,), of its images (B, C, H, W). D's weights are told no gradient."""
        frozen = {name: parameter.detach() for name, parameter in self.network.named_parameters()}
        return _mean(self.game.maker, functional_call(self.network, frozen, (made,)))

    def discriminator_loss(self, x: Tensor, made: Tensor) -> Tensor:
        """D's, (B,), of images and what the decoder made of them, each (B, C, H, W). The decoder is told no gradient."""
        real, fake = self.network(torch.cat([x, made.detach().to(x.dtype)])).chunk(2)
        return (_mean(self.game.real, real) + _mean(self.game.made, fake)) / 2


def _mean(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Of a loss of logits (B, ...), over all but samples, (B,), in float32 at least."""
    return loss(logits.to(torch.promote_types(logits.dtype, torch.float32))).flatten(1).mean(dim=1)


def adaptive_weight(reconstruction: Tensor, generator: Tensor, last_layer: Tensor) -> Tensor:
    r"""The weight under which both losses pull equally at the decoder's last layer L (Esser et al. 2021, arXiv:2012.09841,
    section 3.1), (): :math:`\lVert \nabla_L \mathcal{L}_{rec} \rVert / (\lVert \nabla_L \mathcal{L}_{gen} \rVert + 10^{-4})`, between 0
    and 10^4, a number without gradient. (The paper says 10^-6; this is its public code's.)

    Args:
        reconstruction: the loss of reconstruction, ().
        generator: the decoder's adversarial loss, ().
        last_layer: L.
    """
    wanted, given = (_norm_of_gradient(loss, last_layer) for loss in (reconstruction, generator))
    return (wanted / (given + 1e-4)).clamp(0, 1e4)


def _norm_of_gradient(loss: Tensor, weights: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, weights, retain_graph=True)
    return torch.linalg.vector_norm(gradient, dtype=torch.promote_types(gradient.dtype, torch.float32))
