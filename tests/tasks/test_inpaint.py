"""Inpainting: known pixels to the bit, masks of files and of degradations, networks that read masks, latents, seams."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from linear import Perfect
from PIL import Image

from diffsweep import pictures
from diffsweep.configuration.build import build_data, build_diffusion
from diffsweep.degradations import Border, Box, Downsampling, OneOf
from diffsweep.diffusion import PixelMask
from diffsweep.errors import UserError
from diffsweep.guidance import Reconstruction, RePaint, Replacement, unguided
from diffsweep.metrics import GenerationMetrics, load_digits_classifier
from diffsweep.metrics.copies import copy_ratio
from diffsweep.metrics.visible_part import classifier_of_known_pixels
from diffsweep.samplers import DDIM, Ancestral
from diffsweep.tasks import Edit, Inpaint, Job
from diffsweep.tasks.masks import Masks, known_in

GUIDANCES = {
    "repaint": partial(RePaint, jump_length=1, resamplings=2),
    "replacement": Replacement,
    "reconstruction": Reconstruction,
}


@pytest.fixture(scope="module")
def small(compose, tmp_path_factory):
    """``job = small(num_samples, batch_size, *overrides)``: of a network of digits with random weights."""
    made = {}

    def small(num_samples, batch_size, *overrides):
        if overrides not in made:
            cfg = compose("backbone.channels=8", "backbone.num_res_blocks=1", "metrics=none", *overrides)
            model = build_diffusion(cfg).eval().requires_grad_(False)
            for parameter in model.parameters():
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.1)
            made[overrides] = model, build_data(cfg), tmp_path_factory.mktemp("small")
        model, data, folder = made[overrides]
        model.sampler, model.guidance = Ancestral(steps=3), GUIDANCES["repaint"]
        return Job(model, data, folder, num_samples, 7, batch_size)

    return small


@pytest.mark.parametrize("name", GUIDANCES)
def test_known_pixels_are_those_of_the_images_and_the_others_are_drawn(small, name):
    """A sample does not depend on its batch, nor does its mask."""
    job, one = small(5, 5), small(5, 2)
    job.model.guidance = GUIDANCES[name]
    task, truth = Inpaint(degradation=Box()), job.data.split("val")["x"][:5]
    drawn, line = task(job)
    known = task.masks.known(truth)
    assert torch.equal(drawn.x[known], truth[known])
    assert ((drawn.x - truth).abs() > 0.01)[~known].double().mean() > 0.4
    assert len(known.unique(dim=0)) > 1
    hidden = 100 * float((~known).double().mean())
    assert line == f"5 images of which {hidden:.0f} % is hidden, inpainted"
    assert drawn.evaluations == (5 if name == "repaint" else 3)  # steps 3 2, 2, 1 2 again
    again, _ = task(one)
    torch.testing.assert_close(again.x, drawn.x, rtol=0, atol=1e-4)


def test_the_pictures_have_source_known_result_and_difference(small):
    job = small(2, 2)
    drawn, _ = Inpaint(degradation=Border())(job)
    truth = job.data.split("val")["x"][:2]
    rows = [truth, torch.where(torch.arange(8) < 4, truth, 0.0), drawn.x, (drawn.x - truth) / 2]
    with Image.open(job.folder / "inpainting.png") as picture:
        shown = np.asarray(picture.convert("L"))
    corner = np.argwhere(np.kron(pictures.to_uint8(truth)[0, ..., 0], np.ones((8, 8)))[0, 0] == shown)
    tops = [
        [
            (top, left)
            for top, left in corner
            if np.array_equal(shown[top : top + 64 : 8, left : left + 64 : 8], pictures.to_uint8(row)[0, ..., 0])
        ]
        for row in rows[:1]
    ]
    top, left = tops[0][0]
    for i, row in enumerate(rows):
        for j in range(2):
            part = shown[top + 66 * i : top + 66 * i + 64 : 8, left + 66 * j : left + 66 * j + 64 : 8]
            assert np.array_equal(part, pictures.to_uint8(row)[j, ..., 0])
    with Image.open(job.folder / "trajectory.gif") as animation:
        assert animation.n_frames == 5


def written(path, hidden):
    Image.fromarray(np.where(hidden, 255, 0).astype(np.uint8)).save(path)
    return str(path)


def test_a_mask_of_a_file_is_white_where_pixels_are_filled(small, tmp_path):
    """It gives the same samples as the same mask of a degradation."""
    hidden = np.zeros((8, 8), dtype=bool)
    hidden[:, 4:] = True
    job = small(3, 3)
    ours, _ = Inpaint(mask=written(tmp_path / "mask.png", hidden))(job)
    theirs, _ = Inpaint(degradation=Border(share=0.5, missing="right"))(job)
    assert torch.equal(ours.x, theirs.x)


def test_a_mask_is_read_as_images_are_turned_by_its_orientation(tmp_path):
    hidden = np.zeros((8, 8), dtype=np.uint8)
    hidden[:3] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    Image.fromarray(hidden).save(tmp_path / "turned.png", exif=exif)
    known = Masks(str(tmp_path / "turned.png"), None).known(torch.zeros(1, 1, 8, 8))
    assert torch.equal(known[0, 0], torch.from_numpy(np.rot90(hidden, -1) == 0))


def test_masks_that_are_none_are_refused_in_one_line(tmp_path):
    data = SimpleNamespace(channels=1, image_size=8)
    hidden = np.zeros((8, 8), dtype=bool)
    (tmp_path / "text.png").write_text("no image")
    grey = np.zeros((8, 8), dtype=np.uint8)
    grey[0, 0] = 93
    Image.fromarray(grey).save(tmp_path / "grey.png")
    for mask, degradation, message in (
        (written(tmp_path / "nothing.png", hidden), None, "white nowhere, so nothing is to be filled"),
        (written(tmp_path / "all.png", ~hidden), None, "white everywhere, so nothing is known"),
        (written(tmp_path / "wide.png", np.eye(8, 16, dtype=bool)), None, "has 16 x 8 pixels, and the model's images"),
        (str(tmp_path / "grey.png"), None, "has the grey value 93; a mask is black"),
        (str(tmp_path / "text.png"), None, "is no readable image"),
        (str(tmp_path / "nowhere.png"), None, "no such file"),
        (str(tmp_path), None, "is no readable image"),
        ("degradation", Downsampling(), "Downsampling hides no pixels; use degradation=mask_half"),
        ("degradation", OneOf({"small": Downsampling()}), "OneOf hides no pixels"),
    ):
        reason = Masks(mask, degradation).missing_because(data)
        assert message in reason
        assert "\n" not in reason
    assert Masks("degradation", OneOf({"small": Downsampling(), "half": Border()})).missing_because(data) is None


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["degradation=mask_half"], "use guidance=repaint, reconstruction or replacement"),
        (["guidance=replacement", "task.mask=nowhere.png"], "task.mask=nowhere.png: no such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_inpainted_is_refused_before_a_model_is_loaded(command, finished, monkeypatch, typed, message):
    monkeypatch.setattr("diffsweep.runs.commands.load_sampled", None)
    done = command("sample", f"run={finished}", "task=inpaint", *typed)
    assert done.code == 2
    line = done.err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert message in line


def test_models_and_sources_that_do_not_suit_are_refused(small, tmp_path):
    job = small(2, 2)
    job.model.guidance = unguided
    with pytest.raises(UserError, match="this guidance has no use for them"):
        Inpaint(degradation=Border())(job)
    job.model.guidance, job.model.sampler = Replacement, DDIM(steps=3, start=0.5)
    with pytest.raises(UserError, match=r"use sampler.start=1, or task=edit with task.mask"):
        Inpaint(degradation=Border())(job)
    job = small(2, 2, "conditioning=image", "degradation=downsample")
    with pytest.raises(UserError, match="reads images after Downsampling, not masked ones"):
        Inpaint(degradation=Border())(job)
    np.savez(tmp_path / "colour.npz", np.zeros((2, 8, 8, 3), dtype=np.uint8))
    with pytest.raises(UserError, match=r"has images of shape \(3, 8, 8\), and the model's have \(1, 8, 8\)"):
        Inpaint(source=str(tmp_path / "colour.npz"), degradation=Border())(small(2, 2))


def test_a_network_that_reads_masked_images_gets_them(small):
    """No guidance is needed: it reads the known pixels, 0 elsewhere, and the mask, and each step is one call."""
    job = small(3, 3, "conditioning=image", "degradation=mask_half")
    job.model.guidance, read = unguided, []
    hook = job.model.denoiser.register_forward_pre_hook(lambda module, given: read.append(given[2].image))
    drawn, _ = Inpaint(degradation=Border(share=0.25, missing="top"))(job)
    hook.remove()
    truth = job.data.split("val")["x"][:3]
    known = (torch.arange(8) >= 2)[:, None].expand(3, 1, 8, 8)
    expected = torch.cat([torch.where(known, truth, 0.0), known.float()], 1)
    assert all(torch.equal(image, expected) for image in read[:3])
    assert torch.equal(drawn.x[known], truth[known])
    assert drawn.evaluations == 3


def test_classes_of_results_are_compared_with_those_of_the_images(small, monkeypatch):
    job = small(6, 6)
    with pytest.raises(UserError, match="needs a classifier of the data's classes; use metrics=digits"):
        Inpaint(degradation=Border(), compare=True)(job)
    quick = partial(classifier_of_known_pixels, epochs=1)
    monkeypatch.setattr("diffsweep.tasks.likeness.classifier_of_known_pixels", quick)
    metrics = GenerationMetrics(load_digits_classifier, 6)
    drawn, line = Inpaint(degradation=Border(), compare=True)(job._replace(metrics=lambda: metrics))
    results, truth = (load_digits_classifier()(x)[1].argmax(1) for x in (drawn.x, job.data.split("val")["x"][:6]))
    assert f"\nclass of the original in {(results == truth).double().mean():.1%}, where known pixels" in line
    assert f"copy ratio {copy_ratio(drawn.x, job.data, metrics.batches):.3f}" in line
    with pytest.raises(ValueError, match=r"task.compare takes images of known classes; use task.source=data"):
        Inpaint(source="me.png", compare=True)


def test_an_edit_with_a_mask_changes_hidden_pixels_alone(small):
    """With little noise even these stay near the image."""
    job = small(4, 4)
    truth, apart = job.data.split("val")["x"][:4], []
    for start in (0.02, 0.8):
        job.model.sampler = DDIM(steps=3, start=start)
        drawn, line = Edit(mask="degradation", degradation=Border())(job)
        assert line == f"4 images of which 50 % edited from t = {start:g}"
        assert torch.equal(drawn.x[..., :4], truth[..., :4])
        apart.append(float((drawn.x - truth)[..., 4:].abs().mean()))
    assert 0 < apart[0] < apart[1]
    with pytest.raises(ValueError, match=r"task.seam=2 blends along the edge of a mask"):
        Edit(seam=2)
    with pytest.raises(ValueError, match=r"task.seam is a number of pixels, at least 0, not -1"):
        Inpaint(seam=-1)


def test_in_latents_a_cell_is_known_if_all_its_pixels_are():
    """Nothing of the hidden pixels is in the value of a known cell, whatever they are."""
    space, images = Perfect(factor=2), torch.rand(2, 1, 8, 8) * 2 - 1
    known = (torch.arange(8) < 5).expand(2, 1, 8, 8)
    ours = known_in(space, images, known)
    assert isinstance(ours.measurement, PixelMask)
    assert torch.equal(ours.measurement.mask, (torch.arange(4) < 2).expand(2, 1, 4, 4))
    other = known_in(space, torch.where(known, images, 0.5), known)
    assert torch.equal(ours.y, other.y)
    assert torch.equal(space.decode(ours.y)[known], images[known])
    with pytest.raises(UserError, match="leaves no known pixels in the 4 x 4 cells"):
        known_in(space, images, (torch.arange(8) % 2 == 0).expand(2, 1, 8, 8))


def test_a_seam_blends_known_pixels_beside_the_hidden_ones(small):
    """Without guidance the samples have other values at the known pixels; hidden pixels and those beyond are kept."""
    job, found = small(3, 3, "conditioning=image", "degradation=mask_half"), []
    job.model.guidance = unguided
    for seam in (0, 2):
        found.append(Inpaint(degradation=Border(), seam=seam)(job)[0].x)
    assert torch.equal(found[0][..., 4:], found[1][..., 4:])
    assert torch.equal(found[0][..., :2], found[1][..., :2])
    assert (found[0] != found[1])[..., 2:4].double().mean() > 0.4
