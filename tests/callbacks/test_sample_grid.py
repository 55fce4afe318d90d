"""Pictures of samples during training."""

import numpy as np
import torch
from PIL import Image

from diffsweep import pictures
from diffsweep.callbacks import EMA, SampleGrid
from diffsweep.conditioning import ClassLabel
from diffsweep.models import DiffusionModel
from diffsweep.samplers import DDIM


def test_grids_show_the_samples_of_the_average(toy, fit, tmp_path):
    """A grid follows each validation, of the same noise, with fewer steps, labelled; a sample shows the weight."""
    requests = []

    def sample(self, indices, seed, cond, sampler):
        assert cond == "condition"
        requests.append((indices.tolist(), seed, sampler.steps))
        return self.weight[0].detach().clamp(-1, 1).expand(len(indices), 1, 8, 8)

    module = toy()
    module.sampler = DDIM(steps=50)
    module.sample = sample.__get__(module)
    module.request = lambda indices, samples: ({}, "condition")
    module.request_for = lambda indices, samples: {"label": indices % 3}
    module.control_pictures = lambda request: []
    module.show, module.drawing = DiffusionModel.show.__get__(module), DiffusionModel.drawing.__get__(module)
    module.conditioning = ClassLabel(num_classes=3, class_names=["cat", "dog", "ship"])
    ema = EMA(decay=0.5, warmup=False)
    fit(module, [ema, SampleGrid(str(tmp_path / "samples"), num_samples=5, seed=3, steps=7)], [0.5, 0.25, 0.25, 0.5], 2)
    assert requests == [([0, 1, 2, 3, 4], 3, 7)] * 2
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == ["step_000002.png", "step_000004.png"]
    for name, value in zip(names, module.seen.validation, strict=False):
        classes = ["cat", "dog", "ship", "cat", "dog"]
        expected = pictures.grid(value[0].clamp(-1, 1).expand(5, 1, 8, 8), labels=classes)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "samples" / name)), np.asarray(expected))
    assert not torch.equal(*module.seen.validation)
