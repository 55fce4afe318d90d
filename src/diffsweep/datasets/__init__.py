"""Image and video datasets, as LightningDataModules whose training batches number their samples through the run."""

from diffsweep.datasets.arrow import Arrow
from diffsweep.datasets.augmentation import RandomShift
from diffsweep.datasets.base import ImageData
from diffsweep.datasets.comparisons import StoredComparisons
from diffsweep.datasets.concept import Concept, ConceptSamples, Style
from diffsweep.datasets.decoded_images import DecodedImages
from diffsweep.datasets.digits import Digits, load_digits
from diffsweep.datasets.hub import Hub
from diffsweep.datasets.image_folder import ImageFolder
from diffsweep.datasets.latents import Latents, open_latents, write_latents
from diffsweep.datasets.moving_digits import MovingDigits
from diffsweep.datasets.pairs import StoredPairs
from diffsweep.datasets.parquet import Parquet
from diffsweep.datasets.samples import Batch, InMemory, Mirrored, Samples, Split, joined_rows, rows_of
from diffsweep.datasets.shapes import Shapes
from diffsweep.datasets.spotted_shapes import SpottedShapes
from diffsweep.datasets.video_folder import VideoFolder
from diffsweep.datasets.webdataset import WebDataset

__all__ = [
    "Arrow",
    "Batch",
    "Concept",
    "ConceptSamples",
    "DecodedImages",
    "Digits",
    "Hub",
    "ImageData",
    "ImageFolder",
    "InMemory",
    "Latents",
    "Mirrored",
    "MovingDigits",
    "Parquet",
    "RandomShift",
    "Samples",
    "Shapes",
    "Split",
    "SpottedShapes",
    "StoredComparisons",
    "StoredPairs",
    "Style",
    "VideoFolder",
    "WebDataset",
    "joined_rows",
    "load_digits",
    "open_latents",
    "rows_of",
    "write_latents",
]
