"""Fixtures of all tests: the number of threads, data files, configurations and exact denoisers."""

import functools
import io
import json
import os

import pytest
import torch

from diffsweep.diffusion import GaussianDenoiser, GaussianMixtureDenoiser

pytest_plugins = ["run_fixtures", "faults"]


def pytest_configure(config):
    """Set the threads of torch to 1, or DIFFSWEEP_TEST_THREADS, since rounding depends on their number."""
    torch.set_num_threads(int(os.environ.get("DIFFSWEEP_TEST_THREADS", "1")))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def no_hub(monkeypatch):
    """Without the Hugging Face hub, whose library would try for half a minute to reach it without a network."""
    import huggingface_hub

    import datasets

    for module in (huggingface_hub.constants, datasets.config):  # they have read the environment already
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def write_parquet():
    """``write_parquet(path, columns, names)`` writes a parquet file of columns by name and returns its path.

    Column ``img`` has PIL images or bytes, stored as on the Hugging Face hub; ``names`` are those of the classes in
    column ``label``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def encoded(image):
        if isinstance(image, bytes):
            return image
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()

    def write_parquet(path, columns, names=None):
        features = {"img": {"_type": "Image"}}
        columns = dict(columns)
        columns["img"] = pa.array([{"bytes": encoded(image), "path": None} for image in columns["img"]])
        if names is not None:
            features["label"] = {"names": list(names), "_type": "ClassLabel"}
        hub = {"huggingface": json.dumps({"info": {"features": features}})}
        pq.write_table(pa.table(columns).replace_schema_metadata(hub), path)
        return path

    return write_parquet


CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
OF_A_FILE = {  # options that need a data file: the fixture that makes it, and the settings that describe it
    "dataset=cifar10": ("parquet_file", "num_val=60"),
    "dataset=parquet": (
        "parquet_file",
        "num_val=60",
        "image_column=img",
        "label_column=label",
        "num_classes=10",
        "image_size=8",
    ),
    "dataset=image_folder": ("image_folder", "num_val=60"),
    "dataset=arrow": ("arrow_folder", "num_val=60"),
    "dataset=webdataset": ("tars", "num_val=60"),
    "dataset=hub": ("hub", "num_val=60", "label_column=label"),
    "dataset=mnist": ("hub", "num_val=60"),
    "dataset=fashion_mnist": ("hub", "num_val=60"),
    "dataset=cifar10_hub": ("hub", "num_val=60", "image_column=image"),
    "dataset=celeba": ("hub", "num_val=60", "val_split=null", "label_column=label", "num_classes=10"),
    "dataset=imagenet": ("hub", "num_val=60", "val_split=null", "num_classes=10"),
    "dataset=video_folder": ("videos", "num_val=20", "num_classes=2", "image_size=8", "num_frames=4"),
}


@pytest.fixture(scope="session")
def parquet_file(write_parquet, tmp_path_factory):
    """A file of 240 different RGB images of 32 pixels in ten classes, with black and white in the upper half."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (240, 8, 8, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    pixels[:, :16, :16], pixels[:, :16, 16:] = 0, 255
    columns = {"img": [Image.fromarray(image) for image in pixels], "label": [i % 10 for i in range(len(pixels))]}
    return write_parquet(tmp_path_factory.mktemp("data") / "train.parquet", columns, CLASSES)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """A folder of 240 different RGB images of 8 pixels in ten folders, its classes, with black and white in each."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(1).integers(0, 256, (240, 8, 8, 3), dtype=np.uint8)
    pixels[:, 0], pixels[:, 1] = 0, 255
    folder = tmp_path_factory.mktemp("data") / "photos"
    for i, image in enumerate(pixels):
        (folder / CLASSES[i % 10]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / CLASSES[i % 10] / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def hub(image_folder):
    """A local stand-in for a dataset of the hub: the images of ``image_folder`` in two parquet files, one a split."""
    import datasets

    folder = image_folder.parent / "hub"
    files = sorted(image_folder.glob("*/*.png"), key=lambda file: int(file.stem))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    for split in ("train", "test"):
        columns = {
            "image": [{"bytes": file.read_bytes(), "path": None} for file in files],
            "label": [CLASSES.index(file.parent.name) for file in files],
        }
        folder.mkdir(exist_ok=True)
        datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}-00000.parquet")
    return folder


@pytest.fixture(scope="session")
def arrow_folder(hub):
    """A folder that ``datasets`` saved, of the images of ``image_folder`` in two Arrow files."""
    import datasets

    folder = hub.parent / "saved"
    datasets.Dataset.from_parquet(str(hub / "train-00000.parquet")).save_to_disk(folder, num_shards=2)
    return folder


@pytest.fixture(scope="session")
def tars(image_folder):
    """A folder of three tar files in the webdataset convention, of the images of ``image_folder`` and their classes."""
    import tarfile

    files = sorted(image_folder.glob("*/*.png"), key=lambda file: int(file.stem))
    folder = image_folder.parent / "tars"
    folder.mkdir()
    for part in range(3):
        with tarfile.open(folder / f"train-{part:04}.tar", "w") as tar:
            for file in files[80 * part : 80 * part + 80]:
                texts = {"cls": str(CLASSES.index(file.parent.name)), "txt": f"a {file.parent.name}"}
                for end, content in {"png": file.read_bytes(), **{k: v.encode() for k, v in texts.items()}}.items():
                    member = tarfile.TarInfo(f"{file.stem}.{end}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """A folder of 120 different videos in two classes, each a folder of 5 frames of 8 pixels with black and white."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (120, 5, 8, 8, 3), dtype=np.uint8)
    pixels[:, :, 0], pixels[:, :, 1] = 0, 255
    folder = tmp_path_factory.mktemp("videos") / "classes"
    for i, video in enumerate(pixels):
        (clip := folder / ("even", "odd")[i % 2] / str(i)).mkdir(parents=True)
        for j, frame in enumerate(video):
            Image.fromarray(frame).save(clip / f"{j}.png")
    return folder


