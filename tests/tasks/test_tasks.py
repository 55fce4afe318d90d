"""Every option of conf/task on a tiny finished run: what all of them promise, and what each of them does."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiles import enlarged, places_of

from diffsweep import pictures
from diffsweep.configuration.compose import compose
from diffsweep.configuration.loading import load_model
from diffsweep.datasets import load_digits

OTHERS = {"control", "counterfactual", "prompt_swap", "prompt_to_prompt", "restore", "translate"}  # of other models
OPTIONS = sorted({path.stem for path in (Path(__file__).parents[2] / "conf/task").glob("*.yaml")} - OTHERS)
SETTINGS = {
    "edit": ["sampler.start=0.5"],
    "inpaint": ["degradation=mask_half", "guidance=repaint", "guidance.jump_length=1", "guidance.resamplings=1"],
}
CLIPS = {
    "extend": (16, 7),
    "double_rate": (7, 4),
    "upscale": (4, 1),
}  # frames that a model of four frames makes, and the trajectories for them


def images_of(folder):
    return pictures.load_npz(folder / "samples.npz")


@pytest.mark.parametrize("option", OPTIONS)
def test_each_task_writes_samples_and_pictures_and_prints_their_paths(command, request, tmp_path, option):
    out = tmp_path / "out"
    more, shape, trajectories = SETTINGS.get(option, []), (1, 8, 8), 1
    finished = request.getfixturevalue("finished_clips" if option in CLIPS else "finished")
    if option in CLIPS:
        frames, trajectories = CLIPS[option]
        more, shape = ["guidance=replacement"], (1, frames, 16, 16)
    done = command(
        "sample",
        f"run={finished}",
        f"task={option}",
        "sampler=ddim",
        "sampler.steps=4",
        "num_samples=18",
        f"output={out}",
        *more,
    )
    assert done.code == 0, done.err
    assert images_of(out).shape == (6 if option == "upscale" else 18, *shape)  # six clips are held out
    found = [path for path in out.iterdir() if path.suffix in (".png", ".gif")]
    assert found
    for path in found:
        assert str(path) in done.out
        with Image.open(path) as picture:
            assert min(picture.size) >= 64
            assert len(np.unique(np.asarray(picture))) > 4
    assert f"by ddim in 4 steps, {4 * trajectories} network evaluations each" in done.out


PAGED = {  # a task's settings, a picture's name, the samples of a full page and of the last one, and what it prints
    "generate": ([], "grid", 100, 3, "103 samples, shown in 2 pages"),
    "edit": (["sampler.start=0.5"], "edit", 72, 2, "74 images edited from t = 0.5, shown in 2 pages"),
    "reconstruct": ([], "reconstruction", 48, 13, "on [-1, 1], shown in 2 pages"),
    "interpolate": (["task.frames=2"], "interpolation", 24, 2, "13 interpolations of 2 samples, shown in 2 pages"),
}
ABOVE = {"edit": 1, "reconstruct": 2}  # rows from an original down to what is made of it


@pytest.mark.parametrize("option", PAGED)
def test_all_samples_are_shown_in_pages(command, finished, tmp_path, option):
    """Each sample is found in the pages, pixel for pixel, in order and on one page alone, and originals above them."""
    more, name, full, last, line = PAGED[option]
    shared = [
        "sample",
        f"run={finished}",
        f"task={option}",
        "sampler=ddim",
        "sampler.steps=2",
        f"num_samples={full + last}",
    ]
    done = command(*shared, *more, f"output={tmp_path}")
    assert done.code == 0, done.err
    assert line in done.out
    pages = sorted(tmp_path.glob(f"{name}*.png"))
    assert [path.stem for path in pages] == [f"{name}_{i + 1}" for i in range(len(pages))]
    assert f"{pages[0]} to {pages[-1].name}, {len(pages)} pages" in done.out
    samples, truth, shown = enlarged(images_of(tmp_path), 8), enlarged(load_digits("val")["x"][: full + last], 8), []
    for path in pages:
        with Image.open(path) as picture:
            made = places_of(picture, samples)
            shown.append([i for i, places in enumerate(made) if places])
            pixels = np.asarray(picture)
        for original, places in zip(truth if option in ABOVE else (), made, strict=False):
            for top, left in places:
                top -= 66 * ABOVE[option]
                assert np.array_equal(pixels[top : top + 64, left : left + 64], original[..., 0])
    assert [i for part in shown for i in part] == list(range(full + last))
    assert [len(part) for part in shown] == [full, last]


def test_pages_can_be_limited(command, finished, tmp_path):
    shared = ["sample", f"run={finished}", "task=edit", "sampler.start=0.5", "sampler.steps=2", f"output={tmp_path}"]
    (tmp_path / "edit_2.png").touch()  # of an earlier picture
    done = command(*shared, "num_samples=74", "pages=1")
    assert done.code == 0, done.err
    assert "74 images edited from t = 0.5, the first 72 shown in 1 page; pages=null shows all" in done.out
    assert [path.stem for path in tmp_path.glob("*.png")] == ["edit"]
    assert len(images_of(tmp_path)) == 74


def test_a_number_of_pages_below_one_is_refused(command, finished):
    done = command("sample", f"run={finished}", "pages=0")
    assert done.code == 2
    assert "pages must be at least 1, or null for as many as show all samples, not 0" in done.err


def test_the_sample_of_a_seed_is_the_one_that_it_has_alone(command, finished, tmp_path):
    shared = ["sample", f"run={finished}", "sampler=ancestral", "sampler.steps=5"]
    assert command(*shared, "task.seeds=[3,17,3]", f"output={tmp_path / 'several'}").code == 0
    assert command(*shared, "seed=17", "num_samples=1", f"output={tmp_path / 'one'}").code == 0
    several, one = images_of(tmp_path / "several"), images_of(tmp_path / "one")
    level = 2 / 255 + 1e-6  # rounding differs between batches, which may move a pixel by one of its 256 levels
    torch.testing.assert_close(several[1], one[0], rtol=0, atol=level)
    torch.testing.assert_close(several[0], several[2], rtol=0, atol=level)
    assert (several[0] - several[1]).abs().max() > 0.1


def test_an_edit_is_sampled_from_the_noised_image(command, finished, tmp_path):
    """With less noise the result is nearer to the image; images of files and of the data are treated alike."""
    shared = ["sample", f"run={finished}", "task=edit", "sampler=ddim", "sampler.steps=6", "num_samples=4"]
    assert command(*shared, "sampler.start=0.4", f"output={tmp_path / 'data'}").code == 0
    truth, ours = load_digits("val")["x"][:4], images_of(tmp_path / "data")
    model = load_model(compose("sample", [f"run={finished}", "sampler=ddim", "sampler.steps=6", "sampler.start=0.4"]))
    x, noise = model.start(torch.arange(4), seed=5, source=truth)
    alpha, sigma = model.denoiser.schedule(torch.tensor(0.4).double())
    torch.testing.assert_close(((x - alpha * truth) / sigma).std(), torch.tensor(1.0), rtol=0, atol=0.15)
    expected = model.sampler(model.denoiser, x, noise=noise)
    assert np.array_equal(pictures.to_uint8(ours), pictures.to_uint8(expected))
    assert command(*shared, "sampler.start=0.02", f"output={tmp_path / 'little'}").code == 0
    assert (images_of(tmp_path / "little") - truth).abs().mean() < (ours - truth).abs().mean()
    folder = tmp_path / "files"
    folder.mkdir()
    for i, image in enumerate(pictures.to_uint8(truth)):
        Image.fromarray(image[..., 0]).save(folder / f"{i}.png")
    np.savez(tmp_path / "file.npz", pictures.to_uint8(truth))
    for source in (folder, tmp_path / "file.npz"):
        assert (
            command(*shared, "sampler.start=0.4", f"task.source={source}", f"output={tmp_path / source.stem}").code == 0
        )
        assert (images_of(tmp_path / source.stem) - ours).abs().max() < 0.05  # up to the 256 levels of a file


@pytest.mark.slow
def test_a_reconstruction_is_nearer_with_more_steps(command, finished, tmp_path):
    truth, errors = load_digits("val")["x"][:4], []
    for steps in (10, 300):
        out = tmp_path / str(steps)
        shared = ["sample", f"run={finished}", "task=reconstruct", "sampler=ddim", "sampler.clip=none", "num_samples=4"]
        done = command(*shared, f"sampler.steps={steps}", f"output={out}")
        assert done.code == 0, done.err
        errors.append(float((images_of(out) - truth).square().mean().sqrt()))
        assert f"root mean square error {errors[-1]:.2f}"[:-1] in done.out
    assert errors[1] < errors[0] / 3


def test_an_interpolation_begins_and_ends_with_the_samples_of_its_ends(command, finished, tmp_path):
    shared = ["sample", f"run={finished}", "sampler=ddim", "sampler.steps=4"]
    assert (
        command(*shared, "task=interpolate", "task.frames=5", "num_samples=10", f"output={tmp_path / 'between'}").code
        == 0
    )
    assert command(*shared, "num_samples=4", f"output={tmp_path / 'ends'}").code == 0
    between, ends = images_of(tmp_path / "between"), images_of(tmp_path / "ends")
    assert len(between) == 10
    torch.testing.assert_close(between[[0, 4, 5, 9]], ends, rtol=0, atol=0.01)
    steps = (between[1:5] - between[:4]).flatten(1).norm(dim=1)
    assert steps.max() < (between[4] - between[0]).norm()
    with Image.open(tmp_path / "between" / "interpolation.gif") as animation:
        assert animation.n_frames == 8  # to and fro, each end once


OUTSIDE = """
import torch
from diffsweep import pictures
from diffsweep.tasks import Task

