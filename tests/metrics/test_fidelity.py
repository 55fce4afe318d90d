"""Inception by torch-fidelity, by a stand-in module of its interface: the package needs torchvision to be imported."""

import importlib.machinery
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from diffsweep.metrics.inception import PublicInception


class StandIn(nn.Module):
    """Called as torch-fidelity's extractor: uint8 images give the requested outputs as a tuple."""

    fails = False

    def __init__(self, name, features_list):
        super().__init__()
        if self.fails:
            raise OSError("no route\nto the host")
        assert features_list == ["2048", "logits_unbiased"]
        self.weight = nn.Parameter(torch.linspace(0, 1, 2048), requires_grad=False)

    def forward(self, x):
        assert x.dtype == torch.uint8
        mean = x.float().mean((1, 2, 3))[:, None]
        return mean * self.weight, mean.expand(-1, 1008)


@pytest.fixture
def installed(monkeypatch):
    package, module = ModuleType("torch_fidelity"), ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    package.__spec__ = importlib.machinery.ModuleSpec("torch_fidelity", None)
    module.FeatureExtractorInceptionV3 = StandIn
    for each in (package, module):
        monkeypatch.setitem(sys.modules, each.__name__, each)


def test_features_are_those_of_torch_fidelity_for_levels(installed):
    extractor = PublicInception(None, accelerator="cpu")()
    x = torch.tensor([-1.0, 0.0, 1.0])[:, None, None, None].expand(3, 1, 8, 8)
    features, logits = extractor(x)
    assert features[:, -1].tolist() == pytest.approx([0, 128, 255])
    assert logits.shape == (3, 1008)
    assert extractor.weights_hash == PublicInception(None, accelerator="cpu")().weights_hash


def test_what_torch_fidelity_cannot_do_is_one_line(installed, monkeypatch):
    with pytest.raises(ValueError, match="resize=clean needs a file"):
        PublicInception(None, resize="clean")
    monkeypatch.setattr(StandIn, "fails", True)
    with pytest.raises(ValueError, match=r"cannot load its weights \(no route to the host\); give the public"):
        PublicInception(None, accelerator="cpu")()


def test_without_it_the_file_and_the_extra_are_named(monkeypatch):
    monkeypatch.setattr("diffsweep.metrics.fidelity.is_installed", lambda: False)
    with pytest.raises(ValueError, match=r"inception-2015-12-05.pt, or pip install 'diffsweep\[inception\]'"):
        PublicInception(None)
