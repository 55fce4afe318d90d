"""Consistency models: the exact function is a fixed point, the boundary is exact, and small networks reach it."""

import copy
from types import SimpleNamespace

import pytest
import torch
from hydra.utils import instantiate
from lightning import Callback, Trainer
from slower import some
from torch import nn

from diffsweep import schedules
from diffsweep.configuration.build import build_data, build_model
from diffsweep.configuration.preflight import preflight
from diffsweep.diffusion import (
    EDM,
    Condition,
    ConsistencyPrediction,
    Denoised,
    Denoiser,
    Doubling,
    GaussianDenoiser,
    GaussianMixtureDenoiser,
    GaussianSolution,
    Grid,
    NetworkDenoiser,
    Noise,
    Shrinking,
    Stream,
    expand_to,
    prior,
    step_between,
)
from diffsweep.errors import UserError
from diffsweep.guidance import ScaleInput, guided_by_input
from diffsweep.models import ConsistencyModel, Teacher
from diffsweep.models.consistency import DISTANCES, pseudo_huber
from diffsweep.samplers import DDIM, ODE, ConsistencySampler, Heun, Solved
from diffsweep.schedules import VE, VP, Cosine, Flow

MEAN = torch.tensor([0.4, -0.3], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.5, 0.2], [0.2, 0.25]], dtype=torch.float64)


def solution(schedule):
    return GaussianSolution(schedule, MEAN, COVARIANCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("schedule", "lowest"),
    [(schedules.EDM(), 0.002), (VE(), 0.01), (Cosine(1000), 0.0), (VP(), 0.0), (Flow(), 0.0)],
    ids=["edm", "ve", "cosine", "vp", "flow"],
)
def test_the_boundary_condition_holds_to_the_bit(schedule, lowest, dtype):
    """At the lowest noise level f(x) is x whatever the network puts out: one time or a time for each sample."""

    def network(x, c_noise, cond):
        return torch.full_like(x, 1e6)

    denoiser = NetworkDenoiser(network_of(network), schedule, ConsistencyPrediction(sigma_min=lowest))
    x = torch.randn(5, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    end = schedule.t_min if lowest else 0.0
    for t in (torch.tensor(end, dtype=torch.float64), torch.full((5,), end, dtype=dtype)):
        estimate = denoiser(x, t)
        assert torch.equal(estimate.x0, x)
        assert torch.equal(estimate.eps, torch.zeros_like(x)) or not lowest


def network_of(function):
    network = nn.Module()
    network.forward = function
    return network


def test_without_a_lowest_level_the_coefficients_are_those_of_edm():
    alpha, sigma = torch.rand(2, 7, dtype=torch.float64)
    ours, theirs = ConsistencyPrediction().coefficients(alpha, sigma), EDM().coefficients(alpha, sigma)
    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs))


def test_the_coefficients_are_those_of_the_paper_and_finite_without_signal():
    """c_skip = sd^2 / ((t - e)^2 + sd^2), c_out = sd (t - e) / sqrt(t^2 + sd^2) (arXiv:2303.01469, app. C)."""
    prediction, t = ConsistencyPrediction(sigma_min=0.002), torch.tensor([0.002, 0.1, 1.0, 80.0], dtype=torch.float64)
    c_in, c_skip, c_out = prediction.coefficients(torch.ones_like(t), t)
    torch.testing.assert_close(c_skip, 0.25 / ((t - 0.002) ** 2 + 0.25))
    torch.testing.assert_close(c_out, 0.5 * (t - 0.002) / (t**2 + 0.25).sqrt())
    torch.testing.assert_close(c_in, 1 / (t**2 + 0.25).sqrt())
    assert prediction.coefficients(0.0, 1.0) == (1.0, 0.0, 0.5)


