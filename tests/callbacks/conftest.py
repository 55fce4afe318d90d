"""A module of two weights that Lightning trains, with gradients in closed form."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader, IterableDataset
from trainers import QUIET


class Toy(LightningModule):
    """A module whose loss in step k is the sum of ``weight * data[k]``: SGD of rate 1 subtracts ``data[k]``."""

    def __init__(self, start=1.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([start, -start]))
        self.frozen = torch.nn.Parameter(torch.tensor([7.0]), requires_grad=False)
        self.seen = SimpleNamespace(validation=[], training=[])

    def training_step(self, batch, batch_idx):
        self.seen.training.append(self.weight.detach().clone())
        return (self.weight * batch).sum()

    def validation_step(self, batch, batch_idx):
        self.seen.validation.append(self.weight.detach().clone())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


class Stream(IterableDataset):
    """Data without a length, as the training data are."""

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return iter(map(float, self.data))


@pytest.fixture
def toy():
    return Toy


@pytest.fixture
def fit(tmp_path):
    """``trainer = fit(module, callbacks, data)``: one optimizer step for each number of ``data``."""

    def fit(module, callbacks, data, validate_every=None, ckpt_path=None, first=0, steps=None, **settings):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            validation = {} if validate_every is None else {"val_dataloaders": DataLoader([0.0])}
            trainer = Trainer(
                **QUIET,
                max_steps=steps or len(data) // settings.get("accumulate_grad_batches", 1),
                callbacks=callbacks,
                val_check_interval=validate_every,
                check_val_every_n_epoch=None,
                num_sanity_val_steps=0,
                inference_mode=False,
                default_root_dir=tmp_path,
                **settings,
            )
            trainer.fit(module, DataLoader(Stream(data[first:])), ckpt_path=ckpt_path, weights_only=True, **validation)
        return trainer

    return fit
