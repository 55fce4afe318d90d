"""Plans: bytes of known tensors, totals of sweeps, what fits in too little memory, and what a plan leaves behind."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from composing import composed
from torch import nn

from diffsweep.configuration.jobs import is_planned
from diffsweep.configuration.rules.trainer import a_plan_is_of_a_new_run
from diffsweep.errors import UserError
from diffsweep.layers.recomputation import recomputed
from diffsweep.models import DiffusionModel
from diffsweep.runs.cost import Cost
from diffsweep.runs.planning import planner, rehearsal, sharing
from diffsweep.runs.planning.ahead import Ahead
from diffsweep.runs.planning.memory import Footprint, KeptBytes, SavedForBackward, known_bytes
from diffsweep.runs.planning.planner import Planner, cost_key
from diffsweep.runs.planning.plans import made
from diffsweep.runs.planning.rehearsal import Rehearsed
from diffsweep.runs.planning.report import shown
from diffsweep.runs.planning.sharing import Sharing, first_share

OF_FINISHED = ("schedule=linear", "schedule.num_steps=500", "prediction=v", "optimizer.lr=0.02")  # of the fixture
STAGE = 'guidance.weak.train=["trainer.max_steps=3","metrics=none","callbacks=minimal"]'
MB = 10**6


def memory(step=300 * MB, peak=300 * MB, capacity=1100 * MB, per_sample=1.5 * MB, batch=100):
    return Footprint("cpu", KeptBytes(10, 10, 20, 10), 100 * MB, batch, 50 * MB, per_sample, step, peak, capacity)


def costs(directory=Path("nowhere"), step=2.0):
    """Return what the parts of a run cost: 5 s of a validation, 1 s of pictures, 30 s of measurement, ..."""
    cost = Cost("unet", 10, 0.5, "an image")
    return Rehearsed(
        directory, cost, 10, 10, 1000, step, 5.0, 1.0, 0.5, 3.0, {"sampling": 30.0}, Ahead(), memory(), 30, 5
    )


@pytest.fixture
def rehearsed(monkeypatch):
    """The configurations that were rehearsed in a test, where each step costs 2 s and nothing is run."""
    found = []

    def rehearse(cfg, directory, process, seconds):
        found.append(cfg)
        return costs(directory)

    monkeypatch.setattr(planner, "rehearse", rehearse)
    return found


@pytest.mark.parametrize("rows", [1, 5])
def test_activations_are_the_inputs_of_layers(rows):
    """Linear layers keep their inputs, a convolution its input, and SiLU its own: 4 bytes a number."""
    linear = nn.Sequential(nn.Linear(7, 11), nn.Linear(11, 3))
    images = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU())
    with SavedForBackward(linear.parameters()) as saved:
        linear(torch.randn(rows, 7)).sum()
    assert saved.bytes == 4 * rows * (7 + 11)
    with SavedForBackward(images.parameters()) as saved:
        images(torch.randn(rows, 3, 6, 6)).sum()
    assert saved.bytes == 4 * rows * 36 * (3 + 8)
    with SavedForBackward(linear.parameters()) as saved:
        recomputed(linear, torch.randn(rows, 7), preserve_rng_state=False).sum().backward()
    assert saved.bytes == 4 * rows * 7


def test_known_bytes_are_those_of_the_tensors():
    """Adam has two averages of each number that trains, and a count of steps for each tensor."""
    model = nn.Sequential(nn.Linear(7, 11), nn.BatchNorm1d(11), nn.Linear(11, 3).requires_grad_(False))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    model(torch.randn(4, 7)).sum().backward()
    optimizer.step()
    numbers, frozen, buffers = 7 * 11 + 11 + 2 * 11, 11 * 3 + 3, 4 * 2 * 11 + 8
    average = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    assert known_bytes(model, [optimizer], [average]) == (
        4 * (numbers + frozen) + buffers,
        4 * numbers,
        2 * 4 * numbers + 4 * len(trained),
        4 * numbers,
    )
    assert 4 * numbers == sum(weight.grad.nbytes for weight in trained)


def test_the_largest_batch_lies_on_the_line_through_two_batches():
    """M(B) = 150 MB + 1.5 MB B; 90 % of 1100 MB hold 560 samples, so 512."""
    assert memory().largest_batch == 512
    assert memory().of_batch(512) == 150 * MB + 512 * 1.5 * MB
    assert memory(peak=400 * MB).of_batch(1) == 400 * MB  # the measurement takes more than any step
    assert memory(capacity=160 * MB).largest_batch == 0
    assert memory(capacity=None).largest_batch is None
    assert memory().working == 300 * MB - 100 * MB - 50 - 50 * MB


def test_the_parts_of_a_plan_are_counted():
    """Of 1,000 steps with two batches of 64, validated each 300: three validations, and one kept checkpoint more."""
    words = ("trainer.max_steps=1000", "trainer.val_check_interval=300", "dataset.batch_size=64")
    plan = made(composed("train", *words, "trainer.accumulate_grad_batches=2"), costs(), (), {})
    assert (plan.images, plan.epochs, plan.validations) == (128_000, 128.0, 3)
    assert plan.seconds == 1000 * 2 + 3 * (5 + 1 + 0.5) + 3 + 30
    assert plan.disk == 3 * 30 + 3 * 5
    assert plan.flops == 3 * 1e9 * 128


def test_processes_share_samples_and_sum_gradients():
    """Of 1,000 samples in batches of 256 the first of three processes has the first and the last batch."""
    assert [first_share(1000, 256, n) for n in (1, 2, 3, 4, 9)] == [1000, 512, 256 + 232, 256, 256]
    words = ("trainer=ddp", "trainer.devices=4", "trainer.num_nodes=2", "trainer.max_steps=100")
    cfg = composed("train", *words, "dataset.batch_size=16", "trainer.accumulate_grad_batches=2")
    beside = Sharing(2, 4, summing=1.5, overlap=2 / 3, starting=3.0)
    plan = made(cfg, replace(costs(), sharing=beside), (), {})  # a step of 2 s has two batches of 1 s
    assert (plan.samples, plan.rehearsed.sharing.processes) == (8 * 2 * 16, 8)
    assert plan.parts["sums of gradients"] == pytest.approx(100 * (1.5 - 2 / 3))
    assert plan.parts["start of the others"] == 3
    assert plan.device_seconds == 8 * plan.own_seconds
    assert replace(beside, summing=0.5).beyond(1.0) == 0
    assert "on 2 machines of 4 devices, each with 32 samples of a step" in shown(plan)


def test_sums_of_gradients_on_gpus_are_calculated(monkeypatch):
    """1.8 GB between 4 devices at 80 % of 450 GB/s: 2 * 3/4 * 1.8 / 360 s, and 1.8 / 40 s more between two machines."""
    monkeypatch.setattr(sharing, "device_of", lambda cfg: torch.device("cuda"))
    words = ("trainer=ddp", "trainer.devices=4")
    one, two = (composed("train", *words, f"trainer.num_nodes={nodes}") for nodes in (1, 2))
    found = [sharing.sharing_of(cfg, 1_800_000_000, 1.0) for cfg in (one, two)]
    assert [each.summing for each in found] == pytest.approx([0.0075, 0.0075 + 0.045])
    assert [each.assumed.startswith("sums of gradients at 360 GB/s") for each in found] == [True, True]
    assert "40 GB/s between machines" in found[1].assumed
    assert sharing.sharing_of(composed("train"), 10, 1.0) == Sharing()
    sharded = sharing.sharing_of(composed("train", "trainer=fsdp", "trainer.devices=4"), 1_800_000_000, 1.0)
    assert (sharded.summing, sharded.buckets) == (pytest.approx(1.5 * 0.0075), 0)


@pytest.mark.slow
def test_a_plan_of_two_processes_has_the_memory_of_each(configure, tmp_path):
    """Each has the weights, a copy of the gradients and its own samples; sums are measured between both."""
    words = ("trainer=ddp", "trainer.accelerator=cpu")
    with Planner(seconds=0.0) as some:
        two, one = some.plan(configure(tmp_path / "run", *words)), some.plan(configure(tmp_path / "run"))
        sharded = some.plan(configure(tmp_path / "run", "trainer=fsdp", "trainer.accelerator=cpu"))
    assert (two.samples, one.samples) == (2 * one.batch, one.batch)
    assert two.memory.known == one.memory.known
    assert two.memory.buckets == two.memory.known.gradients
    assert two.memory.capacity == pytest.approx(one.memory.capacity / 2, rel=0.2)
    assert 0 < two.rehearsed.sharing.summing < 10
    assert "as gloo was measured in 2 processes" in shown(two)
    assert sum(sharded.memory.known) == pytest.approx(sum(two.memory.known) / 2, rel=1e-3)
    assert sharded.memory.buckets == 0


def test_a_validation_is_scaled_to_all_of_its_batches():
    """Of 10 batches, 3 were timed: the first took 3 s and others 1 s each; 2 s of pictures and 4 s of files follow."""
    ends = {("validation_epoch_end", "last"): [18.0], ("validation_end", "first"): [18.0]}
    times = ends | {("validation_start", "first"): [10.0], ("validation_batch_end", "first"): [13.0, 14.0, 15.0]}
    times |= {("validation_epoch_end", "first"): [16.0], ("validation_end", "last"): [22.0]}
    data = SimpleNamespace(loader_samples=lambda split: range(2500), split=lambda split: range(100))
    seconds, parts = rehearsal._validation(composed("train"), times, data)
    assert seconds == 3 + 9
    assert parts == {"validation_epoch_end": 2.0, "validation_end": 4.0, "all": 12.0}
    of_four, _ = rehearsal._validation(composed("train"), times, data, 4)
    assert of_four == 3 + 2  # 625 samples are three batches


def test_runs_whose_costs_are_equal_share_a_rehearsal():
    own = cost_key(composed("train"))
    for words in (("seed=3",), ("trainer.max_steps=9",), ("optimizer.lr=0.1",), ("logger=csv", "verify=true")):
        assert cost_key(composed("train", *words)) == own, words
    for words in (("dataset.batch_size=7",), ("schedule=linear",), ("sampler.steps=9",), ("backbone.channels=8",)):
        assert cost_key(composed("train", *words)) != own, words


def test_a_sweep_counts_each_stage_once(command, fast, rehearsed):
    """Two seeds have the same costs and need one weaker model: two rehearsals, and the whole is the sum."""
    done = command("train", "-m", *fast, "guidance=autoguidance", STAGE, "seed=0,1", "plan=plan.json")
    assert done.code == 0, done.err
    assert [cfg.trainer.max_steps for cfg in rehearsed] == [3, 4]
    numbers = json.loads(Path("plan.json").read_text())
    jobs, stages = numbers["jobs"], numbers["stages"]
    own, of_stage = 4 * 2 + 2 * 6.5 + 33, 3 * 2 + 6.5 + 33  # the stage is validated after two steps of three
    assert numbers["hours"] * 3600 == pytest.approx(2 * own + of_stage)
    assert numbers["disk"] == 3 * (3 * 30) + 2 * (2 * 5) + 5
    assert [job["hours"]["all"] * 3600 for job in jobs.values()] == pytest.approx([own + of_stage] * 2)
    assert (list(jobs), len(stages)) == (["0_seed-0", "1_seed-1"], 1)
    assert [path.name for path in Path().iterdir()] == ["plan.json"]
    assert "plan=" not in done.out.splitlines()[-1]


def test_a_plan_leaves_nothing_behind_and_has_the_sizes_of_the_run(
    command, fast, finished, checkpoint, monkeypatch, tmp_path
):
    monkeypatch.setattr(rehearsal, "SECONDS", 0.0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = {path.name for path in tmp_path.iterdir()}
    done = command("train", *fast, *OF_FINISHED, "plan=plan.json")
    assert done.code == 0, done.err
    assert {path.name for path in tmp_path.iterdir()} == before
    assert [path.name for path in Path().iterdir()] == ["plan.json"]
    numbers, saved = json.loads(Path("plan.json").read_text()), checkpoint(finished)
    (size,) = {path.stat().st_size for path in finished.glob("checkpoints/last.ckpt")}
    assert numbers["disk"]["checkpoints"] == pytest.approx(3 * size, rel=0.05)
    states = saved["optimizer_states"][0]["state"].values()
    assert numbers["memory"]["optimizer"] == sum(value.nbytes for state in states for value in state.values())
    average = sum(weight.nbytes for weight in saved["ema"]["weights"].values())
    assert (numbers["memory"]["average"], numbers["memory"]["gradients"]) == (average, average)
    assert (numbers["steps"], numbers["samples"]) == (4, 4 * 32)
    assert done.out.splitlines()[-1].endswith("optimizer.lr=0.02")
    assert "plan=" not in done.out.splitlines()[-1]


@pytest.mark.slow
def test_what_fits_keeps_the_samples_of_a_step(configure, tmp_path, monkeypatch):
    """A device for 8 samples: batches of 8, four in a step, are measured and suggested in place of one of 32."""
    original = DiffusionModel.training_step

    def training_step(self, batch, batch_idx):
        if len(batch["x"]) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, batch, batch_idx)

    monkeypatch.setattr(DiffusionModel, "training_step", training_step)
    with Planner(seconds=0.0) as some:
        plan = some.plan(configure(tmp_path / "run"))
    assert [change.words for change in plan.changes] == ["dataset.batch_size=8 trainer.accumulate_grad_batches=4"]
    assert (plan.samples, plan.memory.batch) == (32, 8)


@pytest.mark.slow
def test_latents_that_no_file_has_are_planned_with_their_autoencoder(configure, tmp_path):
    words = '"model=autoencoder_kl","autoencoder.model=null","trainer.max_steps=2","metrics=none","callbacks=minimal"'
    with Planner(seconds=0.0) as some:
        plan = some.plan(configure(tmp_path / "run", "model=ldm", f"autoencoder.model.train=[{words}]"))
    (stage,) = plan.stages.values()
    assert stage.steps == 2
    assert plan.own_disk["data ahead"] == 1797 * 2 * 4 * 4 * 4  # of each digit 2 channels of 4 x 4 numbers of 4 bytes
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plan": True, "resume_from": "run"}, "plan=true predicts the costs of a new run: leave resume out"),
        ({"plan": True, "replay": True}, "leave debug=replay out"),
        ({"plan": "yes"}, "FILE.json"),
    ],
)
def test_plans_of_begun_runs_and_odd_files_are_refused(changes, words):
    rule, cfg = a_plan_is_of_a_new_run, composed("train")
    assert rule(cfg, None) is None
    cfg.update(changes)
    assert words in rule(cfg, None)


def test_one_plan_is_of_all_jobs_and_of_no_search(command):
    with pytest.raises(UserError, match="one value for all jobs"):
        is_planned(["plan=true,false"])
    assert [is_planned([word]) for word in ("plan=true", "plan=false", "plan=a.json", "seed=1")] == [1, 0, 1, 0]
    done = command("train", "-m", "plan=true", "hydra/sweeper=optuna", "optimizer.lr=interval(1e-4,1e-2)")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "a search chooses its jobs" in done.err
