"""Aspect-ratio buckets: their sizes, the images in them, and the order of batches of one bucket each."""

import itertools
import math
import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from parts import parts_of
from PIL import Image, ImageOps
from slower import some

from diffsweep.configuration.compose import compose
from diffsweep.configuration.preflight import preflight
from diffsweep.configuration.rules.network import (
    images_of_several_sizes_are_no_stored_latents,
    sides_of_buckets_fit_the_network,
)
from diffsweep.configuration.stage_nodes import stage_nodes, trainable_config
from diffsweep.datasets import ImageFolder
from diffsweep.datasets.buckets import BucketSize, bucket_sizes, nearest_bucket
from diffsweep.datasets.orders import BucketedBatches
from diffsweep.errors import UserError

# SDXL's table (arXiv:2307.01952, appendix I): of each height below the square's, its largest width.
OF_SDXL = {512: 2048, 576: 1792, 640: 1600, 704: 1472, 768: 1344, 832: 1216, 896: 1152, 960: 1088, 1024: 1024}
SIDES = [(8, 8), (16, 8), (8, 17), (30, 10), (12, 8), (9, 8), (8, 9), (24, 25)]  # width, height
SIZES = bucket_sizes(8, 2, 2.0)


def test_the_sizes_are_those_of_sdxl():
    sizes = bucket_sizes(1024, 64, 4.0)
    assert {size.height: size.width for size in sizes if size.width >= size.height} == OF_SDXL
    assert {size.width: size.height for size in sizes if size.width <= size.height} == OF_SDXL


@pytest.mark.parametrize(("side", "multiple", "ratio"), [(64, 8, 2.0), (32, 4, 3.0), (96, 32, 1.5), (64, 64, 4.0)])
def test_sizes_are_the_largest_of_their_height_by_trying_all(side, multiple, ratio):
    steps = range(multiple, 4 * side + 1, multiple)
    fit = [(h, w) for h in steps for w in steps if w >= side and w * h <= side**2 and w <= ratio * h]
    tallest = [(h, w) for h, w in fit if h == max(g for g, v in fit if v == w)]
    wide = {(h, w) for h, w in tallest if w == max(v for g, v in tallest if g == h)}
    expected = sorted(wide | {(w, h) for h, w in wide}, key=lambda size: size[1] / size[0])
    assert [tuple(size) for size in bucket_sizes(side, multiple, ratio)] == expected


def test_an_image_goes_to_the_bucket_of_the_nearest_ratio():
    images = torch.randint(1, 5000, (300, 2))
    found = nearest_bucket(SIZES, images).tolist()
    for (width, height), number in zip(images.tolist(), found, strict=True):
        distance = [abs(math.log(width / height * size.height / size.width)) for size in SIZES]
        assert distance[number] == pytest.approx(min(distance), abs=1e-12)
    assert SIZES[int(nearest_bucket(SIZES, torch.tensor([[700, 700]])))] == BucketSize(8, 8)


COUNTS = (7, 1, 40, 22)
BUCKET = torch.repeat_interleave(torch.arange(4), torch.tensor(COUNTS))[torch.randperm(70)]
BATCH = 6


def rows_of_batches(order, first, end):
    return [order.rows(range(n * BATCH, (n + 1) * BATCH)) for n in range(first, end)]


