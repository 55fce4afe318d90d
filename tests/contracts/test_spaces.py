"""The contracts of conf/autoencoder, conf/guidance and conf/conditioning: what holds for every option."""

from pathlib import Path

import pytest
import torch

from diffsweep.configuration.build import build
from diffsweep.datasets import load_digits
from diffsweep.diffusion import Condition, Eps, Frames, Known
from diffsweep.proofs.data import StandIn, exact_mixture
from diffsweep.schedules import Cosine

FROM_HUB = {"text_clip", "text_t5"}  # frozen encoders from the hub: see test_pretrained_text
SIZES = {  # the size of each part of a condition
    "vector_dim": lambda c: c.vector.shape[1] if c.vector is not None and c.vector.is_floating_point() else 0,
    "num_scalars": lambda c: c.scalars.shape[1] if c.scalars is not None else 0,
    "context_dim": lambda c: c.tokens.shape[2] if c.tokens is not None else 0,
    "image_channels": lambda c: c.image.shape[1] if c.image is not None else 0,
}


def options(group):
    return sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / group).glob("*.yaml"))


# The option public needs files.
@pytest.mark.parametrize("option", [option for option in options("autoencoder") if option != "public"])
def test_space_has_the_stated_shape_and_range(compose, option, monkeypatch):
    """The configuration, which sizes the backbone, has the same shape; encoding equals a draw from the posterior."""
    learned = "network" in compose(f"autoencoder={option}").autoencoder
    cfg = compose(f"autoencoder={option}", *(["autoencoder.network.channels=8"] if learned else []))
    monkeypatch.setattr(
        "diffsweep.configuration.loading.trained", lambda **_: build(cfg.autoencoder, "network")()
    )  # not trained
    monkeypatch.setattr("diffsweep.configuration.build.check", lambda cfg: None)
    autoencoder, x = build(cfg, "autoencoder"), load_digits("train")["x"][:16]
    z = autoencoder.encode(x)
    assert tuple(z.shape[1:]) == autoencoder.shape == (cfg.space.channels, cfg.space.image_size, cfg.space.image_size)
    assert autoencoder.in_channels == cfg.dataset.channels
    assert autoencoder.factor * cfg.space.image_size == cfg.dataset.image_size
    assert autoencoder.bounded == cfg.space.bounded
    assert not autoencoder.bounded or z.abs().max() <= 1
    assert autoencoder.decode(z).shape == x.shape
    torch.testing.assert_close(autoencoder.of({"x": x}), z)
    torch.testing.assert_close(autoencoder.of({"posterior": autoencoder.posterior(x)}), z)
    if option == "identity":
        assert torch.equal(z, x)
        assert torch.equal(autoencoder.decode(z), x)


@pytest.mark.parametrize("option", options("guidance"))
def test_guided_denoiser_is_a_denoiser_over_the_same_schedule(compose, option, monkeypatch):
    """A plain object with a schedule and a call is guided as a denoiser is."""
    denoiser, schedule = exact_mixture(Cosine(100)), Cosine(100)
    stand_in = StandIn(schedule, Eps())
    monkeypatch.setattr("diffsweep.configuration.loading.trained", lambda **_: stand_in)  # no training is needed
    guidance = build(compose(f"guidance={option}"), "guidance")
    guided = guidance(denoiser)
    x, t = torch.randn(4, 1, 2, 1, 1).double(), torch.tensor(0.4).double()  # clips of two frames, one of them known
    known = Known(Frames(torch.tensor([True, False]).expand(4, 2)), torch.randn_like(x))
    cond = Condition(vector=torch.tensor([0, 1, 1, 0]), known=known)
    denoised = guided(x, t, cond)
    alpha, sigma = guided.schedule(t)
    assert guided.schedule is denoiser.schedule
    torch.testing.assert_close(alpha * denoised.x0 + sigma * denoised.eps, x)
    assert torch.equal(denoised.x0, denoiser(x, t, cond).x0) == (
        option in {"distilled", "none", "repaint"}
    )  # repaint acts between calls, and the mixture takes no scale

    class Plain:
        def __init__(self):
            self.schedule = schedule

        def __call__(self, x_t, t, cond):
            return denoiser(x_t, t, cond)

    of_plain = guidance(Plain())(x, t, cond)
    assert torch.equal(of_plain.x0, denoised.x0)
    assert torch.equal(of_plain.eps, denoised.eps)


@pytest.mark.parametrize("option", [option for option in options("conditioning") if option not in FROM_HUB])
def test_a_batch_becomes_one_condition_for_each_row_or_none(compose, option):
    """Its parts have the sizes that the conditioning provides, for data and for requests."""
    cfg = compose("dataset=shapes", f"conditioning={option}")
    samples, conditioning = build(cfg, "dataset").split("val"), build(cfg, "conditioning")
    index = torch.arange(6)
    for batch in ({**samples[index], "position": index}, conditioning.request(index, samples)):
        cond = conditioning(batch)
        if option == "none":
            assert cond is None
            continue
        assert isinstance(cond, Condition)
        assert len(cond) == 6
        assert {name: size(cond) for name, size in SIZES.items() if size(cond)} == {
            name: size for name, size in conditioning.sizes.items() if name != "num_classes"
        }
        assert ("num_classes" in conditioning.provides) == (
            cond.vector is not None and cond.vector.dtype == torch.int64
        )
    assert "x" not in conditioning.request(index, samples)
