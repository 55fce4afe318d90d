"""Adversarial losses for autoencoders: a discriminator D of image patches, and the losses of D and of the decoder.

D is trained to distinguish images x from reconstructions x_hat, the decoder to make D take its x_hat for images. With
the hinge loss

    L_D = (max(0, 1 - D(x)) + max(0, 1 + D(x_hat))) / 2,    L_gen = -D(x_hat),

and the decoder minimises L_rec + w w_a L_gen, where the adaptive weight w_a balances the gradients of both terms.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from diffsweep.capabilities import Part
from diffsweep.layers import group_norm

AdversarialLossKind = Literal["hinge", "vanilla", "least_squares"]


class LogitLosses(NamedTuple):
    """Three functions of a discriminator's logits, each a loss for each logit, of the shape of the logits.

    Attributes:
        real: the discriminator's loss where the image is real.
        fake: the discriminator's loss where the image is a reconstruction.
        generator: the loss of the decoder that made the reconstruction.
    """

    real: Callable[[Tensor], Tensor]
    fake: Callable[[Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


LOSSES: dict[AdversarialLossKind, LogitLosses] = {
    "hinge": LogitLosses(lambda d: functional.relu(1 - d), lambda d: functional.relu(1 + d), lambda d: -d),
    "vanilla": LogitLosses(lambda d: functional.softplus(-d), functional.softplus, lambda d: functional.softplus(-d)),
    "least_squares": LogitLosses(lambda d: (d - 1).square(), torch.square, lambda d: (d - 1).square() / 2),
}


class PatchDiscriminator(nn.Module):
    """A network that classifies each patch of an image as real or fake: PatchGAN (Isola et al. 2017, arXiv:1611.07004).

    It is the discriminator of VQGAN (arXiv:2012.09841) and latent diffusion (arXiv:2112.10752). Images (B, C, H, W)
    become logits (B, 1, H', W'). The convolutions are 4 x 4: ``halvings`` of stride 2, one of stride 1, and one of
    stride 1 to the logit of each patch. Their widths are 1, 2, 4, 8, 8, ... times ``channels``. With 3 halvings a
    logit depends on a patch of 70 x 70 pixels, but for the norms. Weights are initialised from N(0, 0.02^2).

    Unlike in the public codes, the norms are GroupNorm in place of BatchNorm: the loss of an image does not
    depend on its batch, is the same on any number of devices, and real and fake images can be evaluated in one batch.

    Args:
        in_channels: C.
        image_size: side of the images, at least 6.
        channels: width of the first convolution.
        halvings: None: 3 as in the public codes, or fewer for images that are too small for 3.

    Raises:
        ValueError: the images are too small, also for ``halvings``, or ``channels`` is below 1.
    """

    def __init__(self, in_channels: int, image_size: int, channels: int = 64, halvings: int | None = None) -> None:
        super().__init__()
        # each of the last two convolutions shortens the side by one
        fit = [count for count in range(1, image_size.bit_length()) if image_size >> count >= 3]
        if not fit:
            raise ValueError(
                f"discriminator=patch needs images of at least 6 pixels, not {image_size}; use discriminator=none"
            )
        if halvings is not None and halvings not in fit:
            raise ValueError(
                f"discriminator.network.halvings={halvings} does not fit: {image_size} pixels can be halved from 1 to "
                f"{fit[-1]} times"
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
        """Return the logits (B, 1, H', W') of images (B, C, H, W), above 0 where a patch looks real."""
        logits: Tensor = self.layers(x)
        return logits


class AdversarialLoss(nn.Module, Part):
    r"""The losses by which a discriminator D and a decoder, which makes :math:`\hat x`, learn from each other.

    ============== ================================================================== ===============================
    loss           of D, times 1/2                                                    of the decoder
    ============== ================================================================== ===============================
    hinge          :math:`\max(0, 1 - D(x)) + \max(0, 1 + D(\hat x))`                 :math:`-D(\hat x)`
    vanilla        :math:`\log(1 + e^{-D(x)}) + \log(1 + e^{D(\hat x)})`              :math:`\log(1 + e^{-D(\hat x)})`
    least_squares  :math:`(D(x) - 1)^2 + D(\hat x)^2`                                 :math:`(D(\hat x) - 1)^2 / 2`
    ============== ================================================================== ===============================

    D's loss is half of the middle column. All are means over the patches of an image. They are from Lim and Ye 2017
    (arXiv:1705.02894), Goodfellow et al. 2014 (arXiv:1406.2661) and Mao et al. 2016 (arXiv:1611.04076). With
    ``vanilla`` the public code of VQGAN has :math:`-D(\hat x)` for the decoder.

    The loss of D has no gradient with respect to the decoder, and the loss of the decoder none with respect to the
    weights of D, so that their sum can be minimised in a single backward pass. The model that trains the decoder
    applies ``start``, ``weight`` and ``lr``.

    Args:
        network: D, from images (B, C, H, W) to logits (B, ...).
        loss: ``hinge``, ``vanilla`` or ``least_squares``.
        start: the optimizer step, counted from 0, from which on both losses are used.
        weight: factor w of the decoder's loss, which is also multiplied by :func:`adaptive_weight`.
        lr: learning rate of D.

    Raises:
        ValueError: an unknown ``loss``, a negative ``start``, or a ``weight`` or ``lr`` that is not above 0.
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
        if loss not in LOSSES:
            raise ValueError(f"discriminator.loss is one of {', '.join(LOSSES)}, not {loss}")
        if start < 0:
            raise ValueError(f"discriminator.start is a step, 0 or later, not {start}")
        if weight <= 0:
            raise ValueError(
                f"discriminator.weight must be above 0, not {weight}; use discriminator=none to leave this loss out"
            )
        if lr <= 0:
            raise ValueError(f"discriminator.lr must be above 0, not {lr}")
        self.network, self.losses = network, LOSSES[loss]
        self.start, self.weight, self.lr = start, weight, lr

    def generator_loss(self, fake: Tensor) -> Tensor:
        """Return the decoder's loss of each reconstruction, (B,), without gradients for the weights of D.

        Args:
            fake: reconstructions, (B, C, H, W).
        """
        frozen = {name: parameter.detach() for name, parameter in self.network.named_parameters()}
        return _mean(self.losses.generator, functional_call(self.network, frozen, (fake,)))

    def discriminator_loss(self, x: Tensor, fake: Tensor) -> Tensor:
        """Return the loss of D for each image and its reconstruction, (B,), without gradients for the decoder.

        Args:
            x: images, (B, C, H, W).
            fake: their reconstructions, (B, C, H, W).
        """
        of_real, of_fake = self.network(torch.cat([x, fake.detach().to(x.dtype)])).chunk(2)
        return (_mean(self.losses.real, of_real) + _mean(self.losses.fake, of_fake)) / 2


