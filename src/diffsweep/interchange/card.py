"""The model card of an exported model: README.md with the front matter that the Hugging Face hub reads."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffsweep import pictures
from diffsweep.interchange.formats import Written
from diffsweep.metric_table import METRICS

CARD = "README.md"
METHOD = ("model", "backbone", "schedule", "prediction", "objective", "weighting", "conditioning", "autoencoder")
SPEED = ("images_per_second", "network_evaluations")  # numbers of a machine, not of the model
MEASURED = "ema"  # the weights that a run is measured with
WEIGHTS = {MEASURED: "their moving average over training", "raw": "those of the last training step"}
OTHER_WEIGHTS = "The run was measured with the moving average of its weights, and not with these weights.\n\n"
SETTINGS = ("backbone", "schedule", "prediction", "sampler", "guidance")


def write_card(folder: Path, cfg: DictConfig, written: Written, weights: str) -> None:
    """Write the model card of an exported model, and copy the pictures of its run that the card shows.

    Args:
        folder: the folder of the exported model.
        cfg: the configuration of the export; ``paths.run_dir`` is the directory of the run.
        written: what was written.
        weights: ``ema`` or ``raw``; or, of an average that was made of snapshots, how it was.
    """
    run = Path(cfg.paths.run_dir)
    shown = _copied_pictures(run, folder)
    measured, place = _measured(run / "metrics.json"), cfg.push or folder.name
    written = replace(written, example=written.example.replace("FOLDER", place))
    name = run.name if cfg.push is None else cfg.push.rpartition("/")[2]
    (folder / CARD).write_text(_card(cfg, written, weights, measured, shown, name), encoding="utf-8")


def _card(
    cfg: DictConfig, written: Written, weights: str, measured: Mapping[str, Any], shown: list[str], name: str
) -> str:
    choices, data = cfg.choices, str(cfg.choices.dataset)
    values = {key: value for key, value in measured.get("metrics", {}).items() if key in METRICS}
    own = values if weights == MEASURED else {}
    table = _metrics(measured, values)
    parts = [
        "---\n" + OmegaConf.to_yaml(_front_matter(written, data, own, str(choices.model), name)) + "---\n",
        f"# {choices.model} on {data}\n",
        f"A diffusion model trained with diffsweep: {written.what}. The weights are "
        f"{WEIGHTS.get(weights, f'an average made after training ({weights})')}.\n",
        *(f"![samples](./{name})\n" for name in shown),
        "## Use\n",
        f"```python\n{written.example}```\n",
        "## Method\n",
        _table(("part", "choice"), [(group, str(choices.get(group))) for group in METHOD]),
        "## Metrics\n",
        table if own or not values else OTHER_WEIGHTS + table,
        "## Configuration\n",
        "```yaml\n" + OmegaConf.to_yaml(_settings(cfg)) + "```\n",
    ]
    return "\n".join(parts)


def _front_matter(written: Written, data: str, values: Mapping[str, float], model: str, name: str) -> DictConfig:
    """Return the metadata that the hub reads."""
    content: dict[str, Any] = {
        "library_name": written.library,
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["diffusion", "diffsweep", model],
    }
    if values:
        metrics = [{"type": key, "value": value} for key, value in values.items() if key not in SPEED]
        task = {"type": "unconditional-image-generation"}
        result = {"task": task, "dataset": {"type": data, "name": data}, "metrics": metrics}
        content["model-index"] = [{"name": name, "results": [result]}]
    return OmegaConf.create(content)


def _metrics(measured: Mapping[str, Any], values: Mapping[str, float]) -> str:
    """Return the table of the run's metrics, and what they depend on."""
    if not values:
        return "The run has measured nothing.\n"
    rows = [(METRICS[key].label, METRICS[key].shown(value)) for key, value in values.items()]
    protocol = [(key, str(value)) for key, value in measured.get("protocol", {}).items()]
    text = _table(("metric", "value"), rows)
    if protocol:
        text += f"\nThey were measured under this protocol (`{measured.get('protocol_id')}`); other numbers are not "
        text += "comparable:\n\n" + _table(("setting", "value"), protocol)
    return text


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [f"| {left} | {right} |" for left, right in [head, ("---", "---"), *rows]]
    return "\n".join(lines) + "\n"


def _settings(cfg: DictConfig) -> DictConfig:
    plain = {group: OmegaConf.to_container(cfg[group], resolve=True) for group in SETTINGS}
    return OmegaConf.create(plain)


def _measured(file: Path) -> Mapping[str, Any]:
    """Return the content of a run's metrics.json; empty for a run that has measured nothing."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _copied_pictures(run: Path, folder: Path) -> list[str]:
    """Copy the pictures of samples at the end of a run into a folder, and return their names."""
    found = sorted(path for path in run.glob("final.*") if path.suffix in pictures.SHOWN)
    for path in found:
        shutil.copyfile(path, folder / path.name)
    return [path.name for path in found]
