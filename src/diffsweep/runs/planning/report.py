"""The tables in which plans are printed."""

from collections.abc import Sequence

from diffsweep.progress import duration
from diffsweep.runs.planning.plans import (
    AHEAD,
    CHECKPOINTS,
    PICTURES,
    SAVING,
    SUMS,
    TRAINING,
    VALIDATION,
    RunPlan,
    disk_of_all,
    seconds_of_all,
    stages_of_all,
)
from diffsweep.runs.report import table

UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
FLOPS = ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP"))
ReportRow = tuple[str, str, str]


def in_units(value: float, units: Sequence[tuple[float, str]] = UNITS, last: str = "bytes") -> str:
    """Return a number with three digits and the largest unit below it: ``1.23 GB``."""
    for size, unit in units:
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} {last}"


def shown(plan: RunPlan) -> str:
    """Return the tables of a plan: the network, steps, memory, time and disk, and what fits."""
    rows = [*_network(plan), *_memory(plan), *_time(plan), *_disk(plan)]
    stages = [f"\nfirst, kept for later runs: {name}\n{shown(each)}" for name, each in plan.stages.items()]
    return "\n".join([f"plan of {plan.name}", table(rows), *stages])


def _network(plan: RunPlan) -> list[ReportRow]:
    cost, measured = plan.rehearsed.cost, plan.rehearsed
    accumulated = f" in {plan.accumulated} batches" if plan.accumulated > 1 else ""
    frozen = f"of {measured.parameters:,}" if measured.trained < measured.parameters else ""
    sharing = measured.sharing
    machines = f"{sharing.machines} machines of {sharing.devices} devices" if sharing.machines > 1 else "one machine"
    own = f"{plan.batch * plan.accumulated:,} samples of a step"
    shared = [("processes", f"{sharing.processes}", f"on {machines}, each with {own}")] if sharing.processes > 1 else []
    return [
        ("network", f"{cost.parameters:,}", f"parameters of {cost.network}"),
        ("trained", f"{measured.trained:,}", frozen),
        ("forward pass", in_units(2e9 * cost.gmac, FLOPS, "FLOP"), cost.sample),
        ("step", in_units(plan.flops, FLOPS, "FLOP"), f"{plan.samples:,} samples{accumulated}"),
        ("steps", f"{plan.steps:,}", f"{plan.images:,} samples, {plan.epochs:.3g} epochs"),
        *shared,
    ]


def _memory(plan: RunPlan) -> list[ReportRow]:
    memory = plan.memory
    of_all = "" if memory.capacity is None else f", of {in_units(memory.capacity)} on the device"
    if plan.rehearsed.sharing.processes > 1:
        of_all = f" in each process{of_all.replace('on the device', 'for each')}"
    rows = [("memory", in_units(memory.peak), f"at most{of_all}")]
    parts = {
        **({"process": memory.process} if memory.process else {}),
        **memory.known._asdict(),
        "activations": memory.activations,
        "buckets": memory.buckets,
        "working": memory.working,
    }
    remarks = {
        "process": "without the model, after any stages",
        "average": "of the weights",
        "activations": f"kept for the backward pass of {memory.batch} samples",
        "buckets": "gradients that are sent",
        "working": "gradients of activations, and what libraries take",
    }
    rows += [(f"  {name}", in_units(size), remarks.get(name, "")) for name, size in parts.items() if size]
    return rows + _batches(plan)


def _batches(plan: RunPlan) -> list[ReportRow]:
    """Return rows with the largest batch that fits, and where the wanted one does not, with what fits in its place."""
    rows, largest = [], plan.memory.largest_batch
    if plan.changes or plan.memory.fits is False:
        rows.append(("  too large", f"{plan.batch}", "this batch does not fit into the memory of the device"))
    rows += [("  fits", in_units(change.peak), f"with {change.words}") for change in plan.changes]
    if largest:
        rows.append(("  batch", f"{largest:,}", "the largest power of two that fits, dataset.batch_size"))
    return rows


def _time(plan: RunPlan) -> list[ReportRow]:
    measured, sharing = plan.rehearsed, plan.rehearsed.sharing
    each = f", of {in_units(sharing.buckets)} each" if sharing.buckets else ""
    remarks = {
        TRAINING: f"{measured.step:.3g} s a step",
        SUMS: f"{sharing.summing:.3g} s a step{each}",
        VALIDATION: f"{plan.validations} of {measured.validation:.3g} s",
        PICTURES: f"{plan.validations} of {measured.picture:.3g} s",
        SAVING: f"{plan.validations} times, and tables",
        AHEAD: "computed once, and kept",
    }
    below = [(f"  {name}", duration(each.own_seconds), each.name) for name, each in stages_of_all([plan]).items()]
    rows = [(f"  {name}", duration(seconds), remarks.get(name, "")) for name, seconds in plan.parts.items()]
    named = [row for row in rows if row[1] != "0 s"]
    assumed = [("  assumed", "", measured.sharing.assumed)] if measured.sharing.assumed else []
    return [("time", duration(plan.seconds), f"{plan.seconds / 3600:.3g} hours"), *named, *assumed, *below]


def _disk(plan: RunPlan) -> list[ReportRow]:
    remarks = {"checkpoints": f"{CHECKPOINTS} of {in_units(plan.rehearsed.checkpoint)}, the last of them until the end"}
    rows = [(f"  {name}", in_units(size), remarks.get(name, "")) for name, size in plan.own_disk.items()]
    stages = [(f"  {name}", in_units(sum(each.own_disk.values())), "") for name, each in stages_of_all([plan]).items()]
    return [("disk", in_units(plan.disk), "at most"), *rows, *stages]


def shown_sweep(names: Sequence[str], plans: Sequence[RunPlan]) -> str:
    """Return the tables of a sweep: a row for each job and each stage, and the whole.

    Args:
        names: of the jobs.
        plans: those of the jobs.
    """
    stages = stages_of_all(plans)
    most = [*plans, *stages.values()]
    rows = [("job", "time", "memory and disk")]
    rows += [_row(name, plan) for name, plan in zip(names, plans, strict=True)]
    rows += [_row(f"stage {name}", plan) for name, plan in stages.items()]
    total, of_devices = seconds_of_all(plans), sum(plan.device_seconds for plan in most)
    rows.append(
        (
            "all",
            duration(total),
            f"{in_units(max(plan.memory.peak for plan in most))}, {in_units(disk_of_all(plans))}; "
            f"{of_devices / 3600:.3g} hours of one device",
        )
    )
    return table(rows)


def _row(name: str, plan: RunPlan) -> ReportRow:
    fits = "" if plan.memory.fits is not False and not plan.changes else "; does not fit"
    disk = in_units(sum(plan.own_disk.values()))
    return name, duration(plan.own_seconds), f"{in_units(plan.memory.peak)}, {disk}{fits}"
