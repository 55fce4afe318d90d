"""Vector quantisation against hand-computed values and written-out formulas."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffsweep.autoencoders import VQAutoencoder, codebook
from diffsweep.autoencoders.codebook import EMACodebook, GradientCodebook

SRC = Path(__file__).parents[2] / "src"
SMALL = {"image_size": 8, "in_channels": 1, "latent_channels": 2, "channels": 8, "norm_groups": 2, "num_codes": 6}
KINDS = {"ema": EMACodebook, "gradient": GradientCodebook}


def book(kind, codes, usage=1.0, decay=0.75, revive_below=0.0):
    """Return a codebook of given codes (K, D), which have been used."""
    codes = torch.tensor(codes, dtype=torch.float64)
    made = KINDS[kind](*codes.shape, decay, revive_below).double()
    made.embedding.data.copy_(codes)
    made.usage.fill_(usage)
    if kind == "ema":
        made.sums.copy_(codes * usage)
    return made


def latents(*vectors):
    """Return N vectors as latents (1, D, 1, N)."""
    return torch.tensor(vectors, dtype=torch.float64).T[None, :, None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at_once", [2**24, 40])
def test_codes_are_the_nearest(kind, at_once, monkeypatch):
    monkeypatch.setattr(codebook, "_AT_ONCE", at_once)
    made = book(kind, torch.randn(7, 3).tolist()).eval()
    h = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    out = made(h)
    every = (h.permute(0, 2, 3, 1)[..., None, :] - made.embedding).square().sum(-1)  # (B, H, W, K)
    assert torch.equal(out.codes, every.argmin(-1))
    torch.testing.assert_close(out.h.permute(0, 2, 3, 1), made.embedding.data[out.codes])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_pass_straight_through(kind):
    """The gradient of f(q(h)) with respect to h is f'(e), and the codes have none."""
    made = book(kind, [[0.0, 0.0], [3.0, 1.0]])
    h = latents([2.0, 2.0], [0.5, -1.0]).requires_grad_()
    out = made(h)
    (out.h**3).sum().backward()
    torch.testing.assert_close(h.grad, 3 * latents([3.0, 1.0], [0.0, 0.0]) ** 2)
    assert made.embedding.grad is None


def test_the_terms_are_means_of_squares_with_gradients_for_one_side():
    """The code of (2, 2) is (3, 1), that of (0.5, -1) is (0, 0): the squares are 1, 1, 0.25, 1."""
    made = book("gradient", [[0.0, 0.0], [3.0, 1.0]])
    h = latents([2.0, 2.0], [0.5, -1.0]).requires_grad_()
    terms = made(h).terms
    assert {name: term.tolist() for name, term in terms.items()} == {"codebook": [0.8125], "commitment": [0.8125]}
    terms["codebook"].sum().backward()
    assert h.grad is None
    torch.testing.assert_close(made.embedding.grad, torch.tensor([[-0.25, 0.5], [0.5, -0.5]]).double())
    made.embedding.grad = None
    terms["commitment"].sum().backward()
    assert made.embedding.grad is None
    torch.testing.assert_close(h.grad, latents([-0.5, 0.5], [0.25, -0.5]))


def test_terms_are_of_each_sample():
    made = book("gradient", [[0.0], [10.0]]).eval()
    h = torch.tensor([[[[1.0, 2.0]]], [[[9.0, 10.0]]]]).double()
    assert made(h).terms["commitment"].tolist() == [2.5, 0.5]


def test_moving_averages_have_the_values_computed_by_hand():
    """By hand (appendix A.1), with decay 3/4: (0, 0) was used twice and gets one vector, (3, 1) gets two."""
    made = book("ema", [[0.0, 0.0], [3.0, 1.0]], usage=2.0)
    made(latents([0.5, -1.0], [2.0, 2.0], [4.0, 1.0]))
    usage = torch.tensor([1.75, 2.0])  # 3/4 of 2 and 1/4 of 1, of 2
    sums = torch.tensor([[0.125, -0.25], [6.0, 2.25]])  # 3/4 (0, 0) + 1/4 (0.5, -1), 3/4 (6, 2) + 1/4 (6, 3)
    torch.testing.assert_close(made.usage, usage.double())
    torch.testing.assert_close(made.sums, sums.double())
    smoothed = (usage.double() + 1e-5) / (3.75 + 2e-5) * 3.75
    torch.testing.assert_close(made.embedding, sums.double() / smoothed[:, None])


