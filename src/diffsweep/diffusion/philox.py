"""The counter-based generator Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): a function that maps a
counter and a key, words of 32 bits, to four words that look random."""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox_4x32(even: Any, odd: Any, spare: Any, keys: Any, multipliers: Any, library: Any = torch) -> tuple[Any, Any]:
    """Philox-4x32 on int64 arrays that hold unsigned 32-bit words; of torch, or of numpy, whose operations on small arrays cost half as
    much. In place, since large arrays would come from the system each time.

    Args:
        even: words 0 and 2 of the counters, (2, B, N); overwritten, as the next two are.
        odd: words 1 and 3, (2, B, N).
        spare: room, (2, B, N).
        keys: both words of each round's key, (rounds, 2, B or 1, 1).
        multipliers: of words 2 and 0, (2, 1, 1).
        library: that the arrays are of.

    Returns:
        words 0 and 2 of the results, and words 1 and 3.
    """
    for key in keys:
        # int64 wraps modulo 2^64, which keeps all 64 bits of the unsigned product
        library.multiply(library.flip(even, (0,)), multipliers, out=spare)
        library.bitwise_right_shift(spare, 32, out=even)
        even ^= odd
        even ^= key
        even &= MASK  # away with what the shift of a negative product, and odd, have above 32 bits
        odd, spare = spare, odd
    odd &= MASK
    return even, odd


class Words(NamedTuple):
    """Counters, or what is drawn of them, int64 in [0, 2^32): words 0 and 2 of each block of four, (2, B, N), and words 1 and 3."""

    even: Tensor
    odd: Tensor


@functools.lru_cache(maxsize=8)  # saves 21 of some 250 microseconds of a small draw on a CPU, and two copies to a GPU
@torch.inference_mode(False)
def constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """The multipliers of words 2 and 0, (2, 1, 1), and what is added to the key in each of ten rounds, (10, 2, 1, 1)."""
    weyl = torch.arange(10, device="cpu")[:, None] * torch.tensor(_WEYL, device="cpu")
    return torch.tensor(_MULTIPLIERS[::-1], device="cpu")[:, None, None].to(device), weyl[..., None, None].to(device)


def round_keys(seed: Tensor) -> Tensor:
    """The keys of ten rounds, (10, 2, B, 1), of seeds (B,) of 64 bits."""
    _, weyl = constants(seed.device)
    return (torch.stack([seed & MASK, (seed >> 32) & MASK])[..., None] + weyl) & MASK


@functools.lru_cache(maxsize=32)  # saves 24 of some 250 microseconds of a small draw on a CPU, and a copy to a GPU
@torch.inference_mode(False)
def keys_of_one(seed: int, device: torch.device) -> Tensor:
    """Those of the low 64 bits of a seed, B = 1."""
    return round_keys(torch.tensor([(seed + 2**63) % 2**64 - 2**63], device="cpu").to(device))


def draw_words(counters: Words, keys: Tensor) -> Words:
    """What counters, which are overwritten, give under the keys of rounds."""
    spare, (multipliers, _) = torch.empty_like(counters.even), constants(keys.device)
    if keys.device.type != "cpu":
        return Words(*philox_4x32(*counters, spare, keys, multipliers))
    even, odd, room, key, factors = (part.numpy() for part in (*counters, spare, keys, multipliers))
    drawn = philox_4x32(even, odd, room, key, factors, even.__array_namespace__())
    return Words(*(torch.from_numpy(words) for words in drawn))
