"""Reference statistics: means and covariances of features of real images in ``.npz`` files, as public codes share them.

The arrays are ``mu`` (D,) and ``sigma`` (D, D), those of pytorch-fid, EDM and others. The reference batches of
guided-diffusion (arXiv:2105.05233) also have ``mu_s`` and ``sigma_s`` of spatial features, for sFID.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from diffsweep.files import UNREADABLE_ARRAYS, ContentError, write_atomically
from diffsweep.metrics.extraction import Features
from diffsweep.metrics.frechet import FeatureMoments, moments

SUFFIX = ".npz"
NEEDED = "a file of reference statistics has mu (D,) and sigma (D, D)"


class Statistics(NamedTuple):
    """FeatureMoments of features of real images.

    Attributes:
        whole: the moments of an extractor's features, of which FID is measured.
        spatial: those of its spatial features, for sFID; None if they are unknown.
    """

    whole: FeatureMoments
    spatial: FeatureMoments | None = None

    @classmethod
    def of(cls, found: Features) -> "Statistics":
        """Return the moments of features, and of spatial ones if it has any.

        Raises:
            FloatingPointError: a feature is NaN or infinite.
            ValueError: the samples are fewer than two.
        """
        return cls(moments(found.features), None if found.spatial is None else moments(found.spatial))


def has_statistics(path: Path) -> bool:
    """Return whether a file is an ``.npz`` file with the array ``mu``; False for any other file, and for a folder."""
    if path.suffix != SUFFIX or not path.is_file():
        return False
    try:
        with np.load(path, allow_pickle=False) as content:
            return "mu" in content.files
    except UNREADABLE_ARRAYS:
        return False


def read_statistics(path: Path) -> Statistics:
    """Read the moments of features from an ``.npz`` file with ``mu`` and ``sigma``; no pickled content is read.

    Args:
        path: the file.

    Raises:
        ContentError: the file is none, or its arrays are missing, of other shapes, not finite or not symmetric.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            if "mu" not in content.files:
                raise ContentError(f"{path} has the arrays {', '.join(content.files) or 'none'}; {NEEDED}")
            whole = _moments(path, content, "mu", "sigma")
            spatial = _moments(path, content, "mu_s", "sigma_s") if "mu_s" in content.files else None
    except ContentError:
        raise
    except ValueError as error:  # also of some damaged files
        raise ContentError(f"{path} is damaged or has pickled content, which is not read; {NEEDED}") from error
    except UNREADABLE_ARRAYS as error:
        raise ContentError(f"{path} is no .npz file that can be read; {NEEDED}") from error
    return Statistics(whole, spatial)


def write_statistics(path: Path, statistics: Statistics) -> None:
    """Write moments of features as ``mu`` and ``sigma``, and ``mu_s`` and ``sigma_s`` of spatial ones, into ``.npz``.

    The arrays are float64, which public codes read.

    Args:
        path: the file, which is written atomically.
        statistics: the moments.
    """
    arrays = {"mu": statistics.whole.mean.numpy(), "sigma": statistics.whole.cov.numpy()}
    if statistics.spatial is not None:
        arrays |= {"mu_s": statistics.spatial.mean.numpy(), "sigma_s": statistics.spatial.cov.numpy()}
    write_atomically(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _moments(path: Path, content: "np.lib.npyio.NpzFile", mean: str, cov: str) -> FeatureMoments:
    """Return the moments that two arrays of a file have.

    Raises:
        ContentError: an array is missing, or is not as it must be.
    """
    if cov not in content.files:
        raise ContentError(f"{path} has {mean} without {cov}; {NEEDED}")
    mu, sigma = content[mean], content[cov]
    if mu.dtype.kind not in "fiu" or sigma.dtype.kind not in "fiu":
        raise ContentError(f"{path} has {mean} of {mu.dtype} and {cov} of {sigma.dtype}; {NEEDED}")
    mu = mu.reshape(-1) if mu.ndim == 2 and 1 in mu.shape else mu  # some codes write (1, D)
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise ContentError(f"{path} has {mean} of shape {mu.shape} and {cov} of {sigma.shape}; {NEEDED}")
    found = FeatureMoments(*(torch.from_numpy(part.astype(np.float64)) for part in (mu, sigma)))
    if not all(bool(part.isfinite().all()) for part in found):
        raise ContentError(f"{path}: {mean} or {cov} has numbers that are NaN or infinite; {NEEDED}")
    scale = float(found.cov.abs().max())
    if float((found.cov - found.cov.T).abs().max()) > 1e-3 * scale:
        raise ContentError(f"{path}: {cov} is not symmetric, as a covariance is; {NEEDED}")
    return found
