r"""A new concept of a trained model: a word for what a few images show, and images of what the model knows already.

The loss of DreamBooth (arXiv:2208.12242) is

.. math:: L = L_\text{subject} + \lambda L_\text{prior},

the loss of the subject's images under texts with the new word, and that of images which the model drew itself before,
under their texts, so that it does not forget. Half of the samples are of each kind, and those of the second have the
weight :math:`\lambda`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffsweep.capabilities import Part
from diffsweep.datasets.image_file import load_image
from diffsweep.datasets.images import SUFFIXES
from diffsweep.datasets.samples import Batch, Samples, rows_on
from diffsweep.words import WORD

WORDS = "{words}"  # what stands for the new words in a prompt
SEED = 0xC0CE97  # of the images that the base draws, far from the small seeds that users type


class Concept(Part):
    """The settings of a new concept: its images, its words, and the images that keep what the model knows.

    Args:
        images: a folder of images, or one image; None is refused by a rule.
        words: the new words.
        initial: a known word, as whose vector the new ones begin; None: small random vectors.
        vectors: the number of vectors of each new word.
        prompt: the caption of images without one, in which ``{words}`` stands for the new words.
        num_prior: the number of images that the base draws once; 0: none.
        prior_prompts: their texts, in turn; None: captions of the training data.
        prior_weight: lambda, the weight of their loss.

    Attributes:
        most: the largest number of images; None for any.

    Raises:
        ValueError: a number is out of its range, ``prompt`` lacks ``{words}``, or a word is no word.
    """

    requires = frozenset({"new_words"})
    most: int | None = None

    def __init__(
        self,
        images: str | None = None,
        words: Sequence[str] = ("sks",),
        initial: str | None = None,
        vectors: int = 1,
        prompt: str = f"a {WORDS}",
        num_prior: int = 0,
        prior_prompts: Sequence[str] | None = None,
        prior_weight: float = 1.0,
    ) -> None:
        if not words or not all(WORD.fullmatch(word) for word in words):
            raise ValueError(f"concept.words are new words, such as [sks], not {list(words)}")
        if WORDS not in prompt:
            raise ValueError(f"concept.prompt={prompt!r} has no {WORDS}, which stands for the new words")
        if num_prior < 0 or prior_weight < 0:
            raise ValueError(
                f"concept.num_prior and .prior_weight are at least 0, not {num_prior} and {prior_weight:g}"
            )
        if prior_prompts is not None and not prior_prompts:
            raise ValueError("concept.prior_prompts is empty; give texts, or null for captions of the training data")
        self.images = None if images is None else Path(images)
        self.words, self.initial, self.vectors = list(words), initial, vectors
        self.prompt = prompt.replace(WORDS, " ".join(words))
        self.num_prior, self.prior_weight = num_prior, prior_weight
        self.prior_prompts = None if prior_prompts is None else list(prior_prompts)

    @property
    def files(self) -> list[Path]:
        """The image files of the concept, in alphabetical order."""
        if self.images is None or not self.images.is_dir():
            return [self.images] if self.images is not None and self.images.is_file() else []
        return sorted(path for path in self.images.iterdir() if path.suffix.lower() in SUFFIXES)

    def caption_of(self, file: Path) -> str:
        """Return the caption of an image file: the text of the file beside it, else :attr:`prompt`."""
        text = file.with_suffix(".txt")
        return text.read_text(encoding="utf-8").strip() if text.is_file() else self.prompt

    def read(self, channels: int, image_size: int) -> Tensor:
        """Return the images of :attr:`files`, (N, C, H, W) in [-1, 1].

        Args:
            channels: C.
            image_size: H and W.

        Raises:
            UserError: an image cannot be read, or it is coloured and C is 1.
        """
        return torch.stack([load_image(file, channels, image_size, "concept.images") for file in self.files])

    def check(self) -> None:
        """Raise a ValueError unless what the concept is learned by can be used; here nothing is needed."""
        return None


class Style(Concept):
    """The settings of the style of one image, to which the new words attend (InST, arXiv:2211.13203).

    Args:
        attention: a :class:`~diffsweep.conditioning.StyleAttention`; the text encoder of the model has its own.
        settings: those of :class:`Concept`.
    """

    most = 1

    def __init__(self, attention: nn.Module, **settings: Any) -> None:
        super().__init__(**settings)
        self.encoder: Any = attention.encoder

    def check(self) -> None:
        """Raise a ValueError unless the encoder of the image can be used."""
        self.encoder.check()


class ConceptSamples(Samples):
    """A table of a subject's images and of prior ones in turn, each kind repeated until both are equally many.

    A batch has ``x``, ``caption`` and ``loss_weight``, which is 1 for the subject's images and ``weight`` for others.
    With images of one kind alone the table has those.

    Args:
        subject: the subject's images, (N, C, H, W).
        captions: their captions.
        prior: the images that the base drew, (M, C, H, W).
        prior_captions: the texts that they were drawn for.
        weight: the weight of the loss of prior images.
        least: the least number of rows, such as the size of a batch.
    """

    def __init__(
        self,
        subject: Tensor,
        captions: Sequence[str],
        prior: Tensor,
        prior_captions: Sequence[str],
        weight: float = 1.0,
        least: int = 1,
    ) -> None:
        self.kinds = [kind for kind in ((subject, captions, 1.0), (prior, prior_captions, weight)) if len(kind[0])]
        if not self.kinds:
            raise ValueError("a concept needs images: of its subject, of the base, or both")
        longest = max(len(x) for x, _, _ in self.kinds)
        self.length = max(len(self.kinds) * longest, least + least % len(self.kinds))

    def __len__(self) -> int:
        return self.length

    def part(self, name: str) -> Any:
        return self.rows(torch.arange(len(self)))[name]

    def rows(self, index: Tensor) -> Batch:
        of, row = index % len(self.kinds), index // len(self.kinds)
        x = torch.empty(len(index), *self.kinds[0][0].shape[1:])
        for number, (images, _, _) in enumerate(self.kinds):
            x[of == number] = rows_on(images, row[of == number] % len(images)).float()
        return {"x": x, **self.annotations(index)}

    def annotations(self, index: Tensor) -> Batch:
        pairs = [(self.kinds[i % len(self.kinds)], i // len(self.kinds)) for i in index.tolist()]
        return {
            "caption": [captions[i % len(x)] for (x, captions, _), i in pairs],
            "loss_weight": torch.tensor([weight for (_, _, weight), _ in pairs]),
        }