def test_batches_are_of_one_bucket_in_proportion_to_its_samples():
    epochs = 3 * BATCH
    every = rows_of_batches(BucketedBatches(BUCKET, BATCH, seed=1), 0, epochs * 70 // BATCH)
    buckets = torch.stack([BUCKET[rows] for rows in every])
    assert torch.equal(buckets, buckets[:, :1].expand_as(buckets))
    begin = 0
    for epoch in range(1, epochs + 1):
        end = sum(epoch * count // BATCH for count in COUNTS)
        so_far = torch.bincount(buckets[:end, 0], minlength=4).tolist()
        assert so_far == [epoch * count // BATCH for count in COUNTS]
        begin, former = end, begin
        assert end == 0 or former < end
    drawn = torch.bincount(torch.cat(every), minlength=70)
    assert drawn.tolist() == [epochs] * 70  # where B divides e N_b, nothing is left over


def test_a_sample_recurs_only_after_all_others_of_its_bucket():
    every = torch.cat(rows_of_batches(BucketedBatches(BUCKET, BATCH, seed=1), 0, 300))
    for number, count in enumerate(COUNTS):
        drawn = every[BUCKET[every] == number]
        inside = (number == BUCKET).nonzero()[:, 0].tolist()
        assert all(one.sort().values.tolist() == inside for one in drawn[: len(drawn) // count * count].split(count))


def test_the_order_is_a_function_of_seed_and_position():
    whole = rows_of_batches(BucketedBatches(BUCKET, BATCH, seed=2), 0, 90)
    for first, end in ((0, 2), (37, 61), (89, 90)):
        later = rows_of_batches(BucketedBatches(BUCKET, BATCH, seed=2), first, end)
        assert torch.equal(torch.stack(later), torch.stack(whole[first:end]))
    backwards = BucketedBatches(BUCKET, BATCH, seed=2)
    assert all(torch.equal(rows_of_batches(backwards, n, n + 1)[0], whole[n]) for n in (80, 3, 41))
    others = rows_of_batches(BucketedBatches(BUCKET, BATCH, seed=3), 0, 90)
    assert not torch.equal(torch.stack(others), torch.stack(whole))
    with pytest.raises(ValueError, match="are not those of one batch"):
        backwards.rows(range(3, 3 + BATCH))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of 64 images of noise in eight sizes, two classes, and one broken file."""
    top = tmp_path_factory.mktemp("photos")
    for number in range(64):
        width, height = SIDES[number % 8]
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        (top / f"class {number % 2}").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(top / f"class {number % 2}" / f"{number:02}.png")
    (top / "class 0" / "zzz.png").write_bytes(b"no image")
    return top


def made(folder, **more):
    settings = {"num_classes": 2, "label_column": "folders", "num_val": 4, "max_bad": 1, "buckets": 2, "batch_size": 5}
    data = ImageFolder(str(folder), image_size=8, cache_dir=str(folder.parent / "cache"), **{**settings, **more})
    data.trainer = trainer()
    return data


def trainer(step=0, rank=0, world=1):
    device = torch.device("cpu")
    return SimpleNamespace(
        global_step=step,
        global_rank=rank,
        world_size=world,
        accumulate_grad_batches=1,
        strategy=SimpleNamespace(root_device=device),
    )


def batches(data, count, **more):
    data.trainer = trainer(**more)
    return list(itertools.islice(data.train_dataloader(), count))


def by_pillow(folder, size):
    """Return the pixels of all images at a size, and which file each is of."""
    files = sorted(folder.glob("*/[0-9]*.png"))
    fitted = [ImageOps.fit(Image.open(file), (size.width, size.height), Image.Resampling.BICUBIC) for file in files]
    return {np.asarray(image).tobytes(): file for image, file in zip(fitted, files, strict=True)}


@pytest.mark.parametrize("flip", [False, True])
def test_batches_have_each_image_in_the_size_of_its_bucket(folder, flip, capsys):
    data = made(folder, flip=flip)
    pillow = {size: by_pillow(folder, size) for size in SIZES}
    seen, mirrored = [], 0
    for batch in batches(data, 50):
        x = ((batch["x"] + 1) * 127.5).round().to(torch.uint8)
        size = BucketSize(*x.shape[2:])
        for image, label in zip(x, batch["label"].tolist(), strict=True):
            for pixels in (image, image.flip(2)):
                file = pillow[size].get(pixels.permute(1, 2, 0).numpy().tobytes())
                if file is not None:
                    break
            mirrored += pixels is not image
            width, height = Image.open(file).size
            assert SIZES[int(nearest_bucket(SIZES, torch.tensor([[width, height]])))] == size
            assert file.parent.name == f"class {label}"
            seen.append(file)
    assert len({*seen}) == len(data.split("train"))
    assert (mirrored > 0) == flip
    printed = re.findall(r"(\d+) x (\d+): (\d+)", capsys.readouterr().err)
    counted = Counter((batch["x"].shape[3], batch["x"].shape[2]) for batch in batches(data, 60))
    assert {(int(width), int(height)) for width, height, _ in printed} == counted.keys()
    assert sum(int(count) for *_, count in printed) == 60


def test_resumed_runs_ranks_and_the_device_have_the_same_batches(folder):
    whole = batches(made(folder, flip=True), 12)
    resumed = batches(made(folder, flip=True), 5, step=7)
    ranks = [batches(made(folder, flip=True), 6, rank=rank, world=2) for rank in (0, 1)]
    alternating = [batch for pair in zip(*ranks, strict=True) for batch in pair]
    copied = batches(made(folder, flip=True, on_device=True), 12)
    for one, other in [
        *zip(whole[7:], resumed, strict=True),
        *zip(whole, alternating, strict=True),
        *zip(whole, copied, strict=True),
    ]:
        assert all(torch.equal(one[name], other[name]) for name in ("x", "label", "position"))


def test_splits_and_held_out_images_are_squares(folder):
    data, squares = made(folder), made(folder, buckets=None)
    for split in ("train", "val", "all"):
        assert torch.equal(data.split(split)["x"], squares.split(split)["x"])
    (held_out,) = data.val_dataloader()
    assert held_out["x"].shape == (4, 3, 8, 8)
    assert data.fingerprint == squares.fingerprint


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"buckets": 3}, r"dataset\.buckets=3 must divide dataset\.image_size=8"),
        ({"buckets": 0}, r"dataset\.buckets=0 must divide"),
        ({"max_aspect_ratio": 0.5}, r"dataset\.max_aspect_ratio must be at least 1, not 0\.5"),
        ({"buckets": 4}, r"dataset\.buckets=4 gives no size but 8 x 8; use a smaller multiple, or a dataset\.max_asp"),
        ({"balance": "classes"}, r"dataset\.buckets needs dataset\.balance=none"),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder, settings, match):
    with pytest.raises(ValueError, match=match):
        made(folder, **settings)


def composed(folder, *typed):
    settings = ["max_bad=1", "image_size=8", "buckets=2", "label_column=none", f"path='{folder}'"]
    overrides = [f"dataset.{setting}" for setting in settings]
    return compose("train", ["dataset=image_folder", "logger=csv", *overrides, "metrics=none", *typed])


def in_preflight(folder, *typed):
    preflight(composed(folder, *typed))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "match"),
    [
        (
            ("model=noisy_classifier", "dataset.label_column=folders"),
            r"several aspect ratios, and backbone=encoder_unet .* backbone=unet, dit, uvit, or dataset\.buckets=null",
        ),
        (
            ("model=ldm", "autoencoder.factor=2", "dataset.buckets=4", "dataset.max_aspect_ratio=4"),
            r"use autoencoder\.cache=false.*\[rule images_of_several_sizes_are_no_stored_latents\]",
        ),
    ],
)
def test_networks_of_squares_and_stored_latents_are_refused(folder, typed, match):
    with pytest.raises(UserError, match=match):
        in_preflight(folder, *typed)


def test_sides_must_be_those_that_the_network_takes(folder):
    match = r"use a multiple of 4 \[rule sides_of_buckets_fit_the_network\]"
    with pytest.raises(UserError, match=match):
        in_preflight(folder, "backbone=dit", "backbone.patch_size=4")


@pytest.mark.parametrize(
    ("factor", "patch", "cache", "refused"),
    [(1, 4, False, False), (2, 4, False, True), (4, 1, False, False), (2, 2, True, True), (3, 1, False, True)],
)
def test_sides_are_divided_by_the_autoencoder_and_by_patches(factor, patch, cache, refused):
    """The rules by themselves, for sides that are multiples of 4."""
    parts = parts_of(
        dataset=SimpleNamespace(buckets=4, provides=frozenset({"aspect_ratios"})),
        autoencoder=SimpleNamespace(factor=factor, cache=cache),
        backbone=SimpleNamespace(side_multiple=patch),
    )
    cfg = OmegaConf.create(
        {"dataset": {"buckets": 4}, "choices": dict.fromkeys(("backbone", "autoencoder", "conditioning"), "a")}
    )
    rules = (sides_of_buckets_fit_the_network, images_of_several_sizes_are_no_stored_latents)
    assert any(rule(cfg, parts) is not None for rule in rules) == refused


@pytest.mark.parametrize("backbone", some(["unet", "dit", "uvit"], 0))
def test_networks_that_take_other_sizes_are_accepted(folder, backbone):
    in_preflight(folder, f"backbone={backbone}")


@pytest.mark.parametrize(
    ("typed", "buckets"), [(["metrics=classifier"], None), (["guidance=autoguidance", "guidance.weak.train=[]"], 2)]
)
def test_a_trained_model_of_squares_is_trained_on_squares(folder, typed, buckets):
    cfg = composed(folder, "dataset.label_column=folders", *typed)
    stage = trainable_config(cfg, *stage_nodes(cfg)[0])
    assert (cfg.dataset.buckets, stage.dataset.buckets) == (2, buckets)
    preflight(cfg)
