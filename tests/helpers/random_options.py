"""Random combinations of options and values, right and wrong, and what a run of one may do: train, or be refused.

``combination(chance)`` draws with whatever has the methods of ``random.Random``; hypothesis gives such an object
(``strategies.randoms(use_true_random=False)``), by which it reduces a combination that fails to its cause.
"""

import math
import re
from unittest import mock

import torch
from composing import composed
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from diffsweep.configuration import conf
from diffsweep.configuration.build import build_data, build_model
from diffsweep.configuration.comments import text_of
from diffsweep.configuration.conf import leaves
from diffsweep.configuration.preflight import preflight, stages_of
from diffsweep.configuration.stage_nodes import stage_nodes
from diffsweep.errors import UserError
from diffsweep.models import DiffusionModel
from diffsweep.runs.manifest import is_expected
from diffsweep.runs.training import train

# What makes a run small, and comes first, so that a combination may replace it.
TINY = (
    *("debug=fast", "trainer=cpu", "logger=csv", "callbacks=minimal", "metrics=none", "dataset.batch_size=16"),
    *("trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.limit_val_batches=1"),
)
# Options that need weights from the network, files, a trained classifier, a GPU or a run that has failed.
ELSEWHERE = {
    *("conditioning=text_clip", "conditioning=text_t5", "autoencoder=public", "perceptual=lpips", "debug=replay"),
    "perceptual=classifier",
    *(f"metrics={name}" for name in ("fvd", "inception", "dinov2", "clip")),
    *(f"dataset={name}" for name in ("parquet", "hub", "image_folder", "arrow", "webdataset", "video_folder")),
}
DRAWN = [  # groups whose options are drawn
    *("model", "dataset", "backbone", "schedule", "prediction", "objective", "weighting", "time_sampling", "sampler"),
    *("guidance", "conditioning", "autoencoder", "perceptual", "discriminator", "noise", "metrics", "likelihood"),
    *("optimizer", "lr_scheduler", "callbacks"),
]
SIZES = "channels|width|depth|dim|frames|size|heads|train|val|samples|blocks|mult|levels|steps|subsets|resamples|num_"
# Where things lie and what is found by itself; how long a run is is drawn by the runs themselves.
LEFT_OUT = (
    r"_target_|_partial_|\.(path|run|folder|cache_dir|name|train|inherit|kind|trust|default_root_dir|seed)$|num_workers"
    r"|dataset\.(channels|num_classes|levels|class_names|vocabulary|scalars)|autoencoder\.(channels|image_size|levels)"
    r"|backbone\.(in_channels|out_channels|image_size)$|num_scalars|vector_dim|context_dim|trainer\.devices"
)
ONLY_FEW_WORDS = 12  # of a value in a comment


def options():
    """Return the options that are drawn by group: those that start from no other, which are presets of them."""
    return {
        group: [
            option
            for option in conf.options(group)
            if f"{group}={option}" not in ELSEWHERE and not (group == "dataset" and conf.parents(group, option))
            if group != "backbone" or not conf.parents(group, option)
        ]
        for group in DRAWN
    }


def combination(chance):
    """Return random overrides of a tiny run: options of up to four groups, and values of up to four keys of these.

    Args:
        chance: draws, with the methods of ``random.Random``.
    """
    every = options()
    groups = chance.sample(DRAWN, chance.choice([0, 1, 1, 2, 2, 3, 4]))
    chosen = [f"{group}={chance.choice(every[group])}" for group in groups]
    try:
        cfg = composed("train", *TINY, *chosen)
    except UserError:  # the run is refused for the same reason
        return chosen
    keys = drawn_keys(cfg)
    near = [key for key in keys if key.partition(".")[0] in groups] or keys
    picked = [chance.choice(near if chance.random() < 0.6 else keys) for _ in range(chance.choice([0, 1, 1, 2, 3, 4]))]
    return [*chosen, *(f"{key}={value(chance, cfg, key)}" for key in dict.fromkeys(picked))]


def drawn_keys(cfg):
    """Return the keys of a configuration whose values are drawn."""
    groups = {*DRAWN, "trainer"}
    content = OmegaConf.to_container(cfg, resolve=False)
    found = [key for key, text in leaves(content) if key.partition(".")[0] in groups and not _is_a_part(cfg, text)]
    return [key for key in [*found, "seed"] if not re.search(LEFT_OUT, key) and key.count("model.") < 2]


def _is_a_part(cfg, text):
    """Return whether a value refers to a whole group, as ``model.schedule`` does."""
    return str(text).startswith("${") and str(text).strip("${}") in {*conf.groups(), "autoencoder.network"}


