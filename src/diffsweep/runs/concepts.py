"""The training samples of a new concept: a few images with a new word, and images that the base draws once."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from diffsweep.conditioning import TextConditioning
from diffsweep.configuration.build import build, device_of
from diffsweep.datasets import Concept, ConceptSamples, ImageData, Samples, open_latents, write_latents
from diffsweep.datasets.concept import SEED
from diffsweep.errors import UserError
from diffsweep.files import ContentError, make_once
from diffsweep.layers import weights_hash
from diffsweep.metrics import identify
from diffsweep.models import DiffusionModel, Model
from diffsweep.progress import tracked
from diffsweep.runs.comparisons import guidance_of_base
from diffsweep.samplers import Sampler
from diffsweep.samplers.settings import settings_of

NAME, BATCH = "images", 256


def keep_concept(cfg: DictConfig, model: Model, data: ImageData) -> None:
    """Let the training loader yield images of a new concept and of the base in place of data, if a concept is learned.

    The images of the base are drawn and written first, with progress, if no file has them yet. The held-out data stay,
    so that the validation loss shows how much the model forgets.

    Args:
        cfg: the run's configuration.
        model: the model, adapted from its base.
        data: the dataset, whose training samples are replaced.

    Raises:
        UserError: an image cannot be read, or the file of the base's images has other content than its name promises.
    """
    concept: Concept | None = build(cfg, "concept")
    if concept is None or not isinstance(model, DiffusionModel):
        return
    base, sampler = model.adaptation.base, model.sampler
    captions = [concept.caption_of(file) for file in concept.files]
    x = concept.read(data.channels, data.image_size)
    assert isinstance(model.conditioning, TextConditioning)  # as a rule requires
    model.conditioning.encoder.look_at(x)
    prompts = prior_prompts(concept, data.deferred("train"))
    prior = x[:0]
    if concept.num_prior:
        header = identity(concept, base, sampler, prompts) | {"guidance": guidance_of_base(cfg)}
        path = Path(cfg.paths.cache_dir) / f"prior-{identify(header)}" / "images.safetensors"
        make_once(path, partial(_write, path, header, base, sampler, prompts, device_of(cfg)))
        try:
            prior = open_latents(path, header, NAME)
        except ContentError as error:
            raise UserError(str(error)) from error
    data.replace_samples(
        "train", ConceptSamples(x, captions, prior, prompts, concept.prior_weight, cfg.dataset.batch_size)
    )


def prior_prompts(concept: Concept, samples: Samples) -> list[str]:
    """Return the texts of the images that the base draws, as many as ``num_prior``.

    Args:
        concept: the settings of the concept.
        samples: the training samples, whose captions are the texts if the settings have none.
    """
    given = concept.prior_prompts
    if given is None:
        rows = torch.arange(concept.num_prior) % len(samples)
        captions: list[str] = samples.annotations(rows)["caption"]
        return captions
    return [given[index % len(given)] for index in range(concept.num_prior)]


def identity(concept: Concept, base: DiffusionModel, sampler: Sampler, prompts: list[str]) -> dict[str, Any]:
    """Return all that the stored images of a base depend on, by name: a hash identifies their file by it.

    Args:
        concept: the settings of the concept.
        base: the base that draws them; its guidance is added by the caller.
        sampler: the sampler that it draws them with.
        prompts: their texts.
    """
    return {
        "base": weights_hash(base),
        "sampler": settings_of(sampler),
        "seed": SEED,
        "prompts": identify({"prompts": prompts}),
        "count": concept.num_prior,
    }


def _write(
    path: Path,
    header: dict[str, Any],
    base: DiffusionModel,
    sampler: Sampler,
    prompts: list[str],
    device: torch.device,
) -> None:
    base.to(device)
    batches = torch.arange(len(prompts)).split(BATCH)

    def drawn(index: torch.Tensor) -> torch.Tensor:
        cond = base.condition_of(base.conditioning.requested([prompts[i] for i in index.tolist()]))
        return base.sample(index, SEED, cond, sampler)

    write_latents(path, header, map(drawn, tracked(batches, "images of the base", "batch")), len(prompts), name=NAME)
