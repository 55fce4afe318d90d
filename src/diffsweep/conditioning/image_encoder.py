"""Encoders of one image as a sequence of tokens h in R^(N x F), to which the words of its style attend.

They are not trained, and are no modules: what a model keeps of the image are the tokens.
"""

from abc import ABC, abstractmethod

from einops import rearrange
from torch import Tensor


class ImageEncoder(ABC):
    """An encoder of an image (C, H, W) in [-1, 1] as tokens (N, F); subclasses define it.

    Attributes:
        tokens: N, the number of tokens, which the model must know before it has an image.
        width: F, the width of a token.
    """

    tokens: int
    width: int

    def check(self) -> None:
        """Raise a ValueError unless the encoder can be used here; by default it can. No weights are loaded for it."""
        return None

    @abstractmethod
    def __call__(self, image: Tensor) -> Tensor:
        """Return the tokens (N, F) of an image (C, H, W); subclasses define it."""


class Patches(ImageEncoder):
    """The pixels of patches of p x p pixels as tokens: N = (S / p)^2 and F = C p^2 of an image of side S.

    Nothing is lost and nothing is needed beside the image, so it serves small images. What attends to the patches
    learns what they show, as the embedding of patches of a vision transformer does (arXiv:2010.11929).

    Args:
        channels: C.
        image_size: S.
        patch_size: p, which divides S.

    Raises:
        ValueError: p is below 1 or does not divide S.
    """

    def __init__(self, channels: int, image_size: int, patch_size: int = 4) -> None:
        if patch_size < 1 or image_size % patch_size:
            fitting = [str(size) for size in range(1, image_size + 1) if image_size % size == 0]
            raise ValueError(
                f"concept.attention.encoder.patch_size={patch_size} does not divide the {image_size}-pixel image; use "
                f"one of {', '.join(fitting)}"
            )
        self.patch_size = patch_size
        self.tokens, self.width = (image_size // patch_size) ** 2, channels * patch_size**2

    def __call__(self, image: Tensor) -> Tensor:
        p = self.patch_size
        return rearrange(image, "c (h p) (w q) -> (h w) (c p q)", p=p, q=p)


class CLIPImageEncoder(ImageEncoder):
    """The image transformer of CLIP (arXiv:2103.00020): the last hidden states of its class token and its patches.

    The image is resized and normalised as the folder's ``preprocessor_config.json`` has it. The folder is read in
    training alone, where the image is encoded: a trained model keeps the tokens.

    Args:
        path: a folder of CLIP in the format of the transformers library; None is refused by :meth:`check`.
        tokens: N, the number of the network's patches and 1.
        width: F, the width of its hidden states.
    """

    def __init__(self, path: str | None, tokens: int = 257, width: int = 1024) -> None:
        self.path, self.tokens, self.width = path, tokens, width

    def check(self) -> None:
        """Raise a ValueError unless the folder has CLIP's image transformer, and its sizes are those of this encoder.

        Only its small files are read.
        """
        from diffsweep.conditioning.clip_tokens import CLIPTokens  # its imports take time

        CLIPTokens.processing(self.path)
        _, tokens, width = CLIPTokens.sizes(self.path)
        for key, own, size in (("tokens", self.tokens, tokens), ("width", self.width, width)):
            if own != size:
                raise ValueError(
                    f"{CLIPTokens.key}={self.path} has {key}={size}, and concept.attention.encoder.{key} is {own}; use "
                    f"concept.attention.encoder.{key}={size}"
                )

    def __call__(self, image: Tensor) -> Tensor:
        from diffsweep.conditioning.clip_tokens import CLIPTokens

        self.check()
        network = CLIPTokens(self.path, CLIPTokens.sizes(self.path)[0], accelerator="cpu")
        return network(image[None])[0]  # (N, F)