class Stamp(Task):
    '''Samples with a bright square of a given size in their corner.'''

    def __init__(self, size: int = 2):
        self.size = size

    def incompatible_because(self, space, sampler, guidances):
        if self.size > space.shape[-1]:
            return f"task.size={self.size} is more than the {space.shape[-1]} pixels of a side; use at most these"

    def run(self, job):
        request = job.request(torch.arange(job.num_samples))
        drawn = job.draw(job.num_samples, lambda rows: job.model.start(rows, job.seed), request)
        drawn.x[..., : self.size, : self.size] = 1
        pictures.save_shown(pictures.grid, [drawn.x], job.folder / "stamped")
        return drawn, f"{len(drawn.x)} samples stamped"
"""


@pytest.fixture
def unloaded(monkeypatch):
    """Loading a model fails the test."""

    def load(cfg):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("diffsweep.runs.commands.load_sampled", load)


@pytest.mark.slow
def test_a_task_can_be_a_class_outside_the_package(command, finished, tmp_path, monkeypatch, request):
    """It replaces an option and its settings, and refuses a job that cannot be done before a model is loaded."""
    (tmp_path / "tasks_for_tests.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    chosen = ["sample", f"run={finished}", "task._target_=tasks_for_tests.Stamp", "sampler.steps=3", "num_samples=4"]
    done = command(*chosen, "trust=[tasks_for_tests]", "+task.size=3", f"output={tmp_path / 'out'}")
    assert done.code == 0, done.err
    assert "4 samples stamped" in done.out
    assert (images_of(tmp_path / "out")[:, :, :3, :3] == 1).all()
    assert (tmp_path / "out" / "stamped.png").is_file()
    request.getfixturevalue("unloaded")
    for more, message in (
        (["trust=[tasks_for_tests]", "+task.size=9"], "task.size=9 is more than the 8 pixels"),
        (["trust=[tasks_for_tests]", "task.seeds=[1]"], "task.seeds: no such key"),
        ([], "trust=[tasks_for_tests]"),
    ):
        done = command(*chosen, *more)
        assert done.code == 2
        assert message in done.err.strip().splitlines()[-1]


BAD = [
    (["sampler.start=0.6"], "task=edit"),
    (["task.seeds=[]"], "task.seeds is empty"),
    (["task=edit"], "sampler.start=0.6"),
    (["task=edit", "sampler.start=0"], "sampler.start"),
    (["task=edit", "sampler.start=0.5", "task.source=nowhere.png"], "no such file"),
    (["task=edit", "sampler.start=0.5", "task.source=empty"], "has no images"),
    (["task=reconstruct", "sampler=heun"], "use sampler=ddim"),
    (["task=reconstruct", "sampler=ddim", "sampler.eta=0.3"], "sampler.eta=0"),
    (["task=interpolate", "task.frames=1"], "task.frames must be at least 2"),
    (["task=interpolate", "sampler=ddim", "sampler.start=0.5"], "use sampler.start=1"),
    (["task=interpolate", "task.source=data"], "use sampler=ddim"),
    (["task=extend"], "use a run of model=video"),
    (
        ["task=paint"],
        "did you mean inpaint? task has control, counterfactual, double_rate, edit, extend, generate, inpaint, ",
    ),
    (["task.frames=4"], "task.frames"),
    (["num_samples=0"], "at least 1"),
]


@pytest.mark.parametrize(
    ("overrides", "message"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_input_is_one_line_and_loads_no_model(command, finished, unloaded, overrides, message):
    Path("empty").mkdir()
    done = command("sample", f"run={finished}", *overrides)
    assert done.code == 2
    line = done.err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert message in line


def test_files_that_do_not_suit_the_task_are_one_line(command, finished, tmp_path):
    np.savez(tmp_path / "large.npz", np.zeros((2, 16, 16, 3), dtype=np.uint8))
    Image.new("RGB", (20, 10)).save(tmp_path / "one.png")
    for arguments, message in (
        (["task=edit", f"task.source={tmp_path / 'large.npz'}"], "the model's have (1, 8, 8)"),
        (["task=interpolate", "sampler=ddim", f"task.source={tmp_path / 'one.png'}"], "needs two"),
    ):
        start = [] if "sampler=ddim" in arguments else ["sampler.start=0.5"]
        done = command("sample", f"run={finished}", *arguments, *start)
        assert done.code == 2
        assert message in done.err.strip().splitlines()[-1]


def test_train_has_no_tasks(command):
    done = command("train", "task=edit")
    assert done.code == 2
    assert "task" in done.err


def test_samples_of_several_seeds_have_the_condition_of_the_first_sample(configure, tmp_path):
    """They have its noise too. A row of an interpolation has the condition of its first end, a sample of that index."""
    from diffsweep.configuration.build import build_data, build_diffusion
    from diffsweep.tasks import Generate, Interpolate, Job

    cfg = configure(tmp_path / "run", "model=classifier_free", "sampler=ddim", "sampler.steps=2")
    model = build_diffusion(cfg).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    job = Job(model, build_data(cfg), tmp_path, 6, 0, 4)
    drawn, _ = Generate(seeds=[5, 7])(job)
    assert drawn.request["label"].tolist() == [0, 0]
    alone = [model.sample(torch.tensor([0]), seed) for seed in (5, 7)]
    torch.testing.assert_close(drawn.x, torch.cat(alone), rtol=0, atol=1e-4)
    rows, _ = Interpolate(frames=3)(job)
    assert rows.request["label"].tolist() == [0, 0, 0, 2, 2, 2]
    torch.testing.assert_close(rows.x[::3], model.sample(torch.tensor([0, 2]), 0), rtol=0, atol=1e-3)