def test_with_a_lowest_level_targets_convert_to_the_estimates():
    prediction = ConsistencyPrediction(sigma_min=0.002)
    alpha, sigma = torch.tensor([[1.0], [0.7], [0.3]]).double(), torch.tensor([[0.01], [0.6], [0.9]]).double()
    x_0, eps = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x_t, output = alpha * x_0 + sigma * eps, prediction.target(x_0, eps, alpha, sigma)
    torch.testing.assert_close(prediction.x0(output, x_t, alpha, sigma), x_0)
    torch.testing.assert_close(prediction.eps(output, x_t, alpha, sigma), eps)
    at_the_end = prediction.target(x_0, eps, torch.ones_like(alpha), torch.full_like(sigma, 0.002))
    assert torch.equal(at_the_end, torch.zeros_like(x_0))


@pytest.mark.parametrize("schedule", [Cosine(1000), VP(), schedules.EDM(), Flow()], ids=lambda s: type(s).__name__)
def test_the_closed_form_is_where_the_ode_of_gaussian_data_ends(schedule):
    exact, t = solution(schedule), torch.tensor([0.9, 0.5, 0.05, 0.5], dtype=torch.float64)
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    solved = Solved(GaussianDenoiser(schedule, MEAN, COVARIANCE), tolerance=1e-9)
    torch.testing.assert_close(solved(x, t).x0, exact(x, t).x0, rtol=0, atol=3e-4)  # Euler's step from t_min
    levels = schedule(t)
    between = exact.moved(x, levels, schedule(t / 2))
    torch.testing.assert_close(exact(between, t / 2).x0, exact(x, t).x0, rtol=0, atol=1e-12)


class Parametric(Denoiser):
    """The exact consistency function of Gaussian data, with its mean and covariance as parameters."""

    def __init__(self, schedule):
        super().__init__(schedule)
        self.backbone = nn.Module()
        self.backbone.mean = nn.Parameter(MEAN.clone())
        self.backbone.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x_t, t, cond=None):
        alpha, sigma = (expand_to(value, x_t) for value in self.schedule(t))
        variances, axes = torch.linalg.eigh(COVARIANCE)
        centred = (x_t - alpha * self.backbone.mean) @ axes
        factor = (variances / (alpha**2 * variances + sigma**2)).sqrt()
        return Denoised(self.backbone.scale * (centred * factor) @ axes.T + self.backbone.mean, x_t)


class ExactSolver(DDIM):
    """A solver whose step is the exact solution of the ODE of Gaussian data."""

    def advance_each(self, denoiser, x, step, cond):
        exact = solution(denoiser.schedule)
        return exact.moved(x, step.at_t[1:], step.at_s[1:])


def bare(schedule, discretisation, teacher=None, distance="l2", denoiser=None):
    """Return a consistency model of samples (B, 2) without data, optimizer and autoencoder."""
    model = ConsistencyModel.__new__(ConsistencyModel)
    nn.Module.__init__(model)
    model._trainer, model._fabric, model._target, model.teacher = None, None, {}, teacher
    model.denoiser = Parametric(schedule) if denoiser is None else denoiser
    model.discretisation, model.c, model.from_data = discretisation, None, False
    model.distance = DISTANCES[distance]
    return model


