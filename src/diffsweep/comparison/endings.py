"""Short names of runs: the ends of their paths, as short as these distinguish them."""

from collections.abc import Iterable
from pathlib import PurePath


def endings(paths: Iterable[str]) -> dict[str, str]:
    """Return for each path its last parts, as few as distinguish all of the paths, such as ``0_seed-0`` or ``a/last``.

    Args:
        paths: the directories of runs; a path may come several times.
    """
    parts = {path: PurePath(path).parts or (path,) for path in dict.fromkeys(paths)}
    count = 1
    while len({own[-count:] for own in parts.values()}) < len(set(parts.values())):
        count += 1
    return {path: str(PurePath(*own[-count:])) for path, own in parts.items()}
