"""The proof of guidance: guided scores against their formula, guided samples against the guided ODE's solution."""

from collections.abc import Iterator

import torch
from torch import Tensor

from diffsweep.diffusion import Condition, add_noise, counting
from diffsweep.guidance import Guidance, guidances_of
from diffsweep.proofs.base import Check, Subject, proof
from diffsweep.proofs.data import exact_mixture, mixture_at_start
from diffsweep.samplers import ODE


@proof(place=60)
def guided(subject: Subject) -> Iterator[Check]:
    """Yield checks of the chosen guidance on a mixture of Gaussians with two classes; none without guidance.

    The score of the guided denoiser must equal its formula, evaluated with exact log-densities, if it has one. Guided
    sampling must call the denoiser no more often than unguided sampling (not checked for an adaptive solver). Samples
    of a deterministic solver with many steps must agree with the solution of the guided ODE. (They are compared with
    the ODE because guided samples are not samples of a tilted density.)
    """
    denoiser = subject.guided
    if not isinstance(denoiser, Guidance):
        return
    schedule, exact = subject.schedule, exact_mixture(subject.schedule)
    x_0, generator = exact.sample(64, torch.Generator().manual_seed(4)), torch.Generator().manual_seed(5)
    cond = Condition(vector=torch.arange(64) % 2)

    def score(x_t: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            return torch.autograd.grad(exact.log_density(x, t, cond).sum(), x)[0]

    errors = []
    with torch.no_grad():
        for t in torch.linspace(schedule.t_min, schedule.t_max, 33, dtype=torch.float64):
            noise = torch.randn(x_0.shape, generator=generator, dtype=torch.float64)
            x_t, sigma = add_noise(schedule, x_0, t, noise), schedule(t)[1]
            formula = denoiser.score(score, x_t, t.expand(len(x_t)), cond)
            if formula is not None:
                eps = -sigma * formula
                errors.append(float(((denoiser(x_t, t, cond).eps - eps).abs() / (1 + eps.abs())).max()))
    if errors:
        yield Check("guided score, against its formula", max(errors), most=1e-6)
    sampler = subject.sampler
    x = mixture_at_start(schedule, 64, sampler.start)
    with counting(guidances_of(denoiser)[-1].denoiser) as count:
        sampler(denoiser, x, cond=cond)
    with counting(plain := subject.mixture) as bare:
        sampler(plain, x, cond=cond)
    if sampler.tolerance is None:
        yield Check("guided calls of the network, over unguided calls", count.calls / bare.calls, most=1)
    if sampler.order is None:
        return
    reference = ODE(tolerance=1e-9, start=sampler.start, stop=sampler.stop, clip="none")
    solution = reference(denoiser, x, cond=cond)
    trial = subject.trials(clip="none")[-1]
    ours = trial.sampler(denoiser, x, cond=cond)
    error = float((ours - solution).norm(dim=1).mean() / solution.std(0).norm())
    yield Check(
        f"{trial.label}guided samples, against the guided ODE / std", error, most=0.03 if trial.required else None
    )
