"""Processes of a run that torchrun, Slurm, submitit or the user start: which is the first, and their number."""

import importlib.util
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from diffsweep.configuration.compose import Composed
from diffsweep.errors import UserError
from diffsweep.processes import NUMBERS, started, starts_first
from diffsweep.runs.job_processes import give_processes, refuse_own_folders, refuse_processes
from diffsweep.runs.machine import check_machine, check_processes, processes_of
from diffsweep.runs.resuming import batch_note
from diffsweep.runs.sweeps import run_sweep
from diffsweep.runs.training import train

SRC = Path(__file__).resolve().parents[2] / "src"
VARIABLES = (*NUMBERS, "WORLD_SIZE", "SLURM_NTASKS", "SLURM_JOB_NAME")
STARTED = {  # variables: whether this process is the first, and how many were started
    "nothing": ({}, True, None),
    "torchrun, first": ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}, True, 4),
    "torchrun, first of a second machine": ({"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}, False, 4),
    "srun, second": ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train"}, False, 2),
    "a shell of Slurm": ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "bash"}, True, None),
    "a second machine": ({"NODE_RANK": "1"}, False, None),
    "a child of Lightning's": ({"NODE_RANK": "0", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, False, None),
}


@pytest.fixture
def variables(monkeypatch):
    """``variables(values)`` sets the variables of what starts processes, and no others of them."""

    def variables(values):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return variables


def of(devices=1, nodes=1, batch=16, accumulated=1, **trainer):
    """Return the part of a configuration that decides on processes and batches."""
    trainer |= {"devices": devices, "num_nodes": nodes, "accumulate_grad_batches": accumulated}
    return OmegaConf.create({"trainer": trainer, "dataset": {"batch_size": batch}, "resume_from": None})


@pytest.mark.parametrize("kind", STARTED)
def test_the_first_process_is_known_before_they_join(kind, variables):
    values, first, count = STARTED[kind]
    variables(values)
    assert (starts_first(), started()) == (first, count)


@pytest.mark.parametrize(
    ("devices", "nodes", "count"), [(3, 1, 3), ("2", 2, 4), ([0, 3], 1, 2), ("0,3,", 2, 4), (1, 8, 8)]
)
def test_processes_are_counted(devices, nodes, count):
    assert processes_of(of(devices, nodes)) == count


@pytest.mark.parametrize("kind", STARTED)
def test_another_number_of_processes_is_refused_in_one_line(kind, variables):
    values, first, count = STARTED[kind]
    variables(values)
    check_processes(of(count or 2))
    if count is None:
        return
    with pytest.raises(UserError, match=rf"^trainer\.devices=3 on 2 machines is a training of 6 .*, and {count} were"):
        check_processes(of(3, 2))
    if first:  # a plain run in a job of Slurm
        check_processes(of(1))
    else:
        with pytest.raises(UserError, match=r"^trainer\.devices=1 is a training of 1 processes, and"):
            check_processes(of(1))


@pytest.mark.parametrize(
    ("before", "now", "fix"),
    [
        (of(2, batch=16), of(1, batch=16), "had 32; trainer.accumulate_grad_batches=2 keeps 32"),
        (of(1, batch=32), of(2, batch=32), "had 32; dataset.batch_size=16 keeps 32"),
        (of(4, 2, 16, 2), of(8, 4, 16), "a step has 512 samples on 32 devices, and had 256; dataset.batch_size=8"),
        (of(1, batch=15), of(2, batch=15), "15 cannot be kept, since they do not divide among 2 devices"),
        (of(2, batch=16), of(1, batch=32), None),
        (of(2, batch=16), of(2, batch=32), None),
    ],
)
def test_other_devices_of_a_resumed_run_are_answered_with_what_keeps_the_batch(before, now, fix):
    note = batch_note(before, now)
    assert note is None if fix is None else fix in note


