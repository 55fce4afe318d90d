"""What every option of conf/autoencoder, conf/guidance and conf/conditioning promises."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from diffsweep.datasets import load_digits
from diffsweep.diffusion import Condition, GaussianDenoiser
from diffsweep.runs.build import build
from diffsweep.schedules import Cosine


def options(group):
    return sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / group).glob("*.yaml"))


@pytest.mark.parametrize("option", options("autoencoder"))
def test_space_has_the_stated_shape_and_range(compose, option):
    """The configuration that sizes the backbone says the same."""
    cfg = compose(f"autoencoder={option}")
    autoencoder, x = build(cfg, "autoencoder"), load_digits("train")["x"][:16]
    z = autoencoder.encode(x)
    assert tuple(z.shape[1:]) == autoencoder.shape == (cfg.space.channels, cfg.space.image_size, cfg.space.image_size)
    assert not autoencoder.bounded or z.abs().max() <= 1
    if option == "identity":
        assert torch.equal(z, x)
        assert torch.equal(autoencoder.decode(z), x)


@pytest.mark.parametrize("option", options("guidance"))
def test_guided_denoiser_is_a_denoiser_over_the_same_schedule(compose, option, mixture, monkeypatch):
    denoiser = mixture(Cosine(100))
    other = SimpleNamespace(denoiser=GaussianDenoiser(Cosine(100), torch.zeros(2).double(), torch.eye(2).double()))
    monkeypatch.setattr("diffsweep.runs.stages.trained", lambda **_: other)  # no run is trained for this
    guided = build(compose(f"guidance={option}"), "guidance")(denoiser)
    x, t = torch.randn(4, 2).double(), torch.tensor(0.4).double()
    denoised = guided(x, t, None)
    alpha, sigma = guided.schedule(t)
    assert guided.schedule is denoiser.schedule
    torch.testing.assert_close(alpha * denoised.x0 + sigma * denoised.eps, x)
    if option == "none":
        assert torch.equal(denoised.x0, denoiser(x, t).x0)


@pytest.mark.parametrize("option", options("conditioning"))
def test_a_batch_becomes_one_condition_a_row_or_none(compose, option):
    batch = {**{name: part[:6] for name, part in load_digits("train").items()}, "position": torch.arange(6)}
    cond = build(compose(f"conditioning={option}"), "conditioning")(batch)
    assert cond is None if option == "none" else isinstance(cond, Condition) and len(cond) == 6
