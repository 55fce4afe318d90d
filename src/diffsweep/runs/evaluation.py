"""Samples a model and measures the samples."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffsweep import pictures
from diffsweep.datasets import ImageData
from diffsweep.metrics import GenerationMetrics
from diffsweep.models import DiffusionModel
from diffsweep.runs import report
from diffsweep.runs.build import build_data, build_metrics
from diffsweep.runs.errors import UserError
from diffsweep.runs.loading import load_model
from diffsweep.runs.sampling import Drawn, draw


def measure(
    cfg: DictConfig, model: DiffusionModel, data: ImageData, metrics: GenerationMetrics, folder: Path
) -> tuple[dict[str, float], Drawn]:
    """Draw samples, measure them, and write ``metrics.json`` into a folder. Returns the numbers and the samples."""
    for warning in metrics.warnings():
        print(f"warning: {warning}")
    drawn = draw(model, metrics.num_samples, cfg.seed, metrics.batch_size)
    numbers = metrics(drawn.x, data)
    numbers["images_per_second"] = len(drawn.x) / drawn.seconds
    report.write_metrics(folder / "metrics.json", numbers, protocol(cfg, metrics, data))
    return numbers, drawn


def protocol(cfg: DictConfig, metrics: GenerationMetrics, data: ImageData) -> dict[str, Any]:
    """All that the numbers depend on beside the model: equal protocols can be ranked."""
    sampler = OmegaConf.to_container(cfg.sampler, resolve=True)
    assert isinstance(sampler, dict)
    settings = {str(key): value for key, value in sampler.items() if key != "_target_"}
    return {
        **metrics.protocol(),
        "data": data.fingerprint,
        "sampler": sampler["_target_"].rpartition(".")[2],
        **settings,
        "guidance": OmegaConf.to_container(cfg.guidance, resolve=True),
        "variance": cfg.prediction.variance,
        "resize": "none",
        "seed": cfg.seed,
        "precision": str(cfg.trainer.precision),
    }


def evaluate(cfg: DictConfig) -> float:
    """The command ``evaluate.py``: writes metrics.json and grid.png into the output folder; returns the FID."""
    if cfg.num_samples is not None:
        cfg.metrics.num_samples = cfg.num_samples
    folder = Path(cfg.output)
    data, metrics = build_data(cfg), build_metrics(cfg)
    if metrics is None:
        raise UserError("there is nothing to measure with metrics=none; choose metrics=digits")
    model = load_model(cfg)
    numbers, drawn = measure(cfg, model, data, metrics, folder)
    pictures.save_png(pictures.grid(drawn.x[:100]), folder / "grid.png")
    print(f"\n{metrics.num_samples} samples by {cfg.choices.sampler} in {model.sampler.steps} steps")
    print(report.table(report.metric_rows(numbers)))
    print(f"\n  {report.shown(folder / 'metrics.json')}\n  {report.shown(folder / 'grid.png')}")
    return numbers["fid"]
