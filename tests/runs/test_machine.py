"""A training that this machine cannot run is refused in one line, before anything is written."""

import pytest
import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from omegaconf import OmegaConf

from diffsweep.errors import UserError
from diffsweep.runs.machine import check_machine
from diffsweep.runs.training import train

WITHOUT_GPU = [
    (("trainer.accelerator=gpu",), r"^trainer\.accelerator=gpu: this machine has no GPU.*trainer=cpu"),
    (("trainer.accelerator=cuda",), r"^trainer\.accelerator=cuda: this machine has no GPU"),
    (("trainer.precision=16-mixed", "optimizer.fused=false"), r"^trainer\.precision=16-mixed is of GPUs.*bf16-mixed"),
    (("trainer.precision=16-true",), r"^trainer\.precision=16-true is of GPUs"),
]


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
@pytest.mark.parametrize(("words", "message"), WITHOUT_GPU)
def test_a_gpu_that_is_missing_is_refused_and_nothing_is_written(words, message, tmp_path, configure):
    with pytest.raises(UserError, match=message) as error:
        train(configure(tmp_path / "run", *words))
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed_stage_2"])
def test_strategies_of_gpus_are_refused_on_the_cpu(strategy, tmp_path, configure):
    cfg = configure(tmp_path / "run")
    OmegaConf.update(cfg, "trainer.strategy", strategy, force_add=True)
    with pytest.raises(UserError, match=rf"^trainer\.strategy={strategy} is of GPUs"):
        check_machine(cfg)


@pytest.mark.parametrize(("devices", "refused"), [(1, False), (3, True), ([0, 1], False), ([2], True), ("0,3", True)])
def test_more_devices_than_the_machine_has_are_refused(devices, refused, tmp_path, configure, monkeypatch):
    cfg = configure(tmp_path / "run", "trainer.accelerator=gpu")
    cfg.trainer.devices = devices
    monkeypatch.setattr(CUDAAccelerator, "auto_device_count", staticmethod(lambda: 2))
    monkeypatch.setattr("diffsweep.runs.machine._try", lambda cfg: None)
    if refused:
        with pytest.raises(UserError, match=r"^trainer\.devices=.*this machine has 2"):
            check_machine(cfg)
    else:
        check_machine(cfg)


def test_what_lightning_refuses_is_one_line(tmp_path, configure):
    cfg = configure(tmp_path / "run")
    check_machine(cfg)
    cfg.trainer.precision = "transformer-engine"
    with pytest.raises(UserError, match=r"^trainer: .*transformer") as error:
        check_machine(cfg)
    assert "\n" not in str(error.value)