def test_averaged_codes_converge_to_the_means_of_clusters():
    made = book("ema", [[-1.0], [1.0]], decay=0.5)
    for _ in range(60):
        made(latents([-4.0], [-2.0], [7.0], [8.0], [9.0]))
    torch.testing.assert_close(made.embedding, torch.tensor([[-3.0], [8.0]]).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(made.usage, torch.tensor([2.0, 3.0]).double())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_learns_outside_training(kind):
    made = book(kind, [[0.0, 0.0], [3.0, 1.0]], revive_below=0.9).eval()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    made(latents([5.0, 5.0], [6.0, 5.0]))
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_code_that_is_not_used_becomes_an_output_of_the_encoder(kind):
    """The code 100 is dead once 0.75^n falls below a tenth of the 2 vectors of even use."""
    made = book(kind, [[0.0], [100.0]], usage=2.0, revive_below=0.1)
    vectors = [[-1.0], [1.0], [0.5], [-0.5]]
    steps = 0
    while made.embedding[1].item() > 50:
        before = made.usage[1].item()
        made(latents(*vectors))
        steps += 1
    assert before <= 0.2 < before / 0.75  # revived at this step, and not a step earlier
    assert steps == 1 + 9  # 2 x 0.75^9 = 0.15, 2 x 0.75^8 = 0.2002
    if kind == "gradient":
        assert made.embedding[1].item() in (-1.0, 1.0, 0.5, -0.5)
        assert made.embedding[0].item() == 0.0
    assert made.usage[1] > 1.0  # its count is that of even use


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vectors", [20, 3])
def test_the_first_step_takes_the_codes_from_its_batch(kind, vectors):
    made = KINDS[kind](4, 2, 1.0 - 1e-12, 0.0).double()
    h = torch.randn(1, 2, 1, vectors, dtype=torch.float64)
    made(h)
    distances = torch.cdist(made.embedding.data, h[0, :, 0].T).min(1).values
    assert distances.max() < 1e-4
    first = made.embedding.data.clone()
    made(h + 100)  # a second batch replaces no codes
    assert (made.embedding - first).abs().max() < 1e-4


def test_unused_codes_stay_if_none_are_revived():
    made = book("gradient", [[0.0], [100.0]], decay=0.1)
    for _ in range(400):  # 0.1^400 is 0 in float64
        made(latents([1.0], [-1.0]))
    assert made.embedding[1] == 100


@pytest.mark.parametrize("kind", KINDS)
def test_training_resumes_from_a_state_dict_bit_by_bit(kind):
    def model():
        torch.manual_seed(0)
        made = VQAutoencoder(**SMALL, codebook=kind, decay=0.5, revive_below=0.5)
        return made, torch.optim.SGD(made.parameters(), 0.1)

    def steps(made, optimizer, first, last):
        for step in range(first, last):
            torch.manual_seed(step)
            reconstruction = made.reconstruct(torch.randn(4, 1, 8, 8))
            loss = sum(weight * reconstruction.terms[name].mean() for name, weight in made.weights.items())
            optimizer.zero_grad()
            (loss + reconstruction.x.square().mean()).backward()
            optimizer.step()
        return made.state_dict()

    through = steps(*model(), 0, 6)
    half = {name: value.clone() for name, value in steps(*model(), 0, 3).items()}
    resumed, optimizer = model()
    resumed.load_state_dict(half)
    resumed = steps(resumed, optimizer, 3, 6)
    assert all(torch.equal(value, resumed[name]) for name, value in through.items())
    assert not torch.equal(half["codebook.usage"], resumed["codebook.usage"])


@pytest.mark.parametrize(
    ("kind", "names", "weights"),
    [
        ("ema", {"usage", "embedding", "sums"}, {"commitment": 0.5}),
        ("gradient", {"usage"}, {"codebook": 1.0, "commitment": 0.5}),
    ],
)
def test_codes_are_parameters_only_with_codebook_gradient(kind, names, weights):
    model = VQAutoencoder(**SMALL, codebook=kind, commitment_weight=0.5)
    assert {name for name, _ in model.codebook.named_buffers()} == names
    assert {name for name, _ in model.codebook.named_parameters()} == {"embedding"} - names
    assert model.weights == weights
    assert set(model.reconstruct(torch.randn(2, 1, 8, 8)).terms) == set(weights)


def test_the_space_is_that_before_quantisation_and_decoding_quantises():
    model = VQAutoencoder(**SMALL, factor=2).double()
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    model.reconstruct(x)  # the codes come from the data
    model.eval()
    model.standardise(torch.tensor([0.2, -0.1]), torch.tensor(0.5))
    z, reconstruction = model.encode(x), model.reconstruct(x)
    torch.testing.assert_close(z * 0.5 + torch.tensor([0.2, -0.1]).double()[:, None, None], model.encoder(x))
    torch.testing.assert_close(model.decode(z), reconstruction.x)
    assert reconstruction.codes.shape == (3, 4, 4)
    codes = model.codebook.embedding[reconstruction.codes].permute(0, 3, 1, 2)
    torch.testing.assert_close(reconstruction.x, model.decoder(codes))
    assert (codes - model.encoder(x)).abs().max() > 1e-3
    model.train()
    before = model.codebook.usage.clone()
    model.decode(z)
    assert torch.equal(model.codebook.usage, before)  # decoding is no training step


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codebook": "emma"}, "autoencoder.network.codebook is one of ema, gradient, not emma"),
        ({"num_codes": 1}, "autoencoder.network.num_codes"),
        ({"decay": 1.0}, "autoencoder.network.decay"),
        ({"revive_below": -0.1}, "autoencoder.network.revive_below"),
        ({"commitment_weight": -1.0}, "autoencoder.network.commitment_weight"),
        ({"factor": 16}, "autoencoder.factor=16 does not divide dataset.image_size=8"),
    ],
)
def test_impossible_options_are_refused_by_their_key(settings, message):
    with pytest.raises(ValueError, match=message):
        VQAutoencoder(**{**SMALL, **settings})


