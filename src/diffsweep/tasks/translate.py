"""The task ``translate``: images are inverted under their own texts or classes and sampled under others."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffsweep.autoencoders import Autoencoder
from diffsweep.backbones import Backbone
from diffsweep.capabilities import CAPABILITIES
from diffsweep.conditioning import Conditioning, TextConditioning
from diffsweep.datasets import Batch, rows_of
from diffsweep.diffusion import Condition
from diffsweep.errors import UserError
from diffsweep.guidance import (
    CrossAttentionMaps,
    Guidance,
    Injected,
    Injection,
    ResidualFeatures,
    SelfAttentionMaps,
)
from diffsweep.models import ModelParts
from diffsweep.samplers import Callback, Sampler
from diffsweep.tasks.base import FromImages
from diffsweep.tasks.drawing import Drawn, drawn_by_trajectories
from diffsweep.tasks.inversion import not_invertible_because
from diffsweep.tasks.sampling import Job
from diffsweep.tasks.showing import percentages, sampling_of, show_rows
from diffsweep.tasks.sources import load_images

FAR = 0.1  # error of reconstructions on [-1, 1] from which on the text of the task names better settings


class Translation(NamedTuple):
    """Images to translate, what they show, and what they are to show.

    Attributes:
        images: the images, (N, C, H, W) in [-1, 1].
        own: the request that describes them, a batch without ``x``; None if nothing does.
        target: the request for their translations.
    """

    images: Tensor
    own: Batch | None
    target: Batch


class Translate(FromImages):
    """Translate images from their own text or class to another, and keep their structure.

    Images are inverted by DDIM under their own condition, without guidance (arXiv:2010.02502), and sampled from that
    noise under the target condition, with guidance and its negative condition, if any. Beside each translation its
    source is reconstructed in the same batch, and gives it features (Plug-and-Play, arXiv:2211.12572) or maps of its
    cross-attention (Prompt-to-Prompt, arXiv:2208.01626) in chosen blocks and times: see
    :class:`~diffsweep.guidance.Injected`. Without any of these it is a plain swap of the prompt.

    ``translation.png`` shows the images, their reconstructions, the translations and the differences from the images,
    in four rows; where not all fit, several pages show them, ``translation_1.png`` and so on. The text of the task
    reports how near the reconstructions are, and if the data can read attributes from images, how many translations
    show what was requested and what they have kept of the source.

    Args:
        source: where the images come from: ``data`` for held-out data of the model, or a path: see
            :func:`~diffsweep.tasks.sources.load_images`.
        source_prompts: texts or classes that describe the images, of which image i has number i modulo their count.
            None for the annotations of ``data``; images of a path then have the null condition.
        words: changes of words that make the target texts from the images' own, such as ``{red: blue}``. Images whose
            text has none of the words are left out. None for the texts or classes that the model's conditioning
            requests.
        features, self_attention, cross_attention: what translations take from their sources; None for nothing.

    Raises:
        UserError: on a run, no image is left, or a text is not possible.
    """

    reuses_features = False

    def __init__(
        self,
        source: str = "data",
        source_prompts: Sequence[str | int] | None = None,
        words: Mapping[str, str] | None = None,
        features: ResidualFeatures | None = None,
        self_attention: SelfAttentionMaps | None = None,
        cross_attention: CrossAttentionMaps | None = None,
    ) -> None:
        super().__init__(source)
        self.source_prompts, self.words = source_prompts, None if words is None else dict(words)
        every: list[Injection | None] = [features, self_attention, cross_attention]
        self.injections = [each for each in every if each is not None]
        self.compares_words = cross_attention is not None

    def incompatible_because(self, space: Autoencoder, sampler: Sampler, guidances: Sequence[Guidance]) -> str | None:
        return not_invertible_because(sampler) or super().incompatible_because(space, sampler, guidances)

    def unsuited_because(self, parts: ModelParts) -> str | None:
        if reason := super().unsuited_because(parts):
            return reason
        backbone, conditioning = parts.backbone, parts.conditioning
        if not conditioning.sizes:
            return (
                "images are edited by another text or class, and this model has no condition; use a run of "
                "experiment=shapes_text or model=classifier_free"
            )
        by_words = "words" if self.words is not None else "cross_attention" if self.compares_words else None
        if by_words and not isinstance(conditioning, TextConditioning):
            given = ", ".join(CAPABILITIES[name].noun for name in conditioning.sizes)
            return (
                f"task.{by_words} compares texts, and this model is conditioned on {given}; use task.{by_words}=null "
                "with conditioning.labels, or a run of conditioning=text"
            )
        if by_words and self.source != "data" and self.source_prompts is None:
            return f"task.{by_words} compares texts; give those of {self.source} by task.source_prompts"
        try:
            for injection in self.injections:
                injection.chosen(backbone.injectable() if isinstance(backbone, Backbone) else ())
        except ValueError as error:
            return str(error)
        return None

    def run(self, job: Job) -> tuple[Drawn, str]:
        model, found = job.model, self._found(job)
        backbone, times = model.denoiser.backbone, model.sampler.times(model.denoiser.schedule)
        injectable = backbone.injectable() if isinstance(backbone, Backbone) else ()
        reconstructions = []

        def make(rows: Tensor, cond: Condition | None, callback: Callback) -> Tensor:
            own = None if found.own is None else model.condition_of(rows_of(found.own, rows))
            own = cond.null() if own is None and cond is not None else own
            state = model.invert(found.images[rows], own, guided=False, callback=callback)
            injections = self._for_texts(model.conditioning, found, rows)
            denoiser = Injected(model.denoiser, model.guidance, injectable, injections, own, times).to(model.device)
            noise = model.noise_of(torch.cat([rows, rows]), job.seed)
            x = model.sampler(denoiser, torch.cat([state, state]), cond, noise, callback)
            again, made = model.autoencoder.decode(x).chunk(2)
            reconstructions.append(again.cpu())
            return made

        steps = 2 * model.sampler.steps  # to the noise, and back
        drawn = drawn_by_trajectories(model, len(found.images), job.batch_size, make, found.target, steps)
        again, words = torch.cat(reconstructions), model.conditioning.described
        sets: list[tuple[str, Tensor, Sequence[str]]] = [
            ("source", found.images, [] if found.own is None else words(found.own)),
            ("reconstruction", again, ()),
            ("translation", drawn.x, words(found.target)),
            ("difference from the source, grey is none", (drawn.x - found.images) / 2, ()),
        ]
        shown = show_rows(job, sets, "translation", f"images translated {sampling_of(model)}")
        error = (again - found.images).square().mean().sqrt()
        line = f"{len(drawn.x)} images translated, root mean square error of their reconstructions {error:.4f}{shown}"
        if error > FAR:
            line += "; they are nearer with sampler.start=0.9 sampler.clip=none, and more sampler.steps"
        requested = job.data.aligned(drawn.x, found.target) or {}
        requested.pop("held_out", None)  # of training, not of the samples
        line += percentages("shown as requested", requested)
        return drawn, line + percentages("shown as in the source", job.data.unchanged(drawn.x, found.images))

    def _found(self, job: Job) -> Translation:
        """Return the images and the two requests.

        Raises:
            UserError: no image has a text with one of the words, or a text is not possible.
        """
        if self.words is not None and self.source == "data" and self.source_prompts is None:
            indices = self._with_words(job)
            images = job.data.split("val")[indices]["x"]
        else:
            images = load_images(self.source, job.data, job.num_samples)
            indices = torch.arange(len(images))
        target = job.request(indices)
        own = self._own(job, indices)
        try:
            if self.words is not None and own is not None:
                changed = [self._swapped(text) for text in own["caption"]]
                if changed == own["caption"]:
                    raise ValueError(f"no text has {' or '.join(self.words)}; texts are such as {changed[0]!r}")
                target = target | job.model.conditioning.requested(changed)
            if isinstance(job.model.conditioning, TextConditioning):
                for injection in self.injections:
                    injection.check_texts(target["caption"], job.model.conditioning.encoder)
        except ValueError as error:
            raise UserError(f"task.words: {error}" if self.words is not None else str(error)) from error
        return Translation(images, own, target)

    def _own(self, job: Job, indices: Tensor) -> Batch | None:
        """Return the request that describes images of some numbers, without a negative one; None if nothing does."""
        if self.source_prompts is not None:
            chosen = [self.source_prompts[i % len(self.source_prompts)] for i in indices.tolist()]
            try:
                return job.model.conditioning.requested(chosen)
            except ValueError as error:
                raise UserError(f"task.source_prompts: {error}") from error
        if self.source != "data":
            return None
        return {name: part for name, part in job.request(indices, "data").items() if name != "negative"}

    def _with_words(self, job: Job) -> Tensor:
        """Return the numbers of the first held-out images whose texts have one of the words, int64, (N,)."""
        texts: Sequence[str] = job.data.split("val")["caption"]
        having = [i for i, text in enumerate(texts) if self._swapped(text) != text][: job.num_samples]
        if not having:
            words = " or ".join(self.words or ())
            raise UserError(f"task.words: no held-out text has {words}; texts are such as {texts[0]!r}")
        return torch.tensor(having)

    def _swapped(self, text: str) -> str:
        """Return a text with the words changed, all at once."""
        words = self.words or {}
        pattern = "|".join(rf"\b{re.escape(word)}\b" for word in words)
        return re.sub(pattern, lambda found: words[found.group()], text) if words else text

    def _for_texts(self, conditioning: Conditioning, found: Translation, rows: Tensor) -> list[Injection]:
        """Return the injections for some of the images, with the texts of these where the model has texts."""
        if found.own is None or not isinstance(conditioning, TextConditioning):
            return self.injections
        own, target = (rows_of(request, rows)["caption"] for request in (found.own, found.target))
        return [injection.for_texts(own, target, conditioning.encoder) for injection in self.injections]
