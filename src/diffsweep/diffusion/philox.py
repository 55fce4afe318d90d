r"""The counter-based generator Philox-4x32-10, which maps a counter and a key to four random-looking words of 32 bits.

.. math:: (c_0, c_1, c_2, c_3) \leftarrow (\mathrm{hi}(M_1 c_2) \oplus c_1 \oplus k_0, \; \mathrm{lo}(M_1 c_2), \;
    \mathrm{hi}(M_0 c_0) \oplus c_3 \oplus k_1, \; \mathrm{lo}(M_0 c_0))

is one of its ten rounds, where hi and lo are the upper and the lower 32 bits of a product and a constant is added to
the key :math:`(k_0, k_1)` after each round (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox_4x32(even: Any, odd: Any, spare: Any, keys: Any, multipliers: Any, library: Any = torch) -> tuple[Any, Any]:
    """Run the rounds of Philox-4x32 on int64 arrays that hold unsigned 32-bit words, in place.

    The arrays are torch's, or numpy's, whose operations on small arrays cost half as much. New large arrays would be
    allocated from the system each time.

    Args:
        even: words 0 and 2 of the counters, (2, B, N); overwritten, as the next two are.
        odd: words 1 and 3 of the counters, (2, B, N).
        spare: memory for intermediate results, (2, B, N).
        keys: both words of the key of each round, (rounds, 2, B or 1, 1).
        multipliers: the multipliers of words 2 and 0, (2, 1, 1).
        library: the library of the arrays, torch or numpy.

    Returns:
        words 0 and 2 of the results, and words 1 and 3.
    """
    for key in keys:
        # int64 wraps modulo 2^64, which keeps all 64 bits of the unsigned product
        library.multiply(library.flip(even, (0,)), multipliers, out=spare)
        library.bitwise_right_shift(spare, 32, out=even)
        even ^= odd
        even ^= key
        even &= MASK  # clears the bits above 32 of the shift of a negative product, and of odd
        odd, spare = spare, odd
    odd &= MASK
    return even, odd


class Words(NamedTuple):
    """Counters or random words, int64 in [0, 2^32), in N blocks of four for each of B samples.

    Attributes:
        even: words 0 and 2 of each block, (2, B, N).
        odd: words 1 and 3 of each block, (2, B, N).
    """

    even: Tensor
    odd: Tensor


@functools.lru_cache(maxsize=8)  # saves 21 of some 250 microseconds of a small draw on a CPU, and two copies to a GPU
@torch.inference_mode(False)
def constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return Philox's multipliers of words 2 and 0, (2, 1, 1), and the constants of its ten rounds, (10, 2, 1, 1).

    Both are int64 on the device. The constant of a round is added to both words of the key.
    """
    weyl = torch.arange(10, device="cpu")[:, None] * torch.tensor(_WEYL, device="cpu")
    return torch.tensor(_MULTIPLIERS[::-1], device="cpu")[:, None, None].to(device), weyl[..., None, None].to(device)


def round_keys(seed: Tensor) -> Tensor:
    """Return both words of the key of each of ten rounds, (10, 2, B, 1), for seeds of 64 bits, int64, (B,)."""
    _, weyl = constants(seed.device)
    return (torch.stack([seed & MASK, (seed >> 32) & MASK])[..., None] + weyl) & MASK


@functools.lru_cache(maxsize=32)  # saves 24 of some 250 microseconds of a small draw on a CPU, and a copy to a GPU
@torch.inference_mode(False)
def keys_of_one(seed: int, device: torch.device) -> Tensor:
    """Return both words of the key of each of ten rounds, (10, 2, 1, 1), for the low 64 bits of one seed."""
    return round_keys(torch.tensor([(seed + 2**63) % 2**64 - 2**63], device="cpu").to(device))


def draw_words(counters: Words, keys: Tensor) -> Words:
    """Return the random words that Philox maps the counters to, of the same shape; the counters are overwritten.

    Args:
        counters: a block of four words for each block of results.
        keys: the keys of the rounds, as :func:`round_keys` returns them.
    """
    spare, (multipliers, _) = torch.empty_like(counters.even), constants(keys.device)
    if keys.device.type != "cpu":
        return Words(*philox_4x32(*counters, spare, keys, multipliers))
    even, odd, room, key, factors = (part.numpy() for part in (*counters, spare, keys, multipliers))
    drawn = philox_4x32(even, odd, room, key, factors, even.__array_namespace__())
    return Words(*(torch.from_numpy(words) for words in drawn))