def test_processes_that_start_apart_need_one_folder(variables, tmp_path):
    def job(*words, command="train"):
        found = of(**({"nodes": 2} if "trainer.num_nodes=2" in words else {}))
        found = found if command == "train" else OmegaConf.create({"trainer": found.trainer})
        return Composed(command, found, OmegaConf.create(), tmp_path, list(words))

    variables({"RANK": "1", "WORLD_SIZE": "2"})
    with pytest.raises(
        UserError, match=r"^paths\.run_dir is missing: the 2 processes that were started need one folder"
    ):
        refuse_own_folders(job("trainer=ddp"))
    refuse_own_folders(job("trainer=ddp", "paths.run_dir=run"))
    refuse_own_folders(job("run=run", command="evaluate"))
    with pytest.raises(UserError, match=r"^-m runs one job after the other, and 2 processes were started"):
        run_sweep("train", ["seed=0,1"])
    variables({"NODE_RANK": "1"})
    refuse_own_folders(job())
    refuse_own_folders(Composed("train", of(nodes=0), OmegaConf.create(), tmp_path, []))  # which a rule refuses
    with pytest.raises(UserError, match=r"^paths\.run_dir is missing: the 2 machines of trainer\.num_nodes=2 need one"):
        refuse_own_folders(job("trainer.num_nodes=2"))


def test_a_launcher_starts_a_process_for_each_device_of_each_machine():
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    slurm = ["hydra/launcher=submitit_slurm", "hydra.launcher.gpus_per_node=8"]
    settings = OmegaConf.create({"nodes": 1, "tasks_per_node": 1, "partition": None})
    give_processes(settings, slurm, [of(8, 2), of(8, 2, batch=32)])
    assert settings == {"nodes": 2, "tasks_per_node": 8, "partition": None}
    evaluation = OmegaConf.create({"trainer": {"devices": 8, "num_nodes": 2}})
    for every in ([of()], [evaluation], [of(2)]):
        refuse_processes("train", [], every)
    refuse_processes("train", [*slurm, "hydra.launcher.nodes=2"], [of(8, 2)])
    refused = {
        "trainer.num_nodes=2: -m runs its jobs on this machine": ([], [of(8, 2)]),
        "hydra/launcher=joblib starts one process for a job, and the trainer has 2": (
            ["hydra/launcher=joblib"],
            [of(2)],
        ),
        "hydra/launcher=submitit_local starts processes on this machine alone, and trainer.num_nodes=2": (
            ["hydra/launcher=submitit_local"],
            [of(8, 2)],
        ),
        "hydra.launcher.tasks_per_node=4, and the trainer has 8": (
            [*slurm, "hydra.launcher.tasks_per_node=4"],
            [of(8, 2)],
        ),
        "trainer.devices and trainer.num_nodes are swept": (slurm, [of(8), of(4)]),
    }
    for message, (overrides, every) in refused.items():
        with pytest.raises(UserError) as error:
            refuse_processes("train", overrides, every)
        assert str(error.value).startswith(message)
        assert "\n" not in str(error.value)


