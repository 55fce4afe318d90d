"""The base class of all datasets: the sizes of the data, their splits, and the loaders of training and validation."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from diffsweep.capabilities import Part
from diffsweep.datasets.bouncing import Physics
from diffsweep.datasets.dequantisation import Dequantised
from diffsweep.datasets.loader import BatchLoader
from diffsweep.datasets.orders import BalancedClasses, Order, Shuffled
from diffsweep.datasets.placement import OnDevice, on_training_device
from diffsweep.datasets.samples import Batch, DeferredSamples, Mirrored, Samples, Split
from diffsweep.datasets.stream import CPU, HeldOut, Positions, TrainingStream

Balance = Literal["none", "classes"]


class ImageData(LightningDataModule, Part):
    """A base class for datasets of images or video clips with a training and a held-out (``val``) split.

    Subclasses define :meth:`load`, which returns the samples of a split, and :attr:`fingerprint`, which identifies the
    data.

    A batch is a dict: ``x`` in [-1, 1], (B, C, H, W) for images and (B, C, F, H, W) for clips; ``label`` (B,) int64 if
    the data have labels; ``caption``, a list of B texts, if they have captions; and ``position`` (B,), the sample's
    number in the training run, or for held-out data ``index`` (B,), its row in the split.

    Args:
        channels, image_size: C, and H = W.
        num_classes: the number of labels; None without labels.
        levels: the number of equally spaced values on [-1, 1] that each channel takes, which likelihoods need.
        batch_size: samples of a training step on one device.
        num_workers: processes that prepare batches; 0 prepares them in the training process.
        seed: determines the order of the training data.
        flip: train on each image and its left-right mirror, as two samples. ``split("train")``, with which generated
            samples are compared, has no mirrors.
        num_frames: F of clips; None for images.
        balance: ``classes``: all classes are equally frequent in training batches, see
            :class:`~diffsweep.datasets.orders.BalancedClasses`; ``none``: as frequent as they are in the data.
        on_device: whether the images of the loaders are kept on the training device, see
            :func:`~diffsweep.datasets.placement.on_training_device`. Batches are then made on it, without workers.
        dequantise: add uniform noise of one level's width to training samples, for models whose density is measured:
            see :class:`~diffsweep.datasets.dequantisation.Dequantised`.

    Attributes:
        offset: added to the positions of all training samples; not 0 only in a run that was resumed with another number
            of samples in a step.
        numbers: the names of the numbers that :meth:`read_numbers` reads from images.

    Raises:
        ValueError: ``batch_size`` is below 1 or ``num_workers`` below 0, or classes are to be balanced without labels.
    """

    numbers: Sequence[str] = ()

    def __init__(
        self,
        channels: int,
        image_size: int,
        num_classes: int | None,
        levels: int,
        batch_size: int,
        num_workers: int = 0,
        seed: int = 0,
        flip: bool = False,
        num_frames: int | None = None,
        balance: Balance = "none",
        on_device: OnDevice = "auto",
        dequantise: bool = False,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"dataset.batch_size must be at least 1, not {batch_size}")
        if num_workers < 0:
            raise ValueError(f"dataset.num_workers must be at least 0, not {num_workers}")
        if balance == "classes" and num_classes is None:
            raise ValueError("dataset.balance=classes needs labels, and the data have none; use dataset.balance=none")
        self.balance, self.on_device = balance, on_device
        self.channels, self.image_size, self.num_classes, self.levels = channels, image_size, num_classes, levels
        self.num_frames, self.dequantise = num_frames, dequantise
        self.batch_size, self.num_workers, self.seed, self.flip = batch_size, num_workers, seed, flip
        self.offset = 0
        self._splits: dict[str, Samples] = {}
        self._replaced: dict[str, Samples] = {}

    @classmethod
    def found(cls, settings: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """Return values for settings of a configuration that are null and can be read off the data, and a line on them.

        Here nothing is found: an empty dict and an empty text. Datasets of files override it.

        Args:
            settings: the keyword arguments of the class as the configuration gives them.
        """
        return {}, ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of a sample: (C, H, W) of an image, (C, F, H, W) of a clip."""
        frames = () if self.num_frames is None else (self.num_frames,)
        return (self.channels, *frames, self.image_size, self.image_size)

    @abstractmethod
    def load(self, split: Split) -> Samples:
        """Return the samples of a split in their fixed order; subclasses define how they are read or computed.

        Mirrors are not among them, even if ``flip`` is set.

        Args:
            split: ``train``, ``val`` (held out), or ``all`` (both, the training samples first).
        """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Return a text that is equal for equal data and different otherwise; subclasses define it.

        Features and latents of real data are cached on disk under it.
        """

    def aligned(self, x: Tensor, batch: Batch) -> dict[str, Tensor] | None:
        """Return whether each generated image shows what its caption or label requests; None if the data cannot.

        Only datasets whose images can be read by a program, such as ``shapes``, override it; here the result is
        None.

        Args:
            x: generated samples, (N, C, H, W) in [-1, 1].
            batch: the request: a batch without ``x`` whose ``caption`` or ``label`` the N samples are to show.

        Returns:
            bool tensors (N,): whether ``colour``, ``shape``, ``position``, ``size`` and ``colour_and_shape`` are as
            requested, and ``held_out``, whether the requested pair of colour and shape never occurs in training.
        """
        return None

    def read_numbers(self, x: Tensor) -> dict[str, Tensor]:
        """Return numbers that a program reads from the pixels of images, such as the size of what they show.

        Datasets whose images can be read override it and name the numbers in ``numbers``; here the result is empty.

        Args:
            x: generated images, (N, C, H, W) in [-1, 1].

        Returns:
            float64 tensors (N,) on the CPU by name: NaN where nothing is found in the image.
        """
        return {}

    def unchanged(self, x: Tensor, source: Tensor) -> dict[str, Tensor] | None:
        """Return whether each image still shows what the image that it was made from does; None if the data cannot.

        As of :meth:`aligned`, only datasets whose images can be read by a program override it; here the result is None.

        Args:
            x: edited images, (N, C, H, W) in [-1, 1].
            source: the images that they were made from, of the same shape.

        Returns:
            bool tensors (N,) by name: whether ``shape``, ``position``, both of them, ``size`` and ``colour`` are those
            of the source.
        """
        return None

    @property
    def physics(self) -> Physics | None:
        """Return the law of motion of the clips, by which generated clips are measured; None if the data have none."""
        return None

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Return the files that could not be read and were left out, each with the reason; here none are."""
        return []

    def split(self, name: Split) -> Samples:
        """Return the samples of a split, ``train``, ``val`` or ``all``: those of :meth:`load`, loaded once and kept."""
        if name not in self._splits:
            self._splits[name] = self.load(name)
        return self._splits[name]

    def deferred(self, name: Split) -> Samples:
        """Return the samples of a split, which are loaded only if one of them is taken."""
        return DeferredSamples(lambda: self.split(name))

    def training_samples(self) -> Samples:
        """Return the training samples as the loader visits them, without mirrors; here those of :meth:`split`.

        Datasets with random crops or buckets override it. Row i is of the same image as row i of :meth:`split`.
        """
        return self.split("train")

    @property
    def changes_at_random(self) -> bool:
        """Return whether a training sample differs from visit to visit; here it does if it is dequantised."""
        return self.dequantise

    @property
    def stores_images(self) -> bool:
        """Return whether training images are stored, as here, not drawn or decoded when they are requested."""
        return True

    def loader_samples(self, split: Split) -> Samples:
        """Return the samples that the data loaders iterate over for a split.

        They are those of :meth:`split`. For ``train`` they are those of :meth:`training_samples`, followed by their
        left-right mirrors if ``flip`` is set, and dequantised at each visit if ``dequantise`` is. If
        :meth:`replace_samples` has put others, such as latents, in their place, the samples are these.
        """
        if split in self._replaced:
            return self._replaced[split]
        if split != "train":
            return self.split(split)
        samples = Mirrored(self.training_samples()) if self.flip else self.training_samples()
        return Dequantised(samples, self.levels) if self.dequantise else samples

    def replace_samples(self, split: Split, samples: Samples) -> None:
        """Replace the samples that the data loaders iterate over for a split, for example by latents.

        :meth:`split` still returns the original ones.

        Args:
            split: the split whose samples are replaced.
            samples: the new samples, as many as :meth:`loader_samples` returned before and in the same order.
        """
        self._replaced[split] = samples

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return a loader of training batches without end, which begins with the batch of the trainer's current step.

        The epochs follow each other, each in a random order of its own. So a resumed run goes on with the batches that
        it would have had without a stop. Without a trainer the loader begins with the first batch.
        """
        trainer = self.trainer
        steps, rank, world = (
            (0, 0, 1) if trainer is None else (trainer.global_step, trainer.global_rank, trainer.world_size)
        )
        batches = steps * (1 if trainer is None else trainer.accumulate_grad_batches)
        stream = self.training_stream()
        on_cpu = stream.device == CPU
        return BatchLoader(
            stream,
            Positions(self.batch_size, batches, rank, world, self.offset),
            self.num_workers if on_cpu else 0,
            pin_memory=torch.cuda.is_available() and on_cpu,
        )

    def training_stream(self) -> TrainingStream:
        """Return the training batches by the positions of their samples, made on the device where the images are kept.

        Raises:
            ContentError: classes are balanced, and one has no sample; or the images cannot be kept on the device.
        """
        samples, device = self._placed("train")
        return TrainingStream(samples, self.training_order(samples), device, self.seed)

    def training_order(self, samples: Samples) -> Order:
        """Return the order of the samples of the training loader, a function of the seed and the position alone.

        Args:
            samples: the samples of the loader, mirrors included.

        Raises:
            ContentError: classes are balanced, and one has no sample.
        """
        if self.balance == "classes" and self.num_classes is not None:
            return BalancedClasses(samples.part("label"), self.num_classes, self.seed)
        return Shuffled(len(samples), self.seed)

    def _placed(self, split: Split) -> tuple[Samples, torch.device]:
        """Return the samples of a loader, and the device of its batches: the trainer's if the images are kept on it."""
        samples = self.loader_samples(split)
        device = CPU if self.trainer is None else self.trainer.strategy.root_device
        placed = on_training_device(samples, self.on_device, device)
        return (samples, CPU) if placed is None else (placed, device)

    @property
    def num_val(self) -> int:
        """Return the number of held-out samples."""
        return len(self.split("val"))

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return a loader of the held-out split, in batches of 256; of n devices each gets every n-th sample."""
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        index = torch.arange(len(self.loader_samples("val")))[rank::world]
        batches: Any = list(index.split(256))
        return BatchLoader(HeldOut(*self._placed("val")), batches)
