"""The command ``preview.py``: what a model will be trained on, as pictures and numbers, before it is trained."""

import importlib.util
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from diffsweep import pictures, shell
from diffsweep.configuration.build import build, build_data
from diffsweep.configuration.preflight import preflight_training
from diffsweep.datasets import Batch, ImageData
from diffsweep.datasets.statistics import SampleStatistics, measure
from diffsweep.diffusion import ClipNoise, Noise, Stream, add_noise
from diffsweep.diffusion.process import expand_to
from diffsweep.errors import UserError
from diffsweep.files import write_text
from diffsweep.plots import plot_classes
from diffsweep.runs import report
from diffsweep.schedules import Schedule

PREVIEW = "preview.json"
SPACINGS = ("t", "log_snr")
STRIPS = 8  # clips whose frames are shown side by side
NAMED = 20  # classes that have a row of the printed table each; of more, the largest and the smallest have


def preview(cfg: DictConfig) -> Path:
    """Run ``preview.py``: show the data of a configuration as training gets them, and return the folder of the files.

    The files are ``batch`` (the first training batch as the loader gives it; PNG, and of clips GIF), ``noised`` (some
    of these samples at times from 0 to 1 of the noise schedule), ``classes.png`` (the counts of classes, with
    matplotlib) and ``preview.json`` (statistics). A table of the statistics is printed, and a line about words that
    training refuses.

    Args:
        cfg: a checked configuration of ``preview``.

    Raises:
        UserError: the data cannot be read, or a key of the command has a value that it cannot have.
    """
    _check(cfg)
    folder = Path(cfg.paths.run_dir)
    data = build_data(cfg)
    files = _show_batch(cfg, data, folder)
    content = _measured(cfg, data)
    if counts := content["classes"]:
        files += _show_classes(cfg, counts, folder)
    write_text(folder / PREVIEW, json.dumps(content, indent=1) + "\n")
    print(f"\n{report.table(rows(content))}\n")
    try:
        preflight_training(cfg)
    except UserError as error:
        print(f"train.py refuses these words: {error}\n")
    print("  " + " ".join(shell.shown(path) for path in [*files, folder / PREVIEW]))
    return folder


def _check(cfg: DictConfig) -> None:
    """Raise a UserError unless the keys of the command have values that they can have."""
    for key in ("num_samples", "num_shown", "num_noised", "num_times"):
        if cfg[key] is not None and cfg[key] < (least := 2 if key == "num_times" else 1):
            raise UserError(f"{key}={cfg[key]}: it is at least {least}")
    if cfg.spacing not in SPACINGS:
        raise UserError(f"spacing={cfg.spacing}: it is {' or '.join(SPACINGS)}")


def noised(schedule: Schedule, x_0: Tensor, times: Tensor, noise: Noise) -> Tensor:
    """Return samples at several times, x_t = alpha_t x_0 + sigma_t eps, (T, N, ...), with one eps at all times.

    Args:
        schedule: alpha_t and sigma_t.
        x_0: the samples, (N, ...).
        times: the times in [0, 1], (T,).
        noise: draws eps of each sample.
    """
    eps = noise.like(x_0, Stream.VALIDATION)
    return torch.stack([add_noise(schedule, x_0, t, eps) for t in times])


def times_of(schedule: Schedule, count: int, spacing: str) -> Tensor:
    """Return times from 0 to 1 at which noisy samples are shown, float64 (count,).

    Args:
        schedule: the schedule, whose log-SNR decides with ``log_snr``.
        count: the number of times, at least 2.
        spacing: ``t``: they are equally spaced. ``log_snr``: those between the first and the last have equally spaced
            log-SNRs, from the schedule's range cut to [-10, 10], outside of which no change is seen.
    """
    even = torch.linspace(0, 1, count, dtype=torch.float64)
    if spacing == "t":
        return even
    with torch.no_grad():
        high, low = schedule.log_snr(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)).clamp(-10, 10)
        inner = schedule.time_of(high + (low - high) * even[1:-1])
    return torch.cat([even[:1], inner, even[-1:]])