def test_what_a_device_does_not_compute_is_refused_in_one_line(monkeypatch, tmp_path, configure, capsys):
    """Precisions, and on a CPU a warning where processes are more than its cores."""
    plain = configure(tmp_path / "run")

    def machine(gpu, mps=False):
        gpus = SimpleNamespace(auto_device_count=lambda: int(gpu))
        monkeypatch.setattr("diffsweep.runs.machine.CUDAAccelerator", gpus)
        monkeypatch.setattr("diffsweep.runs.machine.MPSAccelerator", SimpleNamespace(is_available=lambda: mps))
        monkeypatch.setattr("diffsweep.runs.machine._try", lambda cfg: None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)

    def checked(**trainer):
        cfg = plain.copy()
        cfg.trainer.update(trainer)
        check_machine(cfg)

    machine(gpu=True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(UserError, match=r"^trainer\.precision=bf16-mixed: Tesla T4 does not compute in bfloat16"):
        checked(accelerator="gpu", precision="bf16-mixed")
    checked(accelerator="cpu", precision="bf16-mixed")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    checked(accelerator="gpu", precision="bf16-mixed")
    machine(gpu=False)
    for devices in ([0, 1], "0,1", -1):
        with pytest.raises(UserError, match=r"^trainer\.devices=.*: a CPU has no numbered devices"):
            checked(accelerator="auto", devices=devices)
    machine(gpu=False, mps=True)
    with pytest.raises(UserError, match=r"^trainer\.precision=64-true: the GPU of this machine has no float64"):
        checked(accelerator="auto", precision="64-true")
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    capsys.readouterr()
    checked(accelerator="cpu", devices=2)
    assert capsys.readouterr().err == ""
    checked(accelerator="cpu", devices=3)
    assert capsys.readouterr().err == "warning: trainer.devices=3: so many processes share 2 cores of the CPU\n"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


@pytest.mark.slow
def test_two_machines_train_one_run(tmp_path, fast, environment, configure, checkpoint):
    """Each machine is a command of its own with its NODE_RANK; the weights are those of one process."""
    words = (*fast, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_nodes=2")
    line = [sys.executable, SRC / "train.py", *words, "dataset.batch_size=16", "paths.run_dir=run"]
    shared = {**environment, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    machines = [
        subprocess.Popen(line, cwd=tmp_path, env={**shared, "NODE_RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in ("1", "0")
    ]
    errors = [machine.communicate(timeout=500)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], errors
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    train(configure(tmp_path / "one"))
    ours, whole = checkpoint(tmp_path / "run"), checkpoint(tmp_path / "one")
    assert ours["position"] == whole["position"] == 128
    torch.testing.assert_close(ours["state_dict"], whole["state_dict"], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "number", "code"), [("0", signal.SIGTERM, 143), ("1", signal.SIGINT, 130)])
def test_a_signal_ends_a_machine_that_waits_for_another(rank, number, code, tmp_path, fast, environment):
    """It prints where it waits, and ends with the second process that it has started."""
    port = free_port()
    line = [sys.executable, SRC / "train.py", *fast, "trainer=ddp", "trainer.accelerator=cpu", "trainer.num_nodes=2"]
    shared = {**environment, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": rank}
    machine = subprocess.Popen(
        [*line, "paths.run_dir=run"],
        cwd=tmp_path,
        env=shared,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for printed in machine.stdout:
        if printed.startswith("waits at"):
            break
    time.sleep(20)  # both processes wait in C++
    machine.send_signal(number)
    machine.communicate(timeout=20)  # the end of its output, which its second process has too
    place = f"127.0.0.1:{port} (MASTER_ADDR:MASTER_PORT) for 4 processes of 2 machines; this is machine {rank}"
    assert printed.startswith(f"waits at {place}")
    assert machine.returncode == code
    stopped = tmp_path / "run" / "stopped.json"
    assert stopped.is_file() == (rank == "0")  # the first process of all writes


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher"), reason="not installed")
def test_a_job_of_submitit_is_a_training_of_its_processes(tmp_path, fast, process, checkpoint):
    """submitit starts as many processes for the job as the trainer has devices, and they train one run."""
    words = (*fast, "trainer=ddp", "trainer.accelerator=cpu", "dataset.batch_size=16", "hydra/launcher=submitit_local")
    done = process("train", "-m", "seed=0", *words, cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stderr + done.stdout
    (manifest,) = tmp_path.glob("outputs/sweeps/*/sweep.json")
    assert [job["state"] for job in json.loads(manifest.read_text())["jobs"]] == ["finished"]
    (run,) = manifest.parent.glob("0_*")
    assert checkpoint(run)["position"] == 128  # 4 steps of two processes with 16 samples
    assert len(list(manifest.parent.glob(".submitit/*/*_log.out"))) == 2
