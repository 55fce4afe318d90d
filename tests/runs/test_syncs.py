"""A training step reads no number back from the device, which would have to wait for it."""

import collections
import traceback

import pytest
import torch
from lightning import Callback
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from diffsweep.callbacks import StopOnNaN, TrainingMeter
from diffsweep.configuration.build import build, build_data, build_model
from diffsweep.runs.training import make_trainer

READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero")
STEPS = (3, 7)  # the steps that are watched; the first ones fill tables


class Reads(TorchDispatchMode):
    """A count of the operations that a GPU has to be waited for, by the lines of diffsweep that they come from.

    Tensors that code makes without a device, and what is computed of such alone, are on the CPU beside a GPU too; to
    read them waits for nothing. :class:`Made` notes the first, and this class the second. So are those of the data.
    """

    def __init__(self):
        super().__init__()
        self.lines = collections.Counter()
        self.host = WeakTensorKeyDictionary()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        given = [each for each in tree_leaves((arguments, keywords)) if isinstance(each, torch.Tensor)]
        host = bool(given) and all(each in self.host for each in given)
        if not host and function.name().partition(".")[0] in READS:
            ours = [line for line in traceback.extract_stack() if "/diffsweep/" in line.filename]
            if not any("/datasets/" in line.filename for line in ours):  # of the loader
                self.lines[f"{ours[-1].filename}:{ours[-1].lineno}" if ours else "lightning"] += 1
        output = function(*arguments, **(keywords or {}))
        for each in tree_leaves(output) if host else ():
            if isinstance(each, torch.Tensor):
                self.host[each] = True
        return output


class Made(TorchFunctionMode):
    """Notes which tensors are made without a device, and which are moved to one."""

    def __init__(self, host):
        super().__init__()
        self.host = host

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        keywords = keywords or {}
        output = function(*arguments, **keywords)
        if isinstance(output, torch.Tensor):
            others = tree_leaves((arguments, keywords))
            if not any(isinstance(each, torch.Tensor | torch.device) for each in others):
                self.host[output] = True
            elif function is torch.Tensor.to and any(
                isinstance(each, torch.device | torch.Tensor) for each in others[1:]
            ):
                self.host.pop(output, None)
        return output


class Watch(Callback):
    """A callback that counts the reads of some steps, with all callbacks of a run around them."""

    def __init__(self):
        self.reads = Reads()
        self.made = Made(self.reads.host)

    def on_train_batch_start(self, trainer, model, batch, batch_idx):
        if batch_idx == 0:
            self.made.__enter__()
        if batch_idx == STEPS[0]:
            self.reads.__enter__()
        if batch_idx == STEPS[1]:
            self.reads.__exit__(None, None, None)
            self.made.__exit__(None, None, None)


CLASSES = ("model=classifier_free", "trainer.precision=bf16-mixed")
FAMILIES = {
    "ddpm": (),
    "classifier_free": CLASSES,
    "importance, hybrid": ("model=improved_ddpm", "time_sampling=importance"),
    "edm": ("model=edm",),
    "dit": ("model=flow", "backbone=dit", "backbone.depth=1"),
    "text": ("model=classifier_free", "dataset=shapes", "conditioning=text", "dataset.num_train=64"),
    "vdm": ("model=vdm",),
    "post_hoc": ("callbacks=post_hoc",),
    "uvit": ("backbone=uvit", "backbone.depth=3"),
    "classifier": ("model=noisy_classifier",),
    "autoencoder_kl": ("model=autoencoder_kl",),
    "autoencoder_vq": ("model=autoencoder_vq",),
}
FAST = ("importance, hybrid", "classifier_free")


def test_a_read_is_found_and_one_on_the_cpu_is_none():
    reads, on_device = Reads(), torch.ones(2)
    with Made(reads.host), reads:
        assert float(torch.tensor(3.0).double() + torch.zeros(())) == 3
        assert reads.lines == {}
        float(on_device[0])
        float(torch.tensor(2.0) * on_device[0])
        float(torch.full((), 2.0, device=on_device.device))
        float(torch.tensor(2.0).to(on_device.device))
    assert reads.lines.total() == 4


@pytest.mark.parametrize(
    "words",
    [pytest.param(words, id=name, marks=() if name in FAST else pytest.mark.slow) for name, words in FAMILIES.items()],
)
def test_a_training_step_reads_nothing_from_the_device_between_logs(words, configure, tmp_path):
    """The guard against NaN is left out: on the CPU, which nothing waits for, it reads each step's test at once."""
    small = ("trainer=cpu", "trainer.log_every_n_steps=100", "trainer.accumulate_grad_batches=1")
    cfg = configure(tmp_path / "run", *words, *small)
    cfg.trainer.max_steps, cfg.trainer.limit_val_batches = STEPS[1] + 1, 0
    watch, callbacks = Watch(), [TrainingMeter(), *build(cfg, "callbacks").values()]
    callbacks = [callback for callback in callbacks if not isinstance(callback, StopOnNaN)]
    trainer = make_trainer(cfg, [watch, *callbacks], [])
    trainer.fit(build_model(cfg), build_data(cfg))
    assert trainer.global_step == STEPS[1] + 1
    assert watch.reads.lines == {}