def words_of(batch: Batch, class_names: Sequence[str] | None) -> list[str]:
    """Return a text for each sample of a batch: its class, by name if the classes have names, and its caption.

    A caption that has the name of the class in it stands alone. The list is empty if the batch has neither labels nor
    captions.

    Args:
        batch: columns of samples, such as ``label`` (B,) and ``caption``, a list of B texts.
        class_names: the names of the classes in the order of their ids; None for none.
    """
    columns = []
    if "label" in batch:
        labels = batch["label"].tolist()
        columns.append([class_names[label] if class_names else f"class {label}" for label in labels])
    if "caption" in batch:
        columns.append(list(batch["caption"]))
    texts = [list(dict.fromkeys(some)) for some in zip(*columns, strict=True)]
    return [some[-1] if some[0].lower() in some[-1].lower() else ": ".join(some) for some in texts]


def _show_batch(cfg: DictConfig, data: ImageData, folder: Path) -> list[Path]:
    """Write pictures of the first training batch without noise and with it; return their files."""
    batch = next(iter(data.train_dataloader()))
    kind = "images" if data.num_frames is None else "clips"
    x, words = batch["x"][: cfg.num_shown], words_of(batch, cfg.dataset.get("class_names"))[: cfg.num_shown]

    def title(count: int) -> str:
        of_all = f"{count} of the " if count < len(batch["x"]) else "the "
        return f"dataset={cfg.choices.dataset}: {of_all}{len(batch['x'])} {kind} of the first training batch"

    columns = min(pictures.columns_of(x), math.ceil(math.sqrt(len(x))))
    draw = partial(pictures.grid, columns=columns, labels=words, title=title(len(x)))
    files = pictures.save_shown(draw, [x], folder / "batch")
    if kind == "clips":
        most = min(STRIPS, len(x))
        strips = pictures.strips(x, most=most, labels=words, title=title(most))
        pictures.save_png(strips, folder / "batch.png")
        files.append(folder / "batch.png")
    return files + _show_noised(cfg, x[: cfg.num_noised], words[: cfg.num_noised], folder)


def _show_noised(cfg: DictConfig, x: Tensor, words: Sequence[str], folder: Path) -> list[Path]:
    """Write a picture of samples at times from 0 to 1, a row for each; return its files."""
    schedule: Schedule = build(cfg, "schedule")
    clips: ClipNoise = build(cfg, "noise")
    times = times_of(schedule, cfg.num_times, cfg.spacing)
    noise = Noise(cfg.seed, torch.arange(len(x)), clips=clips)
    with torch.no_grad():
        alpha, sigma = schedule(times)
        x_t = noised(schedule, x, times, noise)
        headings = [_heading(*pair) for pair in zip(times.tolist(), schedule.log_snr(times).tolist(), strict=True)]
    norm = torch.hypot(alpha, sigma)
    title = f"schedule={cfg.choices.schedule}: x_t = alpha_t x_0 + sigma_t eps, with the same eps in a row"
    if not torch.allclose(norm, torch.ones_like(norm), atol=1e-3):
        title += ", over sqrt(alpha_t^2 + sigma_t^2)"
    shown = (x_t / expand_to(norm, x_t)).unbind(1)  # for each sample (T, C, ...)

    def draw(*samples: Tensor) -> Any:
        rows = [
            pictures.Row(one, words[i] if words else "", headings if i == 0 else ()) for i, one in enumerate(samples)
        ]
        return pictures.sheet(rows, title)

    return pictures.save_shown(draw, shown, folder / "noised")


def _heading(t: float, log_snr: float) -> str:
    return f"t={t:.{3 if t > 0.01 else 2}g} logSNR={log_snr:z{'.1f' if abs(log_snr) < 9.95 else '.0f'}}"


def _measured(cfg: DictConfig, data: ImageData) -> dict[str, Any]:
    """Return the content of ``preview.json``: the statistics of the data, with plain values."""
    train, val = data.split("train"), data.split("val")
    measured, held_out = measure(train, cfg.num_samples), measure(val, cfg.num_samples, "reading held-out")
    names, counts = cfg.dataset.get("class_names"), {}
    first = train.annotations(torch.arange(1))
    if "label" in first and data.num_classes is not None:
        of_split = [Counter(samples.part("label").tolist()) for samples in (train, val)]
        counts = {
            str(names[k] if names else k): {"train": of_split[0][k], "val": of_split[1][k]}
            for k in range(data.num_classes)
        }
    return {
        "dataset": cfg.choices.dataset,
        "fingerprint": data.fingerprint,
        "images": {"train": len(train), "val": len(val), "visited": len(data.loader_samples("train"))},
        "shape": list(data.shape),
        "levels": data.levels,
        "batch_size": data.batch_size,
        "annotations": sorted(first),
        "statistics": {"train": _plain(measured), "val": _plain(held_out)},
        "held_out_in_training": held_out.among(measured),
        "classes": counts,
        "balance": data.balance,
        "skipped": [list(one) for one in data.skipped],
        "schedule": _levels(cfg),
    }


