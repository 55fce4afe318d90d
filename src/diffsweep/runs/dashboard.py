"""The command ``dashboard.py``: a workspace of W&B in which the runs of a sweep are compared."""

import importlib.util
import json
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from diffsweep import shell
from diffsweep.comparison.differences import SEED, varied
from diffsweep.comparison.records import read
from diffsweep.configuration.saved import CONFIG, load_config
from diffsweep.errors import UserError
from diffsweep.files import write_text
from diffsweep.metric_table import HEADLINES, METRICS, metric

PACKAGE = "wandb_workspaces"
STEP = "trainer/global_step"
CURVES = ("val/loss", "train/loss", "val/x0_mse", "train/lr", "train/grad_norm", "train/steps_per_second")
NOT_LOGGED = ("hours", "parameters", *CURVES)  # numbers of records that are not logged as results


class Sweep(NamedTuple):
    """What a workspace shows of a sweep.

    Attributes:
        name: the name of its folder, which is the group of its runs on W&B.
        project: the project on W&B.
        entity: the user or team on W&B; empty for the default one.
        varied: the keys that differ among its runs, as users type them, but for those that follow from ``seed``.
        measured: the metrics of its runs, in the order of the table of metrics.
    """

    name: str
    project: str
    entity: str
    varied: list[str]
    measured: list[str]

    @property
    def settings(self) -> list[str]:
        """The varied keys without the seed."""
        return [key for key in self.varied if key != SEED]


