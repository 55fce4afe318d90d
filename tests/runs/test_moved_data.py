"""A run is sampled from its directory alone: its data may have moved, and are never decoded for it."""

import shutil

import numpy as np
import pytest

from diffsweep import load
from diffsweep.configuration.compose import compose
from diffsweep.datasets.decoded_images import DecodedImages
from diffsweep.files import ContentError
from diffsweep.runs.commands import sample
from diffsweep.runs.training import train

SMALL = ("dataset.num_val=60", "dataset.batch_size=8", "trainer.max_steps=1", "backbone.channel_mult=[1]")


@pytest.fixture(scope="module")
def moved(tmp_path_factory, configure, image_folder):
    """``moved(*words)``: a run of a folder of images, and the folder, which is elsewhere after the training."""

    def moved(*words):
        folder = tmp_path_factory.mktemp("moved")
        data = shutil.copytree(image_folder, folder / "photos")
        train(configure(folder / "run", "dataset=image_folder", f"dataset.path={data}", *SMALL, *words))
        shutil.rmtree(folder / "cache", ignore_errors=True)
        return folder / "run", data.rename(folder / "elsewhere")

    return moved


@pytest.mark.parametrize("conditioning", [pytest.param("none", marks=pytest.mark.slow), "class"])
def test_a_run_is_sampled_without_its_data_and_evaluated_with_them_alone(conditioning, moved, command, tmp_path):
    run, data = moved(f"conditioning={conditioning}")
    out, again = tmp_path / "out", tmp_path / "again"
    words = ("num_samples=3", "sampler=ddim", "sampler.steps=2", "trainer=cpu")
    done = command("sample", f"run={run}", f"output={out}", *words)
    assert done.code == 0, done.err
    evaluated = command("evaluate", f"run={run}", "likelihood=bound", "num_samples=8")
    assert evaluated.code == 2
    assert "no such folder" in evaluated.err
    assert load(run).sample(2, seed=0).shape == (2, 3, 8, 8)
    with pytest.MonkeyPatch.context() as patch:  # with the data in place nothing of them is decoded
        patch.setattr(DecodedImages, "load", lambda self, split: pytest.fail("the data were decoded"))
        sample(compose("sample", [f"run={run}", f"dataset.path={data}", f"output={again}", *words]))
    with np.load(out / "samples.npz") as first, np.load(again / "samples.npz") as second:
        assert first["arr_0"].shape == (3, 8, 8, 3)
        assert np.array_equal(first["arr_0"], second["arr_0"])


def test_a_task_that_takes_held_out_images_names_what_is_missing(moved, tmp_path):
    run, _ = moved()
    words = [f"run={run}", f"output={tmp_path / 'out'}", "task=reconstruct", "num_samples=2", "trainer=cpu"]
    with pytest.raises(ContentError, match=r"no such folder.*this takes held-out samples of the data"):
        sample(compose("sample", [*words, "sampler=ddim", "sampler.steps=2"]))