def _plain(statistics: SampleStatistics) -> dict[str, Any]:
    found = {**asdict(statistics), "duplicates": statistics.duplicates}
    del found["digests"]
    return found


def _levels(cfg: DictConfig) -> list[dict[str, Any]]:
    """Return alpha, sigma and the log-SNR at the times of the picture; an infinite log-SNR as text, for JSON."""
    schedule: Schedule = build(cfg, "schedule")
    times = times_of(schedule, cfg.num_times, cfg.spacing)
    with torch.no_grad():
        values = torch.stack([times, *schedule(times), schedule.log_snr(times)], 1).tolist()
    finite = [[value if abs(value) != float("inf") else str(value) for value in row] for row in values]
    return [dict(zip(("t", "alpha", "sigma", "log_snr"), row, strict=True)) for row in finite]


def _show_classes(cfg: DictConfig, counts: dict[str, dict[str, int]], folder: Path) -> list[Path]:
    """Write a histogram of the classes, if matplotlib is installed; return its file."""
    if importlib.util.find_spec("matplotlib") is None:
        return []
    path = folder / "classes.png"
    plot_classes(counts, f"dataset={cfg.choices.dataset}").savefig(path, dpi=120)
    return [path]


def rows(content: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return rows (name, value, remark) of the printed table for the content of ``preview.json``."""
    images, statistics, kind = content["images"], content["statistics"]["train"], "images"
    if len(content["shape"]) == 4:
        kind = "clips"
    visited = images["visited"]
    found = [
        (f"training {kind}", str(images["train"]), f"{visited} with mirrors" if visited != images["train"] else ""),
        (f"held-out {kind}", str(images["val"]), ""),
        ("size", " x ".join(map(str, content["shape"])), f"channels x {'frames x ' * (kind == 'clips')}height x width"),
        ("levels", str(content["levels"]), "values of a number in [-1, 1]"),
        ("batch", str(content["batch_size"]), f"with {', '.join(content['annotations']) or 'no annotations'}"),
    ]
    columns = zip(*(statistics[name] for name in ("mean", "std", "minimum", "maximum")), strict=True)
    for channel, (mean, std, low, high) in enumerate(columns, start=1):
        remark = f"mean, standard deviation {std:.4f}, from {low:.3g} to {high:.3g}"
        found.append((f"channel {channel}", f"{mean:.4f}", remark + f" ({statistics['count']} {kind})"))
    twice, shared = statistics["duplicates"], content["held_out_in_training"]
    found.append(("duplicates", f"{twice:.2%}", f"of {statistics['count']} training {kind} equal one before them"))
    held_out = content["statistics"]["val"]["count"]
    found.append(("in both splits", f"{shared:.2%}", f"of {held_out} held-out {kind} equal one of these"))
    found.append(("skipped", str(len(content["skipped"])), _first_skipped(content["skipped"])))
    return found + _class_rows(content["classes"], content["balance"] == "classes")


def _first_skipped(skipped: Sequence[Sequence[str]]) -> str:
    return f"cannot be read, such as {skipped[0][0]} ({skipped[0][1]})" if skipped else "files that cannot be read"


def _class_rows(counts: dict[str, dict[str, int]], balanced: bool) -> list[tuple[str, str, str]]:
    """Return a row for each class, or of many classes for the largest and the smallest."""
    names = list(counts)
    if len(names) > NAMED:
        by_size = sorted(names, key=lambda name: -counts[name]["train"])
        names = [by_size[0], by_size[-1]]
    remark = "equally frequent in training batches, by dataset.balance" if balanced else ""
    rows = [("classes", str(len(counts)), remark)] if counts else []
    return rows + [(f"  {name}", str(counts[name]["train"]), f"{counts[name]['val']} held out") for name in names]