def dashboard(cfg: DictConfig) -> Path:
    """Run ``dashboard.py``: write the workspace of a sweep as JSON, make it on W&B if ``save``, and return the file.

    Args:
        cfg: the configuration of ``dashboard``.

    Raises:
        UserError: wandb-workspaces is not installed, the folder is no sweep, or no job has measured the metric.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError("dashboard.py needs wandb-workspaces; pip install 'diffsweep[dashboard]'")
    if cfg.sweep is None:
        raise UserError("sweep is missing: give the folder of a sweep, such as sweep=outputs/sweeps/NAME")
    sweep = read_sweep(Path(cfg.sweep))
    target = cfg.metric or next((name for name in HEADLINES if name in (*sweep.measured, *CURVES)), HEADLINES[-1])
    if cfg.metric is not None and cfg.metric not in (*sweep.measured, *CURVES):
        known = ", ".join(sweep.measured) or "no metrics"
        raise UserError(f"metric={cfg.metric}: no job of {shell.shown(cfg.sweep)} has measured it; they have {known}")
    made = workspace(sweep._replace(entity=cfg.entity or sweep.entity), logged(target))
    path = Path(cfg.sweep) / "dashboard.json" if cfg.output is None else Path(cfg.output)
    write_text(path, json.dumps(specification(made), indent=1) + "\n")
    print(f"  workspace {shell.shown(path)}")
    if cfg.save:
        made.entity = made.entity or _default_entity()
        print(f"  on W&B    {made.save().url}")
    else:
        jobs = shell.shown(cfg.sweep)
        print(f"  upload    wandb sync {jobs}/*/wandb/offline-run-*; then run this command with save=true")
    return path


def read_sweep(folder: Path) -> Sweep:
    """Return what a workspace shows of a sweep, from the files of its jobs.

    Args:
        folder: the folder of the sweep, with a folder for each job.

    Raises:
        UserError: the folder has no jobs of ``train.py``.
    """
    jobs = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
    if not jobs:
        raise UserError(
            f"sweep={folder}: no folder of a sweep of train.py; it has a folder for each job, as outputs/sweeps/NAME"
        )
    logger, records = load_config(jobs[0]).logger, read([folder])
    return Sweep(
        folder.resolve().name,
        str(logger.get("project") or "diffsweep"),
        str(logger.get("entity") or ""),
        [*varied(records), *([SEED] if len({record.seed for record in records}) > 1 else [])],
        [name for name in METRICS if name not in NOT_LOGGED and any(name in record.metrics for record in records)],
    )


def logged(name: str) -> str:
    """Return the name under which a metric of ``metrics.json`` is logged: ``eval/fid`` for ``fid``."""
    return name if "/" in name else f"eval/{name}"


def workspace(sweep: Sweep, target: str) -> Any:
    """Return the workspace of a sweep, an object of wandb-workspaces that can be saved to W&B.

    Its sections are the scores, by setting and over training; what matters, with parallel coordinates and the
    importance of each setting; the samples by run and step; and the comparison of the runs. Runs are those of the
    sweep's group, grouped by the settings that differ, so that curves are means over seeds with their spread.

    Args:
        sweep: the sweep.
        target: the logged name of the metric that settings are related to.
    """
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    scores = [logged(name) for name in sweep.measured if metric(name).ranks][:8]
    group = {"groupby": wr.Config(_stored(sweep.settings[0])), "groupby_aggfunc": "mean"} if sweep.settings else {}
    spread = {**group, "groupby_rangefunc": "stddev"} if group else {}
    curves = [wr.LinePlot(title=name, x=STEP, y=[name], **spread) for name in (*scores[:2], *CURVES)]
    bars = [wr.BarPlot(title=metric(name.removeprefix("eval/")).label, metrics=[name], **spread) for name in scores]
    if "network_evaluations" in sweep.measured:
        evaluations = wr.SummaryMetric("eval/network_evaluations")
        bars.append(wr.ScatterPlot(title=f"{target} by cost", x=evaluations, y=wr.SummaryMetric(target)))
    columns = [_column(wr, key) for key in sweep.varied]
    columns += [
        wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(name)) for name in dict.fromkeys([*scores, target])
    ]
    wide = wr.Layout(w=24, h=12)
    sections = [
        ws.Section(name="Scores", panels=bars, is_open=True),
        ws.Section(name="Curves", panels=curves, is_open=True),
        ws.Section(
            name="What matters",
            panels=[
                wr.ParallelCoordinatesPlot(columns=columns, layout=wide),
                wr.ParameterImportancePlot(with_respect_to=target, layout=wide),
            ],
            is_open=True,
        ),
        ws.Section(
            name="Samples",
            panels=[
                wr.MediaBrowser(
                    title="samples by run and step",
                    media_keys=["samples"],
                    mode="grid",
                    grid_x_axis="step",
                    grid_y_axis="run",
                    layout=wide,
                ),
                wr.MediaBrowser(
                    title="at the end", media_keys=["final"], mode="gallery", gallery_axis="run", layout=wide
                ),
                wr.WeavePanelSummaryTable(table_name="samples_table", layout=wide),
            ],
            is_open=True,
        ),
        ws.Section(name="Runs", panels=[wr.RunComparer(diff_only="split", layout=wide)]),
    ]
    runs = ws.RunsetSettings(
        filters=[ws.Metric("Group") == sweep.name],
        groupby=[ws.Config(_stored(key)) for key in sweep.settings],
        pinned_columns=[f"summary:{name}" for name in dict.fromkeys([target, *scores[:3]])],
    )
    return ws.Workspace(
        entity=sweep.entity,
        project=sweep.project,
        name=sweep.name,
        sections=sections,
        runset_settings=runs,
        settings=ws.WorkspaceSettings(x_axis=STEP),
    )


def specification(made: Any) -> dict[str, Any]:
    """Return the JSON of a workspace as W&B stores it, in dicts and lists."""
    view = made._to_model()  # what its method save() sends
    content: dict[str, Any] = json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))
    return {"entity": view.entity, "project": view.project, "name": view.display_name, "spec": content}


def _column(wr: Any, key: str) -> Any:
    """Return a column of parallel coordinates for a key of the configuration."""

    class TypedKey(wr.ParallelCoordinatesPlotColumn):  # type: ignore[name-defined]
        """A column of a flat key, which may have dots; the library takes it for a key in nested dicts."""

        def _to_model(self) -> Any:
            return super()._to_model().model_copy(update={"accessor": f"config:{_stored(key)}"})

    return TypedKey(metric=wr.Config(key), display_name=key)


def _stored(key: str) -> str:
    """Return the path at which W&B stores the value of a flat key: ``a.b.value``; ``a.value.b`` is ``b`` in ``a``."""
    return f"{key}.value"


def _default_entity() -> str:
    import wandb

    return str(wandb.Api().default_entity)
