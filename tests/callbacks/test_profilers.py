"""Profilers split time into phases that do not overlap, and give kernels of a GPU to the phase that launched them."""

import threading
from pathlib import Path
from types import SimpleNamespace

from torch.autograd import DeviceType

from diffsweep import phases
from diffsweep.callbacks import profilers
from diffsweep.callbacks.profilers import PhaseTimes, table
from diffsweep.callbacks.traces import Span, launches, phase_table
from diffsweep.phases import DATA, LOSS, NETWORK, NOISE, OPTIMIZER, REST, SAMPLING, VALIDATION, phase, profiled

BATCH = (  # actions of Lightning and marks of ours with the seconds that follow each, in the order of a training step
    ("start", "[_TrainingEpochLoop].train_dataloader_next", 1),
    ("stop", "[_TrainingEpochLoop].train_dataloader_next", 2),
    ("start", "run_training_batch", 4),
    ("start", "[LightningModule]DiffusionModel.optimizer_step", 8),
    ("start", "[Strategy]SingleDeviceStrategy.training_step", 16),
    ("start", NOISE, 32),
    ("stop", NOISE, 64),
    ("start", NETWORK, 128),
    ("stop", NETWORK, 256),
    ("stop", "[Strategy]SingleDeviceStrategy.training_step", 512),
    ("stop", "[LightningModule]DiffusionModel.optimizer_step", 1024),
    ("stop", "run_training_batch", 2048),
    ("start", "[Strategy]SingleDeviceStrategy.validation_step", 4096),
    ("start", NETWORK, 8192),
    ("stop", NETWORK, 16384),
    ("stop", "[Strategy]SingleDeviceStrategy.validation_step", 32768),
    ("start", SAMPLING, 65536),
    ("start", NETWORK, 131072),
    ("stop", NETWORK, 262144),
    ("stop", SAMPLING, 0),
)


def test_the_innermost_phase_counts_and_all_add_up(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(profilers.time, "perf_counter", lambda: now[0])
    profiler = PhaseTimes(Path(), 1)
    for kind, action, seconds in BATCH:
        getattr(profiler, kind)(action)
        now[0] += seconds
    assert profiler.seconds == {
        DATA: 1,
        REST: 2 + 4 + 1024 + 2048 + 32768,
        OPTIMIZER: 8 + 512,
        LOSS: 16 + 64 + 256,
        NOISE: 32,
        NETWORK: 128,
        VALIDATION: 4096 + 16384,
        f"{VALIDATION}: {NETWORK}": 8192,
        SAMPLING: 65536 + 262144,
        f"{SAMPLING}: {NETWORK}": 131072,
    }
    assert sum(profiler.seconds.values()) == now[0]
    assert profiler.batches_seen == profiler.calls[NETWORK] == 1


def test_marks_do_nothing_without_a_profiler_and_in_other_threads():
    profiler = PhaseTimes(Path(), 1)
    with profiled(profiler.profile):
        other = threading.Thread(target=lambda: phase(LOSS).__enter__())
        other.start()
        other.join()
        assert not profiler.calls
        with phase(LOSS):
            assert profiler.calls[LOSS] == 1
    assert phase(LOSS) is phases._NOTHING


def test_kernels_belong_to_the_phase_that_launched_them():
    """A kernel is linked to the call with its number; annotations on the GPU are no kernels."""

    def event(number, name, start, end, device=DeviceType.CPU, annotation=False):
        span = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
        return SimpleNamespace(id=number, name=name, time_range=span, device_type=device, is_user_annotation=annotation)

    found = launches(
        [
            event(1, "aten::conv2d", 0, 90),
            event(1, "cudaLaunchKernel", 10, 11),
            event(1, "sm90_gemm", 500, 2500, DeviceType.CUDA),
            event(2, "cuLaunchKernel", 120, 121),
            event(2, "triton_poi", 2500, 6500, DeviceType.CUDA),
            event(0, NETWORK, 500, 2500, DeviceType.CUDA, annotation=True),
        ]
    )
    assert found == [(10, 2000), (120, 4000)]
    rows = phase_table([Span(LOSS, 100, 300), Span(NETWORK, 0, 100)], [*found, (400, 8000)]).splitlines()
    assert [row.split() for row in rows[1:3]] == [
        [NETWORK, "1", "0.10", "33.3%", "2.00"],
        [LOSS, "1", "0.20", "66.7%", "4.00"],
    ]
    assert rows[3].split() == [*REST.split(), "0", "0.00", "0.0%", "8.00"]


def test_columns_are_aligned():
    assert table(("a", "bb"), [("ccc", 1), ("d", "")]).splitlines() == ["a    bb", "ccc   1", "d"]