def _mean(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Return the mean of a loss over all logits of each sample, (B,), in float32 at least, of logits (B, ...)."""
    return loss(logits.to(torch.promote_types(logits.dtype, torch.float32))).flatten(1).mean(dim=1)


def adaptive_weight(reconstruction: Tensor, generator: Tensor, last_layer: Tensor) -> Tensor:
    r"""Return the weight w_a of the adversarial loss that balances it with the reconstruction loss (arXiv:2012.09841).

    With it both losses have gradients of equal norm at the decoder's last layer L (Esser et al. 2021, section 3.1):

    .. math:: w_a = \lVert \nabla_L \mathcal{L}_{rec} \rVert / (\lVert \nabla_L \mathcal{L}_{gen} \rVert + 10^{-4})

    It is clamped to at most 10^4, and has no gradient. The constant 10^-4 is that of the paper's public code; the text
    of the paper has 10^-6.

    Args:
        reconstruction: the reconstruction loss L_rec, ().
        generator: the adversarial loss of the decoder L_gen, ().
        last_layer: the weights of the layer L, on which both losses depend.

    Returns:
        A scalar tensor ().
    """
    of_reconstruction, of_generator = (_norm_of_gradient(loss, last_layer) for loss in (reconstruction, generator))
    return (of_reconstruction / (of_generator + 1e-4)).clamp(0, 1e4)


def _norm_of_gradient(loss: Tensor, weights: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, weights, retain_graph=True)
    return torch.linalg.vector_norm(gradient, dtype=torch.promote_types(gradient.dtype, torch.float32))