RANK = """
import sys, torch
from diffsweep.autoencoders import codebook
rank, path, name = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.distributed.init_process_group("gloo", f"file://{path}", rank=rank, world_size=2)
torch.manual_seed(rank)
made, states = getattr(codebook, name)(5, 2, 0.75, 0.0).double(), []
for h in torch.load(f"{path}.batches"):
    made(h.chunk(2)[rank])
    states.append({key: value.detach().clone() for key, value in made.state_dict().items()})
torch.save(states, f"{path}.{rank}")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_share_a_codebook_that_learns_from_all_their_vectors(kind, tmp_path):
    batches = torch.randn(3, 4, 2, 3, 3, dtype=torch.float64)
    path = tmp_path / "ranks"
    torch.save(batches, f"{path}.batches")
    commands = [[sys.executable, "-c", RANK, str(rank), str(path), KINDS[kind].__name__] for rank in range(2)]
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    processes = [subprocess.Popen(command, env=environment) for command in commands]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    ranks = [torch.load(f"{path}.{rank}") for rank in range(2)]
    for first, second in zip(*ranks, strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)
    alone = KINDS[kind](5, 2, 0.75, 0.0).double()
    for h, before, after in zip(batches[1:], ranks[0], ranks[0][1:], strict=False):
        alone.load_state_dict(before)
        alone(h)  # both halves in one process
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(value, after[name])