@pytest.fixture(scope="session")
def compose(request):
    """``compose(*overrides)`` returns the configuration of train.py, made once for each set of overrides.

    Tests must not change it. Datasets that need a file have a small one.
    """
    from composing import composed

    def with_file(option):
        fixture, *facts = OF_A_FILE[option]
        file = request.getfixturevalue(fixture)
        key = "name" if fixture == "hub" else "path"
        settings = (f"{key}={file}", f"cache_dir={file.parent}", *facts)
        return [f"dataset.{setting}" for setting in settings]

    @functools.cache
    def compose(*overrides):
        named = any(override.startswith("logger=") for override in overrides)
        files = [more for option in OF_A_FILE if option in overrides for more in with_file(option)]
        return composed("train", *files, *overrides, *([] if named else ["logger=csv"]))

    return compose


@pytest.fixture(scope="session")
def gaussian():
    """``gaussian(schedule, prediction)`` returns the exact denoiser of a correlated Gaussian in the plane, float64."""
    mean = torch.tensor([0.5, -0.3], dtype=torch.float64)
    covariance = torch.tensor([[0.5, 0.2], [0.2, 0.25]], dtype=torch.float64)
    return lambda schedule, prediction=None: GaussianDenoiser(schedule, mean, covariance, prediction)


@pytest.fixture(scope="session")
def mixture():
    """``mixture(schedule, prediction)`` returns the exact denoiser of three Gaussians in the plane, in float64."""
    means = torch.tensor([[0.6, 0.5], [-0.6, 0.2], [0.1, -0.7]], dtype=torch.float64)
    square_roots = torch.tensor(
        [[[0.3, 0.0], [0.1, 0.2]], [[0.2, 0.0], [-0.1, 0.25]], [[0.25, 0.0], [0.0, 0.15]]], dtype=torch.float64
    )
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    covariances = square_roots @ square_roots.mT
    return lambda schedule, prediction=None: GaussianMixtureDenoiser(schedule, means, covariances, weights, prediction)
