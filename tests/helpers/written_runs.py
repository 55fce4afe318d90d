"""Directories of runs and sweeps as training leaves them, written without training."""

import json

PROTOCOL = {"features": "digits", "num_samples": 80, "data": "digits-1797", "sampler": "Ancestral", "steps": 50}
CHOICES = {"model": "ddpm", "dataset": "digits", "schedule": "cosine", "sampler": "ancestral", "experiment": None}


def config_text(choices, values):
    """A saved configuration of few keys, as YAML, which JSON is."""
    seed = values.get("seed", 0)
    content = {
        "seed": seed,
        "paths": {"run_dir": "/somewhere"},
        "logger": {"mode": "offline", "project": "diffsweep", "entity": None},
        "trainer": {"max_steps": 4},
        "dataset": {"_target_": "diffsweep.datasets.Digits", "seed": "${seed}"},
        "schedule": {"num_steps": 1000},
        "sampler": {"steps": "${schedule.num_steps}", "clip": "${space.clip}", "spacing": "uniform"},
        "optimizer": {"lr": 0.002},
        "choices": {**CHOICES, **choices},
        "sweep": None,
    }
    for key, value in values.items():
        *groups, name = key.split(".")
        node = content
        for group in groups:
            node = node[group]
        node[name] = value
    return json.dumps(content)


def write_run(folder, metrics=None, choices=(), values=(), protocol=(), losses=(1.0, 0.5), cost=None):
    """Write the files of a finished run into a folder and return it."""
    folder.mkdir(parents=True)
    values, protocol = dict(values), {**PROTOCOL, **dict(protocol)}
    (folder / "config.yaml").write_text(config_text(dict(choices), values))
    lines = ["step,train/loss,val/loss", *(f"{2 * k + 2},{loss},{loss}" for k, loss in enumerate(losses))]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    if metrics is not None:
        protocol["seed"] = values.get("seed", 0)
        content = {"metrics": metrics, "protocol": protocol, "protocol_id": "0", "cost": cost or {}}
        (folder / "metrics.json").write_text(json.dumps(content))
    return folder


def write_sweep(folder, values, states=(), protocol=lambda schedule: {}, key="schedule", **metrics):
    """Write a sweep over schedules and seeds, ``{("linear", 0): fid}``, with its manifest into a folder; return it."""
    jobs = []
    for k, ((value, seed), fid) in enumerate(values.items()):
        job = f"{k}_{key}-{value}_seed-{seed}"
        choices = {key: value} if "." not in key else {}
        of_keys = {"seed": seed} | ({key: value} if "." in key else {})
        numbers = None if fid is None else {"fid": fid, **{m: of(value, seed) for m, of in metrics.items()}}
        write_run(folder / job, numbers, choices, of_keys, protocol(value), (1.0, 0.5) if fid else (1.0,))
        state = dict(states).get(k, "finished")
        overrides = [f"{key}={value}", f"seed={seed}"]
        jobs.append({"name": job, "overrides": overrides, "state": state, "error": None, "seconds": 90.0})
    manifest = {"command": "train", "words": [f"{key}=...", "seed=..."], "jobs": jobs}
    (folder / "sweep.json").write_text(json.dumps(manifest))
    return folder