@pytest.mark.parametrize("schedule", [Cosine(1000), VP(), schedules.EDM(), VE()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("distance", ["l2", "pseudo_huber"])
def test_the_exact_consistency_function_is_a_fixed_point(schedule, distance):
    """With the exact steps of the teacher the loss and its gradient are 0."""
    teacher = Teacher(lambda: None, ExactSolver())
    base = SimpleNamespace(device=torch.device("cpu"), denoiser=GaussianDenoiser(schedule, MEAN, COVARIANCE))
    teacher.__dict__["base"] = base
    model = bare(schedule, Grid(18, mu=0.0), teacher, distance)
    x_0, noise = torch.randn(64, 2, dtype=torch.float64), Noise(0, torch.arange(64))
    losses = model.lesson_losses(x_0, None, noise).losses
    assert float(losses.abs().max()) < 1e-10
    gradients = torch.autograd.grad(losses.sum(), model.denoiser.parameters())
    assert all(float(gradient.abs().max()) < 1e-10 for gradient in gradients)
    with torch.no_grad():
        model.denoiser.backbone.mean += 0.1
    assert float(model.lesson_losses(x_0, None, noise).losses.mean()) > 1e-5


def test_a_teacher_that_only_gives_weights_changes_no_loss():
    """With from_data the losses are those without a teacher, whose steps lead elsewhere."""
    schedule, noise = schedules.EDM(), Noise(0, torch.arange(64))
    teacher = Teacher(lambda: None, Heun(clip="none"))
    tutor = GaussianDenoiser(schedule, MEAN + 1, COVARIANCE)
    teacher.__dict__["base"] = SimpleNamespace(device=torch.device("cpu"), denoiser=tutor)
    x_0 = torch.randn(64, 2, dtype=torch.float64)
    alone, taught, tuned = (bare(schedule, Shrinking(stages=1, q=16.0), given) for given in (None, teacher, teacher))
    tuned.from_data = True
    expected, other, losses = (model.lesson_losses(x_0, None, noise).losses for model in (alone, taught, tuned))
    torch.testing.assert_close(losses, expected, rtol=0, atol=0)
    assert float((other - expected).abs().max()) > 0.1


def test_a_fine_solver_stays_on_the_trajectory():
    """One step of Heun's method errs by the cube of the step: halved steps err by an eighth."""
    schedule, exact = schedules.EDM(), solution(schedules.EDM())
    denoiser, errors = GaussianDenoiser(schedule, MEAN, COVARIANCE), []
    x = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.full((8,), 1 / 80, dtype=torch.float64)
    for size in (0.2, 0.1, 0.05):
        step = step_between(schedule, t * (1 - size), t)
        moved = Heun(clip="none").step_each(denoiser, x, step)
        errors.append(float((exact(moved, step.at_s.t).x0 - exact(x, t).x0).norm()))
    assert 6 < errors[0] / errors[1] < 10
    assert 6 < errors[1] / errors[2] < 10


def test_without_a_teacher_the_neighbour_is_of_the_same_noise():
    schedule = schedules.EDM()
    model = bare(schedule, Grid(18))
    x_0, eps = torch.randn(2, 4, 2, dtype=torch.float64)
    s, t = torch.tensor([[0.1, 0.2, 0.3, 0.0], [0.2, 0.3, 0.4, 0.1]], dtype=torch.float64)
    step = step_between(schedule, s, t)
    x_t = x_0 + 80 * t[:, None] * eps
    x_s = model.neighbours(x_0, eps, x_t, step, None, None)
    torch.testing.assert_close((x_t - x_s) / (80 * (t - s))[:, None], eps)


def test_multistep_sampling_alternates_estimates_and_noise():
    """x_s = alpha_s f(x_t, t) + sigma_s z at the given times, and the last estimate is returned."""
    schedule = VP()
    exact, noise = solution(schedule), Noise(3, torch.arange(5))
    x = prior(schedule, noise.normal(2, stream=Stream.PRIOR, dtype=torch.float64))
    sampler = ConsistencySampler(at=[1.0, 0.6, 0.2], clip="none")
    assert (sampler.steps, sampler.start) == (3, 1.0)
    assert sampler.times(schedule).tolist() == [1.0, 0.6, 0.2, 0.0]
    ours, state = sampler(exact, x, noise=noise), x
    for i, (t, s) in enumerate([(1.0, 0.6), (0.6, 0.2), (0.2, None)]):
        state = exact(state, torch.tensor(t, dtype=torch.float64)).x0
        if s is not None:
            alpha, sigma = schedule(torch.tensor(s, dtype=torch.float64))
            state = alpha * state + sigma * noise.at(i).like(state)
    torch.testing.assert_close(ours, state)
    assert ConsistencySampler(at=[0.9, 0.2]).with_steps(5).at is None
    for wrong in ([], [0.2, 0.5], [1.2, 0.3], [0.5, 0.0]):
        with pytest.raises(ValueError, match="at has decreasing times"):
            ConsistencySampler(at=wrong)


def test_no_step_begins_at_the_lowest_noise_level():
    """Two steps of EDM's schedule meet half way in sigma^(1/7)."""
    for schedule, low, high in ((schedules.EDM(), 0.002, 80.0), (VE(), 0.01, 50.0)):
        times = ConsistencySampler(steps=2).times(schedule)
        middle = ((low ** (1 / 7) + high ** (1 / 7)) / 2) ** 7
        assert (float(times[0]), float(times[2])) == (1.0, 0.0)
        assert float(schedule(times[1])[1]) == pytest.approx(middle)


def test_a_single_step_of_the_exact_function_has_the_distribution_of_the_data():
    schedule = Cosine(1000)
    noise = Noise(0, torch.arange(20_000))
    x = prior(schedule, noise.normal(2, stream=Stream.PRIOR, dtype=torch.float64))
    for steps in (1, 2, 4):
        made = ConsistencySampler(steps=steps, clip="none")(solution(schedule), x, noise=noise)
        torch.testing.assert_close(made.T.cov(), COVARIANCE, rtol=0, atol=0.02)
        torch.testing.assert_close(made.mean(0), MEAN, rtol=0, atol=0.02)


def test_the_pseudo_huber_distance_is_square_then_linear():
    zero, unit = torch.zeros(1, 100).double(), torch.ones(1, 100).double()
    assert float(pseudo_huber(zero, 1e-6 * unit, 1.0)) == pytest.approx(1e-10 / 2, rel=1e-3)
    assert float(pseudo_huber(zero, 1e6 * unit, 1.0)) == pytest.approx(1e7, rel=1e-6)
    assert float(pseudo_huber(zero, zero, None)) == 0
    assert float(pseudo_huber(zero, unit, None)) == pytest.approx((100 + 0.0054**2) ** 0.5 - 0.0054)


SMALL = ("backbone.channels=8", "conditioning=class")


class SaveThree(Callback):
    """Saves a checkpoint where callbacks do, after the third step."""

    def __init__(self, file):
        self.file = file

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 3:
            trainer.save_checkpoint(self.file)


def fitted(compose, file, resumed):
    words = ("model=consistency", *SMALL, "discretisation=growing", "model.distance=l2", "dataset.batch_size=8")
    model, data = build_model(compose(*words)), build_data(compose(*words))
    trainer = Trainer(
        accelerator="cpu",
        max_steps=6,
        limit_val_batches=0,
        logger=False,
        callbacks=[SaveThree(file)],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=file.parent,
    )
    trainer.fit(model, data, ckpt_path=str(file) if resumed else None)
    return model


def test_training_resumes_exactly_with_the_weights_of_the_targets(compose, tmp_path):
    whole, resumed = (fitted(compose, tmp_path / "three.ckpt", again) for again in (False, True))
    ours, theirs = (dict(model.denoiser.backbone.named_parameters()) for model in (whole, resumed))
    assert whole._target.keys() == resumed._target.keys() == ours.keys()
    for name, weight in ours.items():
        assert torch.equal(weight, theirs[name])
        assert torch.equal(whole._target[name], resumed._target[name])
    assert any(not torch.equal(weight, ours[name]) for name, weight in whole._target.items())


def test_the_average_of_the_targets_is_no_part_of_the_model(compose):
    model = build_model(compose("model=consistency", *SMALL))
    before = set(model.state_dict())
    model._target = {name: weight.clone() for name, weight in model.denoiser.backbone.named_parameters()}
    assert set(model.state_dict()) == before


def test_targets_are_of_the_averaged_weights(compose):
    model = build_model(compose("model=consistency", *SMALL)).eval()
    other = copy.deepcopy(model.denoiser)
    for parameter in other.parameters():
        nn.init.normal_(parameter, std=0.1)
    model._target = {name: weight.detach() for name, weight in other.backbone.named_parameters()}
    x, s, cond = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 0.2, 0.3]), Condition(vector=torch.tensor([1, 2, 3]))
    torch.testing.assert_close(model.target(x, s, cond), other(x, s, cond).x0)


