"""A training step reads no number back from the device, which would have to wait for it."""

import collections
import traceback

import pytest
from lightning import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from diffsweep.callbacks import StopOnNaN, TrainingMeter
from diffsweep.configuration.build import build, build_data, build_model
from diffsweep.runs.training import make_trainer

READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero")
STEPS = (3, 7)  # the steps that are watched; the first ones fill tables


class Reads(TorchDispatchMode):
    """A count of the operations that a GPU has to be waited for, by the lines of diffsweep that they come from."""

    def __init__(self):
        super().__init__()
        self.lines = collections.Counter()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function.name().partition(".")[0] in READS:
            ours = [line for line in traceback.extract_stack() if "/diffsweep/" in line.filename]
            self.lines[f"{ours[-1].filename}:{ours[-1].lineno}" if ours else "lightning"] += 1
        return function(*arguments, **(keywords or {}))


class Watch(Callback):
    """A callback that counts the reads of some steps, with all callbacks of a run around them."""

    def __init__(self):
        self.reads = Reads()

    def on_train_batch_start(self, trainer, model, batch, batch_idx):
        if batch_idx == STEPS[0]:
            self.reads.__enter__()
        if batch_idx == STEPS[1]:
            self.reads.__exit__(None, None, None)


@pytest.mark.parametrize("words", [(), ("model=classifier_free", "trainer.precision=bf16-mixed")])
def test_a_training_step_reads_nothing_from_the_device_between_logs(words, configure, tmp_path):
    """The guard against NaN is left out: on the CPU, which nothing waits for, it reads each step's test at once."""
    small = ("trainer=cpu", "trainer.log_every_n_steps=100", "backbone.channels=8", "trainer.accumulate_grad_batches=1")
    cfg = configure(tmp_path / "run", *words, *small)
    cfg.trainer.max_steps, cfg.trainer.limit_val_batches = STEPS[1] + 1, 0
    watch, callbacks = Watch(), [TrainingMeter(), *build(cfg, "callbacks").values()]
    callbacks = [callback for callback in callbacks if not isinstance(callback, StopOnNaN)]
    trainer = make_trainer(cfg, [watch, *callbacks], [])
    trainer.fit(build_model(cfg), build_data(cfg))
    assert trainer.global_step == STEPS[1] + 1
    assert watch.reads.lines == {}
