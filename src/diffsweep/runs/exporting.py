"""The command ``export.py``, which writes a trained model in the format of another program."""

import shutil
import tempfile
from pathlib import Path

from omegaconf import DictConfig

from diffsweep import shell
from diffsweep.configuration.loading import load_model, reconstruction_of
from diffsweep.errors import UserError
from diffsweep.interchange.card import write_card
from diffsweep.interchange.formats import FORMATS, OF_UPDATES
from diffsweep.interchange.hub import check_name, push
from diffsweep.runs.stages import resolve_stages
from diffsweep.runs.training import train

WEIGHTS = {"ema": True, "raw": False}


def export(cfg: DictConfig) -> Path:
    """Run ``export.py``: write a model into a new folder with a model card, upload it if requested, return the folder.

    The folder appears when all of it is written.

    Args:
        cfg: a checked configuration of ``export``.

    Raises:
        UserError: a key has an unknown value, the folder has files already, or the format cannot express the model.
    """
    for key, known in (("format", FORMATS), ("weights", WEIGHTS)):
        if cfg[key] not in known:
            raise UserError(f"{key}={cfg[key]}: it is one of {', '.join(known)}")
    if cfg.ema is not None and not WEIGHTS[cfg.weights]:
        raise UserError(f"ema={cfg.ema} is an average, and weights={cfg.weights} are those that train; leave one out")
    if cfg.push is not None:
        check_name(cfg.push)
    folder = Path(cfg.output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{shell.shown(folder)} exists; give a new folder: output=DIR")
    resolve_stages(cfg, train)
    model = load_model(cfg, averaged=WEIGHTS[cfg.weights]).cpu()
    if getattr(model, "control", None) is not None:
        raise UserError("no format has a place for control networks; export the run that this one was adapted from")
    if model.adaptation is not None and cfg.format not in OF_UPDATES:
        model.adaptation.merge(model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as beside:
        new = Path(beside) / folder.name
        new.mkdir()
        written = FORMATS[cfg.format](model, cfg, new)
        made = reconstruction_of(cfg)
        write_card(new, cfg, written, cfg.weights if made is None else str(made))
        if folder.is_dir():
            folder.rmdir()
        shutil.move(new, folder)
    print(f"\n{written.what}")
    if made is not None:
        print(made)
    if written.difference is not None:
        print(f"its outputs differ from those of the run's network by at most {written.difference:.1e} of their size")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(f"  {shell.shown(path)}")
    if cfg.push is not None:
        print(f"  uploaded to {push(folder, cfg.push, cfg.private)}")
    print("\n" + written.example.replace("FOLDER", cfg.push or str(folder)))
    return folder
