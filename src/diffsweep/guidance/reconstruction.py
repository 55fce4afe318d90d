r"""Reconstruction guidance: each estimate of x_0 moves towards samples whose measurement is the known one.

.. math:: x_0 \leftarrow x_0 + s \, C A^T (A C A^T)^{-1} (y - A x_0)

y = A x_0 is a linear measurement of the sample (frames of a clip, pixels under a mask), C the covariance of x_0 given
x_t, from the Jacobian of the denoiser, and s the scale. For Gaussian data and s = 1 the result is
:math:`E[x_0 | x_t, y]`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from diffsweep.diffusion import Condition, Denoised, Denoiser, Measurement, PlainDenoiser, expand_to
from diffsweep.guidance.base import Guidance
from diffsweep.guidance.replacement import replaced
from diffsweep.layers.modes import uncompiled

Weight = Literal["scalar", "covariance"]
Apply = Callable[[Tensor], Tensor]


class Reconstruction(Guidance):
    r"""Guidance towards a measurement, by a gradient through the denoiser (Ho et al. 2022, arXiv:2204.03458).

    It is the paper's reconstruction guidance (section 3.1). A linear measurement :math:`y = A x_0` of each sample is
    given as ``cond.known``: frames of a clip, pixels under a mask, means of squares of pixels, grey values. Without one
    the estimates are unchanged. The estimate of x_0 is to become

    .. math:: E[x_0 | x_t, y] = x_0(x_t) + \frac{\sigma_t^2}{\alpha_t} \nabla_{x_t} \log p(y | x_t),

    where :math:`p(y | x_t)` is approximated by a Gaussian around :math:`A x_0(x_t)`. ``weight`` is its covariance:

    ``scalar``: :math:`(\sigma_t / \alpha_t)^2 I` for any A, the published form, which is
    :math:`x_0 - s \frac{\alpha_t}{2} \nabla_{x_t} \| y - A x_0(x_t) \|^2`. For Gaussian data the covariance of y given
    x_t is at most :math:`(\sigma_t / \alpha_t)^2 A A^T`, where :math:`A A^T` is I for frames and masks, :math:`I / f^2`
    for means of f x f pixels and :math:`|w|^2 I` for grey values of weights w. So this form guides too weakly, the more
    so the more pixels are averaged; the paper uses s above 1. A call takes one vector-Jacobian product, about two
    forward passes.

    ``covariance``: :math:`A C A^T`,
    :math:`C = \mathrm{Cov}[x_0 | x_t] = \frac{\sigma_t^2}{\alpha_t} \frac{\partial x_0}{\partial x_t}` (Tweedie's
    formula of second order, as in Boys et al. 2023, arXiv:2310.06721), held constant in the gradient:
    :math:`x_0 + s\, C A^T (A C A^T)^{-1} (y - A x_0)`. With s = 1 it is the exact conditional mean of Gaussian data.
    The inverse is applied by conjugate gradients with one vector-Jacobian product an iteration, so a call costs a
    forward pass and about two more for each iteration. The iterations end at ``tolerance``, for each sample separately,
    or where the network's Jacobian is not a covariance (curvature not positive); the part of the residual that is
    unsolved by then is left out.

    Where the frames of a clip share noise of covariance :math:`\Sigma` (:class:`~diffsweep.diffusion.ClipNoise`), the
    noise of known frames holds part of the noise of the others. Then
    :math:`C = \frac{\sigma_t^2}{\alpha_t} \Sigma (\frac{\partial x_0}{\partial x_t})^T`, which stays exact on Gaussian
    data. The covariance of the scalar form becomes :math:`(\sigma_t / \alpha_t)^2 \Sigma^{aa}` over the measured frames
    a, so it needs a measurement of whole frames, or of their means or grey values.

    At the end x0 is projected to the nearest one with A x0 = y, and eps follows from
    :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`. Where alpha is 0, x_t holds no information about the data, and only
    the projection acts; so too outside ``interval``. Each frame may have its own time,
    (B, F). Around classifier-free guidance (``guidance=reconstruction_free``) the gradient is that of the guided x0.

    Args:
        denoiser: the denoiser to guide, guided itself or not; its x0 must be differentiable.
        scale: s, the paper's w_r, or a list with one s for each step; 0 is the projection alone, as in
            :class:`~diffsweep.guidance.Replacement`.
        weight: ``scalar`` or ``covariance``.
        iterations: the largest number of iterations of conjugate gradients (``covariance`` only), at least 1.
        tolerance: the norm of the residual, relative to the initial one, at which the iterations end, in [0, 1).
        options: ``shape``, ``interval`` and ``times`` of :class:`Guidance`.

    Raises:
        ValueError: an option is out of its range.
    """

    neutral = 0.0
    requires = frozenset()
    provides = frozenset({"measurement"})
    differentiates = True

    def __init__(
        self,
        denoiser: Denoiser | PlainDenoiser,
        scale: float | Sequence[float] = 1.0,
        weight: Weight = "scalar",
        iterations: int = 20,
        tolerance: float = 1e-3,
        **options: Any,
    ) -> None:
        super().__init__(denoiser, scale, **options)
        if weight not in _WEIGHTS:
            raise ValueError(f"guidance.weight is one of {', '.join(_WEIGHTS)}, not {weight}")
        if iterations < 1:
            raise ValueError(f"guidance.iterations must be at least 1, not {iterations}")
        if not 0 <= tolerance < 1:
            raise ValueError(f"guidance.tolerance is a share of the residual, at least 0 and below 1, not {tolerance}")
        self.weight, self.iterations, self.tolerance = weight, iterations, tolerance
        self.exact_on_gaussians = weight == "covariance" and self._scales == [1.0] and not self.varies

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        known, scale = None if cond is None else cond.known, self.scale_on(x_t, t)
        if known is None:
            return self.denoiser(x_t, t, cond)
        alpha, sigma = self.schedule(t)
        if isinstance(scale, float) and scale == 0:
            denoised = self.denoiser(x_t, t, cond)
            return replaced(denoised, denoised.x0, known, alpha, sigma)
        precise = torch.promote_types(x_t.dtype, torch.float32)
        with torch.enable_grad(), uncompiled():  # a gradient for each iteration
            x = x_t.detach().requires_grad_()
            x0, eps, mix = self.denoiser(x, t, cond)
        denoised = Denoised(x0.detach(), eps.detach(), mix.detach() if isinstance(mix, Tensor) else mix)
        spread = expand_to(torch.where(alpha == 0, 0.0, sigma**2 / alpha), x_t).to(precise)
        measurement = known.measurement

        def posterior(u: Tensor) -> Tensor:
            """Return C A^T u, (B, ...) like x_t, for u like y."""
            (pulled,) = torch.autograd.grad(x0, x, measurement.adjoint(u).to(x0), retain_graph=True)
            return spread * self.noise.spread(pulled.to(precise), expand_to(sigma, x_t))

        residual = known.residual(denoised.x0).to(precise)  # like y
        snr = expand_to(torch.where(sigma == 0, 0.0, (alpha / sigma) ** 2), residual)

        def whitened(u: Tensor) -> Tensor:
            """Return the inverse of the scalar form's covariance times u, like y."""
            return snr * self.noise.whiten(u, expand_to(sigma / alpha, u), measurement)

        shift = _WEIGHTS[self.weight](self, posterior, residual, whitened, measurement)  # (B, ...)
        return replaced(denoised, (denoised.x0 + scale * shift).to(x_t), known, alpha, sigma)

    def _by_scalar(self, posterior: Apply, residual: Tensor, whitened: Apply, measurement: Measurement) -> Tensor:
        return posterior(whitened(residual))

    def _by_covariance(self, posterior: Apply, residual: Tensor, whitened: Apply, measurement: Measurement) -> Tensor:
        r"""Return :math:`C A^T u` for the u with :math:`A C A^T u` = residual, by conjugate gradients.

        The sum of the steps is :math:`C A^T u` itself, so u is not computed.
        """
        left = direction = residual
        solved = residual.new_zeros(())
        square = _dot(left, left)  # (B,)
        enough = self.tolerance**2 * square
        for _ in range(self.iterations):
            if not (square > enough).any():
                break
            image = posterior(direction)  # like x_t
            measured = measurement.apply(image)  # like y
            curvature = _dot(direction, measured)
            going = (square > enough) & (curvature > 0)
            step = torch.where(going, square / curvature, 0.0)  # (B,)
            solved, left = solved + expand_to(step, image) * image, left - expand_to(step, measured) * measured
            before, square = square, torch.where(going, _dot(left, left), 0.0)  # 0: this sample is done
            direction = left + expand_to(torch.where(going, square / before, 0.0), left) * direction
        return solved


_WEIGHTS: dict[str, Callable[[Reconstruction, Apply, Tensor, Apply, Measurement], Tensor]] = {
    "scalar": Reconstruction._by_scalar,
    "covariance": Reconstruction._by_covariance,
}


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of each sample, (B,)."""
    return (a * b).flatten(1).sum(1)
