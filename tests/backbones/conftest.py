"""A fixture that trains a network on a few digits."""

import pytest
import torch

from diffsweep.datasets import load_digits
from diffsweep.diffusion import Eps, NetworkDenoiser, Noise, Simple, Stream
from diffsweep.schedules import Cosine


@pytest.fixture
def overfit():
    """Return a function that trains a network on sixteen digits with fixed (t, eps).

    ``overfit(network, cond, steps)`` returns the smallest loss, divided by the initial loss.
    """

    def run(network, cond=None, steps=400, goal=0.05):
        x_0 = load_digits("train")["x"][:16]
        denoiser, objective = NetworkDenoiser(network, Cosine(1000), Eps()), Simple("l2")
        t, eps = torch.linspace(0.1, 1, 16), Noise(0, torch.arange(16)).like(x_0, Stream.EPS)
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
        losses = []
        for _ in range(steps):
            loss = objective(denoiser, x_0, cond, t, eps).mean()
            losses.append(loss.item())
            if losses[-1] < goal * losses[0]:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return min(losses) / losses[0]

    return run


@pytest.fixture
def nothing_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def compilers():
    """``compilers(name, function)`` gives torch.compile a backend, for one test."""
    from torch._dynamo.backends import registry

    names = []

    def register(name, function):
        torch._dynamo.register_backend(function, name=name)
        names.append(name)
        return name

    yield register
    for name in names:
        registry._COMPILER_FNS.pop(name, None)
        registry._BACKENDS.pop(name, None)
