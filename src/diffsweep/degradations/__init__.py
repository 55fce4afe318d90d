"""Degradations of clean images: what is known of x_0 in inpainting, super-resolution, colourisation and restoration.

A degradation maps images x_0 to what a network reads of them, and the linear ones also to a measurement y = A x_0 that
guidance takes. Random parts, such as the place of a mask, are drawn by counted noise.
"""

from diffsweep.degradations.base import Degradation, LinearDegradation, Range
from diffsweep.degradations.blur import Blur
from diffsweep.degradations.downsample import Downsampling
from diffsweep.degradations.grey import Greyscale
from diffsweep.degradations.jpeg import Jpeg
from diffsweep.degradations.mask import Border, Box, Mask, Strokes
from diffsweep.degradations.noise import GaussianNoise
from diffsweep.degradations.one_of import OneOf
from diffsweep.degradations.segments import BoundingBox, Edges, Segmentation

__all__ = [
    "Blur",
    "Border",
    "BoundingBox",
    "Box",
    "Degradation",
    "Downsampling",
    "Edges",
    "GaussianNoise",
    "Greyscale",
    "Jpeg",
    "LinearDegradation",
    "Mask",
    "OneOf",
    "Range",
    "Segmentation",
    "Strokes",
]