def value(chance, cfg, key):
    """Return a random value for a key, as it is typed: often one that its comment names or near its default."""
    now = OmegaConf.select(cfg, key, throw_on_resolution_failure=False)
    words = words_of(cfg, key)
    if words and chance.random() < 0.8:
        return chance.choice([*words, *words, "null", "nonsense"])
    if chance.random() < 0.06:
        return chance.choice(["null", "nonsense", "true", "[]", "[1,2]", "{}", "''", "nan", "-1", "0", "1.5"])
    if isinstance(now, ListConfig):
        items = [number(chance, item, key) if isinstance(item, int | float) else str(item) for item in now] or ["2"]
        items = chance.choice([items, items, items[:-1], [*items, items[-1]], items[::-1], []])
        return f"[{','.join(items)}]"
    return number(chance, now, key)


def number(chance, now, key):
    """Return a random value like one that is a number or a truth value, as it is typed."""
    if isinstance(now, bool):
        return chance.choice(["true", "false"])
    if isinstance(now, int):
        much = [now * 2] if now <= 256 else [now // 2]
        near = [*much, now + 1, now - 1, max(now // 2, 0), 1, 2, 3]
        return str(chance.choice([*near, *near, *near, 0, -1, 0.5] + ([] if re.search(SIZES, key) else [10**9])))
    if isinstance(now, float):
        near = [now / 2, now * 2, now * 0.9, 0.5, 1.0, 0.1]
        return str(chance.choice([*near, *near, *near, 0.0, -1.0, 1e-30, 1e30, math.nan, math.inf]))
    return chance.choice(["1", "2", "0.5", "4", "true", "cat"])


def words_of(cfg, key):
    """Return the words ``a | b`` that the comment of a key names."""
    group, _, rest = key.partition(".")
    option = str(cfg.choices.get(group))
    for name in [option, *conf.parents(group, option), *(n for n in conf.files(group) if n.startswith("_"))]:
        for entry in text_of(conf.CONF / group / f"{name}.yaml").entries:
            if entry.key in (rest, key) and " | " in entry.comment:
                return listed(entry.comment)
    return []


def listed(comment):
    """Return the words of a list ``what: a (why) | b | c`` in a comment."""
    text = re.sub(r"\([^)]*\)", "", comment)
    parts = [part.strip() for part in text.split("|")]
    first = parts[0].rpartition(":")[2].split() or [""]
    words = [first[-1], *((re.split(r"[\s:;,]", part) or [""])[0] for part in parts[1:])]
    return [word for word in words if re.fullmatch(r"[\w.+-]+", word) and len(word) <= 2 * ONLY_FEW_WORDS]


REFUSED, RAN, STOPPED = "refused", "ran", "stopped"


def outcome(overrides, folder=None):
    """Return what a tiny run with overrides does: ``(REFUSED | RAN | STOPPED, message)``.

    It is refused by one line before anything is built, or it takes a step whose loss is finite (``RAN``), or it stops
    with one line, as at a loss that is NaN. Anything else is raised.

    Args:
        overrides: as ``combination`` draws them.
        folder: where a run trains two steps and ends as a user's would; None computes a loss and its gradient alone.
    """
    if folder is not None:  # measuring takes longer than training
        overrides = [word for word in overrides if not word.startswith(("metrics", "likelihood"))]
    try:
        cfg = composed("train", *TINY, *overrides, *([f"hydra.run.dir={folder / 'run'}"] if folder else []))
        if folder is not None:
            cfg.paths.output_dir = str(folder)
        preflight(cfg)
        if folder is not None and not any(stage_nodes(cfg)):  # whose training would take minutes
            return RAN, f"{train(cfg)}"
        return _step(cfg)
    except Exception as error:
        if not is_expected(error):
            raise
        text = str(error)
        assert text, "the message is empty"
        assert "\n" not in text, text
        return REFUSED if isinstance(error, UserError) else STOPPED, text


def _step(cfg: DictConfig):
    """Compute the loss of a batch of training and its gradient."""

    stages = list(stages_of(cfg).values())

    def untrained(train=None, **_):
        """Stand for a stage by its model before training; that of latents by its network, which is all they need."""
        stage = next(stage for stage in stages if list(stage.node.train) == list(train))
        if stage.node.kind.endswith("Autoencoder"):
            return instantiate(stage.cfg.autoencoder.network)()
        return build_model(stage.cfg).eval().requires_grad_(False)

    with mock.patch("diffsweep.configuration.loading.trained", untrained):
        model, data = build_model(cfg), build_data(cfg)
    model.train()
    rows = data.split("train")
    count = min(int(cfg.dataset.batch_size), 4, len(rows))
    batch = {**rows[torch.arange(count)], "position": torch.arange(count)}
    loss = model.training_step(batch, 0)
    if not torch.isfinite(loss):
        return STOPPED, f"the loss is {float(loss)}, at which the guard of training stops"
    loss.backward()
    guided_by_a_stage = any(path.startswith("guidance") for path, _ in stage_nodes(cfg))
    if isinstance(model, DiffusionModel) and model.sampler.steps <= 16 and not guided_by_a_stage:
        model.eval()
        indices = torch.arange(2)
        samples = model.sample(indices, 0, model.request(indices, data.split("val"))[1])
        assert torch.isfinite(samples).all(), "samples are NaN or infinite, without a word"
    return RAN, f"{float(loss):g}"