def test_dropout_is_the_same_in_the_estimate_and_its_target(compose):
    model = build_model(compose("model=consistency", *SMALL, "backbone.dropout=0.5")).train()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    x, s = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 0.2, 0.3])
    cond = Condition(vector=torch.tensor([1, 2, 3]))
    target, estimate = model.target(x, s, cond), model.denoiser(x, s, cond).x0
    torch.testing.assert_close(target, estimate)
    assert not torch.equal(estimate, model.denoiser(x, s, cond).x0)


def test_latent_consistency_learns_from_a_guided_teacher_of_latents(compose, monkeypatch):
    """Its student takes the guidance scale as an input, and samples are decoded (arXiv:2310.04378)."""
    latents = ("autoencoder=kl", "autoencoder.network.channels=8", *SMALL)
    dropout = "conditioning.dropout=0.1"
    cfg = compose(
        *("model=consistency_distillation", *latents, "teacher.scale=[1,4]", "guidance=distilled"),
        f'teacher.base.train=["model=edm","{dropout}"]',
    )
    first = instantiate(cfg.autoencoder.network)()
    monkeypatch.setattr("diffsweep.configuration.loading.trained", lambda **_: SimpleNamespace(autoencoder=first))
    tutor = build_model(compose("model=edm", *latents, dropout))
    for parameter in tutor.denoiser.parameters():
        nn.init.normal_(parameter, std=0.1)
    model = build_model(cfg)
    model.teacher.__dict__["base"] = tutor
    model.setup("fit")
    batch = {"x": torch.randn(4, 1, 8, 8), "label": torch.arange(4), "position": torch.arange(4)}
    loss = model.training_step(batch, 0)
    loss.backward()
    assert float(loss) > 0
    assert isinstance(model.guided(model.sampler), ScaleInput)
    assert model.sample(torch.arange(2), 0).shape == (2, 1, 8, 8)
    z, cond = torch.randn(2, *model.autoencoder.shape), Condition(vector=torch.tensor([0, 1]))
    low, high = (
        model.denoiser(z, torch.tensor(0.5), guided_by_input(cond, torch.full((2,), w))).x0 for w in (1.0, 4.0)
    )
    torch.testing.assert_close(low, high)  # before training the scale has no effect
    assert model.denoiser.backbone is not tutor.denoiser.backbone


