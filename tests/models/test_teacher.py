"""Teachers: guided estimates for each sample, a student that learns them, and teachers that do not fit."""

import pytest
import torch
from slower import some

from diffsweep.configuration.build import build_model
from diffsweep.configuration.preflight import preflight
from diffsweep.diffusion import Condition, GaussianMixtureDenoiser, Noise
from diffsweep.errors import UserError
from diffsweep.guidance import ClassifierFreeGuidance, EachScale, ScaleInput, guided_by_input
from diffsweep.models import DistilledModel, Teacher
from diffsweep.models.distilled import start_from
from diffsweep.samplers import DDIM, Ancestral
from diffsweep.schedules import Cosine


def mixture():
    means = torch.tensor([[-0.5, 0.2], [0.5, 0.1], [0.0, -0.6]], dtype=torch.float64)
    spread = 0.04 * torch.eye(2, dtype=torch.float64).expand(3, 2, 2)
    return GaussianMixtureDenoiser(Cosine(1000), means, spread, classes=torch.arange(3))


def test_each_sample_is_guided_at_its_own_scale():
    """The estimate of row i is that of classifier-free guidance with the scale w_i for the whole batch."""
    denoiser, x = mixture(), torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    w, t = torch.tensor([0.0, 1.0, 2.5, 4.0], dtype=torch.float64), torch.tensor([0.2, 0.5, 0.7, 0.9]).double()
    cond = Condition(vector=torch.tensor([0, 1, 2, 0]))
    each = EachScale(denoiser)(x, t, guided_by_input(cond, w))
    for row, scale in enumerate(w.tolist()):
        one = ClassifierFreeGuidance(denoiser, scale)(x[row, None], t[row, None], cond[row : row + 1])
        torch.testing.assert_close(each.x0[row], one.x0[0])
        torch.testing.assert_close(each.eps[row], one.eps[0])


def test_guidance_by_an_input_gives_the_network_the_scale_of_each_step():
    seen = []

    class Recorded(GaussianMixtureDenoiser):
        def forward(self, x_t, t, cond=None):
            seen.append(cond.scalars)
            return super().forward(x_t, t, cond)

    exact = mixture()
    recorded = Recorded(Cosine(1000), exact.means, torch.eye(2).double().expand(3, 2, 2), classes=torch.arange(3))
    guided = ScaleInput(recorded, [1.0, 3.0], times=torch.tensor([1.0, 0.5, 0.0]))
    x, cond = torch.zeros(2, 2, dtype=torch.float64), Condition(vector=torch.tensor([0, 1]))
    for time in (0.9, 0.2):
        guided(x, torch.tensor(time), cond)
    w = torch.tensor([1.0, 3.0]).double()
    expected = [guided_by_input(cond, scale.expand(2)).scalars for scale in w]
    for found, wanted in zip(seen, expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_scales_are_uniform_between_the_least_and_the_most():
    teacher = Teacher(lambda: None, DDIM(), scale=[1.0, 4.0])
    w = teacher.scales_of(Noise(0, torch.arange(20_000)), torch.device("cpu"))
    assert 1 <= float(w.min()) < 1.01
    assert 3.99 < float(w.max()) <= 4
    assert abs(float(w.mean()) - 2.5) < 5 * 3 / (12 * 20_000) ** 0.5


@pytest.fixture
def student(compose, monkeypatch):
    """Return a student with classes whose teacher has the same small network, with random weights."""
    small = ["backbone.channels=8", "sampler.steps=2"]
    tutor = build_model(compose("model=classifier_free", *small, "seed=5")).eval()
    for parameter in tutor.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    monkeypatch.setattr("diffsweep.configuration.loading.trained", lambda **_: tutor)
    return build_model(compose("model=guidance_distillation", *small)), tutor


def test_a_student_starts_as_its_teacher_whatever_the_scale(student):
    student, tutor = student
    assert isinstance(student, DistilledModel)
    student.setup("fit")
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0.2, 0.5, 0.9])
    cond = Condition(vector=torch.tensor([0, 1, 2]))
    known = guided_by_input(cond, torch.tensor([1.0, 2.0, 4.0]))
    torch.testing.assert_close(student.denoiser(x, t, known).x0, tutor.denoiser(x, t, cond).x0)


def test_the_loss_of_a_student_at_its_teachers_estimate_is_zero(student):
    """With w = 1 for all samples the guided teacher is the conditional one, from which the student starts."""
    student, _ = student
    student.setup("fit")
    student.teacher.scales = [1.0, 1.0]
    batch = {"x": torch.randn(4, 1, 8, 8), "label": torch.arange(4), "position": torch.arange(4)}
    assert float(student.training_step(batch, 0)) < 1e-10
    student.teacher.scales = [9.0, 9.0]
    assert float(student.training_step(batch, 0)) > 1e-6


def test_the_first_difference_of_two_networks_is_named():
    with pytest.raises(UserError, match="weight has 3 x 2 numbers and this network's 4 x 2"):
        start_from(torch.nn.Linear(2, 4), torch.nn.Linear(2, 3))
    with pytest.raises(UserError, match="the teacher has bias and this network has none"):
        start_from(torch.nn.Linear(2, 4, bias=False), torch.nn.Linear(2, 4))


REFUSED = [
    (["teacher=none"], "requires a trained teacher"),
    (["teacher.scale=[4,1]"], r"two of them, \[least, most\]"),
    (["sampler@teacher.sampler=ancestral"], "draws noise in its steps"),
    (["teacher.scale=2"], "requires a network that takes the guidance scale as an input"),
    (["teacher.scale=2", "guidance=classifier_free", "conditioning.dropout=0.1"], "would guide it again"),
    (["guidance=classifier_free", "conditioning.dropout=0.1"], "use guidance=distilled, or teacher.scale=null"),
    (["guidance=none"], "gives it none; use guidance=distilled"),
    (["conditioning=class_scalars", "dataset=shapes", "metrics=none"], "takes num_scalars of the condition"),
    (
        ['teacher.base.train=["model=classifier_free","backbone.channels=64"]'],
        "network is not that of the teacher.*; use backbone.channels=64",
    ),
    (
        ["conditioning=none", "teacher.scale=null", "guidance=none"],
        "; use conditioning=class, or teacher.initial=false",
    ),
    (['teacher.base.train=["model=classifier_free","schedule=linear"]'], "was trained under schedule=linear"),
    (
        [
            "prediction.variance=learned_range",
            "objective=hybrid",
            "teacher.base.inherit=[prediction]",
            'teacher.base.train=["model=classifier_free","objective=hybrid"]',
        ],
        "which has no variance",
    ),
    (['teacher.base.train=["model=ddpm","conditioning=class"]'], "null condition, which the model that .* describes"),
]


@pytest.mark.parametrize("case", some(REFUSED, 3, ids=lambda case: " ".join(case[0])))
def test_a_teacher_that_does_not_fit_is_refused_in_one_line(compose, case):
    """Among others by the rules teacher_has_the_network_of_the_student, teacher_has_a_fixed_variance,
    guidance_is_not_built_in_already, teacher_and_conditioning_provide_different_parts, the_scale_of_a_student_is_given,
    guided_teacher_has_a_null_condition.
    """
    words, message = case
    with pytest.raises(UserError, match=message) as refused:
        preflight(compose("model=guidance_distillation", *words))
    assert "\n" not in str(refused.value)


def test_a_stochastic_solver_is_refused_from_python():
    with pytest.raises(ValueError, match="deterministic"):
        Teacher(lambda: None, Ancestral())
