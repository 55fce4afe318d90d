"""The task ``restore``: images that are degraded here, or already, are restored by a model of such images."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional

from diffsweep import pictures
from diffsweep.configuration.build import build_data
from diffsweep.degradations import Blur, Box, Downsampling, Greyscale, Jpeg, OneOf
from diffsweep.runs.training import train

SMALL = ("backbone.channels=8", "metrics=none", "logger=csv", "callbacks=minimal", "dataset.batch_size=8")


@pytest.fixture
def restorer(configure, tmp_path):
    cfg = configure(tmp_path / "run", "model=super_resolution", *SMALL, "trainer.max_steps=1", "sampler.steps=2")
    train(cfg)
    return tmp_path / "run", build_data(cfg)


def test_images_are_restored_from_degraded_copies_or_from_small_images(command, restorer, tmp_path):
    run, data = restorer
    originals = data.split("val")["x"][:6]
    more = ("task=restore", "num_samples=6", "guidance=replacement", "sampler.clip=none")
    done = command("sample", f"run={run}", *more, "output=whole")
    assert done.code == 0, done.err
    assert "6 images restored" in done.out
    degraded = float(done.out.partition("of the degraded images ")[2].split()[0])
    enlarged = Downsampling(2).image(originals).clamp(-1, 1)
    error = (enlarged - originals).square().flatten(1).mean(1)
    assert degraded == pytest.approx((10 * torch.log10(4 / error)).mean().item(), abs=0.01)
    assert float(done.out.partition("off from what is known by ")[2].split()[0]) < 0.01
    small = functional.avg_pool2d(originals, 2)
    pixels = ((small + 1) * 127.5).round().byte().numpy()
    (tmp_path / "small").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image[0]).save(tmp_path / "small" / f"{i}.png")
    done = command(
        "sample", f"run={run}", *more, "task.degraded=true", f"task.source={tmp_path / 'small'}", "output=enlarged"
    )
    assert done.code == 0, done.err
    with Image.open("enlarged/restored.png") as shown, Image.open("whole/restored.png") as all_rows:
        assert shown.height < all_rows.height  # two rows, not four
    drawn = pictures.load_npz(Path("enlarged/samples.npz"))
    inside = (small.abs() < 0.9) & (functional.max_pool2d(drawn.abs(), 2) < 0.99)  # files have no pixels beyond [-1, 1]
    means = functional.avg_pool2d(drawn, 2)
    assert inside.any()
    torch.testing.assert_close(means[inside], small[inside], rtol=0, atol=0.01)


def test_a_model_without_such_a_condition_is_refused(command, finished):
    done = command("sample", f"run={finished}", "task=restore")
    assert done.code == 2
    assert "task=restore requires an image beside x" in done.err


def test_images_that_are_degraded_already_are_read_as_what_they_are():
    x = torch.rand(3, 3, 8, 8) * 2 - 1
    for degradation in (Downsampling(2), Greyscale(), Blur(1.0)):
        known = degradation.known(x)
        stored = degradation.image(x) if isinstance(degradation, Greyscale) else known.y
        assert stored.shape[-1] == degradation.degraded_side(8)
        image, again = degradation.given(stored)
        torch.testing.assert_close(image, degradation.image(x), rtol=0, atol=1e-5)
        torch.testing.assert_close(again.y, known.y, rtol=0, atol=1e-5)
    assert torch.equal(Jpeg(10).given(x)[0], x)
    assert Blur((1.0, 2.0)).given(x)[1] is None
    one = OneOf({"grey": Greyscale(), "box": Box(0.5, "centre")}, only="grey")
    image, known = one.given(one.image(x)[:, :3])
    torch.testing.assert_close(image, one.image(x), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="does not state which of its pixels are hidden"):
        Box().given(x)
    with pytest.raises(ValueError, match=r"set degradation.only to one of grey, box"):
        OneOf({"grey": Greyscale(), "box": Box()}).given(x)