REFUSED = [
    (["model=consistency", "objective=hybrid", "prediction.variance=fixed_small"], "not used by model=consistency"),
    (["model=consistency", "time_sampling=stratified"], "leave it out, and see the group discretisation"),
    (["model=consistency", "schedule=cosine"], "has 1281 noise levels in the end, and schedule=cosine has 1001"),
    (["model=consistency", "schedule=flow"], "use discretisation.weight=one, or schedule=edm"),
    (["model=consistency", "sampler.steps=2000"], "more than the 1280 intervals"),
    (["model=consistency", "prediction=x0"], "use prediction=consistency"),
    (["model=consistency", "prediction.sigma_min=0.1"], "is not the lowest noise level of schedule=edm, 0.002"),
    (["model=consistency", "model.distance=lpips"], "one of l2, l1, pseudo_huber, perceptual"),
    (["model=consistency", "model.c=0"], "model.c must be above 0"),
    (["model=consistency", "model.distance=perceptual"], "needs the distance of perceptual=classifier"),
    (["model=consistency", "perceptual=classifier"], "leaves the perceptual distance unused"),
    (["model=consistency", "discretisation=none"], "requires neighbouring times"),
    (["model=consistency", "sampler.at=[0.2,0.5]"], "decreasing times"),
    (["sampler=consistency"], "requires a consistency function.*use model=consistency, or sampler=ddim"),
    (["discretisation=grid"], "model=ddpm does not support that"),
    (
        ["model=consistency_distillation", 'teacher.base.train=["model=ddpm","schedule=edm"]'],
        "use a teacher with prediction=edm",
    ),
    (
        ["model=consistency_distillation", 'teacher.base.train=["model=edm","schedule=ve"]'],
        "was trained under schedule=ve",
    ),
    (
        ["model=consistency_distillation", "conditioning=class", "teacher.scale=2", "guidance=classifier_free"],
        "would guide it again|dropout|null",
    ),
    (["model=consistency", "teacher=trained"], "such as model=consistency_distillation trains"),
    (["model=consistency_distillation", "model.from_data=true", "teacher.initial=false"], "leaves these out; use"),
    (
        [
            "model=consistency_distillation",
            "model.from_data=true",
            "conditioning=class",
            "teacher.scale=2",
            'teacher.base.train=["model=edm","conditioning.dropout=0.1"]',
        ],
        "so teacher.scale=2 would not be used; use teacher.scale=null",
    ),
]


