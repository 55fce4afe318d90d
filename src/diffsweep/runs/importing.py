"""The command ``import.py``: a run whose weights are published ones, as if training had ended with them."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from lightning import Callback
from omegaconf import DictConfig, OmegaConf

from diffsweep import shell
from diffsweep.callbacks import EMA
from diffsweep.callbacks.checkpoints import FOLDER, LAST, KeepCheckpoints
from diffsweep.configuration.build import build, build_model
from diffsweep.errors import UserError
from diffsweep.interchange.published import LoadedWeights, load, read
from diffsweep.models import Model
from diffsweep.runs.claiming import claim, refuse_taken
from diffsweep.runs.importing_pipeline import with_pipeline
from diffsweep.runs.stages import resolve_stages
from diffsweep.runs.training import make_trainer


def import_weights(cfg: DictConfig) -> Path:
    """Run ``import.py``: write a run with published weights, and return its directory, ``cfg.paths.run_dir``.

    The run has ``config.yaml`` and ``checkpoints/last.ckpt`` as training writes them, at step 0. So ``sample.py`` and
    ``evaluate.py`` use it, and ``train.py resume=`` finetunes it. Other trained models that it needs must be given or
    exist; they are not trained.

    Args:
        cfg: a checked configuration of ``import``. If ``weights`` is a folder, it is a pipeline of diffusers, and the
            run has the options of the pipeline, but for those of the command line.

    Raises:
        UserError: the file cannot be read, or does not fit the network; or the directory has a run already.
    """
    if cfg.weights is None:
        raise UserError("weights is missing: give a file of published weights, as in weights=DiT-XL-2-256x256.pt")
    refuse_taken(cfg)
    if Path(cfg.weights).is_dir():
        return _of_pipeline(cfg)
    resolve_stages(cfg, _refuse)
    directory, content = Path(cfg.paths.run_dir), read(cfg.weights)
    model = build_model(cfg)
    loaded = load(content, model, shell.shown(cfg.weights), cfg.form)
    _check_requirements(cfg, loaded)
    claim(cfg)
    _save(cfg, model, directory / FOLDER / LAST)
    _print(cfg, model, loaded, directory)
    return directory


def _of_pipeline(cfg: DictConfig) -> Path:
    """Write a run that is a pipeline of diffusers, whose options come from its folder, and return its directory."""
    directory, words = Path(cfg.paths.run_dir), HydraConfig.get().overrides.task
    cfg, model = with_pipeline(directory, Path(cfg.weights), list(words))
    _save(cfg, model, directory / FOLDER / LAST)
    _print_places(model, directory)
    return directory


def _refuse(stage: DictConfig) -> float:
    raise UserError(
        f"the run needs a trained model of model={stage.choices.model}, which import.py does not train; make its run "
        "by train.py or import.py, and give it, as in autoencoder.run=DIR or guidance.classifier.run=DIR"
    )


def _check_requirements(cfg: DictConfig, loaded: LoadedWeights) -> None:
    """Raise a UserError if the run would use the output or the time of the network in another way than its authors."""
    wrong = {key: value for key, value in loaded.form.requires.items() if OmegaConf.select(cfg, key) != value}
    if wrong:
        words = [
            f"{key.removesuffix('._target_')}={value.rpartition('.')[2].lower() if isinstance(value, str) else value}"
            for key, value in wrong.items()
        ]
        raise UserError(f"networks of the form {loaded.form.name} are meant otherwise: type {' '.join(words)}")


def _save(cfg: DictConfig, model: Model, path: Path) -> None:
    """Write the checkpoint of a training of no steps, with the states of optimizer and weight average at its start."""
    settings = cfg.copy()
    settings.trainer.max_steps = 0
    settings.trainer.accelerator = "cpu"
    settings.trainer.devices = 1
    built = build(cfg, "callbacks").values()
    callbacks: list[Callback] = [each for each in built if isinstance(each, EMA)]
    trainer = make_trainer(settings, [*callbacks, KeepCheckpoints(path.parent)], [])
    trainer.fit(model, train_dataloaders=[])
    trainer.save_checkpoint(path)


def _print(cfg: DictConfig, model: Model, loaded: LoadedWeights, directory: Path) -> None:
    numbers = sum(parameter.numel() for parameter in loaded.network.parameters())
    print(f"{shell.shown(cfg.weights)}: form={loaded.form.name}, {numbers:,} parameters in {loaded.tensors} tensors")
    if loaded.initial:
        print(f"not in the file, and as at the start of training: {', '.join(loaded.initial)}")
    _print_places(model, directory)


def _print_places(model: Model, directory: Path) -> None:
    print(f"\n  {'weights':<9} {shell.shown(directory / FOLDER / LAST)}")
    print(f"  {'next':<9} {shell.command(model.next_command, directory)}")
    print(f"  {'finetune':<9} {shell.command('train.py resume', directory)}")