@pytest.mark.parametrize("case", some(REFUSED, 3, ids=lambda case: " ".join(case[0])))
def test_what_does_not_fit_is_refused_in_one_line(compose, case):
    """By the rules distance_of_a_consistency_model_is_given, noise_levels_suit_the_schedule,
    consistency_functions_are_the_identity_at_the_lowest_level, consistency_samplers_take_the_steps_that_were_trained,
    student_reads_the_network_as_its_teacher, a_teacher_that_gives_weights_alone_is_started_from and
    times_and_losses_of_a_consistency_model_are_its_own, among others.
    """
    words, message = case
    with pytest.raises(UserError, match=message) as refused:
        preflight(compose(*words))
    assert "\n" not in str(refused.value)


class Small(nn.Module):
    """A network of points in the plane."""

    def __init__(self, width=128):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, 2),
        )  # fmt: skip

    def forward(self, x, c_noise, cond):
        return self.layers(torch.cat([x, c_noise[:, None].to(x)], 1))


@pytest.mark.slow
@pytest.mark.parametrize(("taught", "most"), [(True, 0.07), (False, 0.15)], ids=["teacher", "data"])
def test_a_small_network_reaches_the_exact_map_of_a_mixture(taught, most):
    """The mean distance from the ODE's solution, over the standard deviation of the data, is 0.057 and 0.124."""
    torch.manual_seed(0)
    schedule = schedules.EDM(sigma_max=10.0, sigma_min=0.01)
    means = torch.tensor([[-0.6, 0.2], [0.6, 0.3], [0.0, -0.6]])
    mixture = GaussianMixtureDenoiser(schedule, means, 0.03 * torch.eye(2).expand(3, 2, 2))
    teacher = None
    if taught:
        teacher = Teacher(lambda: None, Heun(clip="none"))
        teacher.__dict__["base"] = SimpleNamespace(device=torch.device("cpu"), denoiser=mixture)
    denoiser = NetworkDenoiser(Small(), schedule, ConsistencyPrediction(sigma_min=0.01))
    pairs, distance = (Grid(30, mu=0.0), "l2") if taught else (Doubling(10, 80), "pseudo_huber")
    model = bare(schedule, pairs, teacher, distance, denoiser)
    optimizer = torch.optim.Adam(denoiser.parameters(), 2e-3)
    steps = 4000
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(1)
    model._trainer = SimpleNamespace(max_steps=steps, global_step=0)
    for k in range(steps):
        model._trainer.global_step = k
        x_0 = mixture.sample(256, generator)
        loss = model.lesson_losses(x_0, None, Noise(k, torch.arange(256))).losses.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    x = 10 * torch.randn(512, 2, generator=generator)
    exact = ODE(tolerance=1e-6, clip="none")(mixture, x)
    with torch.no_grad():
        ours = denoiser(x, torch.ones((), dtype=torch.float64)).x0
    error = float((ours - exact).norm(dim=1).mean()) / float(mixture.sample(4096, generator).std(0).norm())
    print(f"mean distance from the exact map over the standard deviation of the data: {error:.4f}")
    assert error < most
