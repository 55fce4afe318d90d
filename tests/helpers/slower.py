"""Tests that are worth their seconds for some of their parameters only."""

import itertools

import pytest


def some(values, fast, ids=None):
    """The first ``fast`` values; the others are tested with ``-m slow``."""
    return [
        pytest.param(value, id=ids(value) if ids else None, marks=pytest.mark.slow if i >= fast else ())
        for i, value in enumerate(values)
    ]


def each_once(rows, ids=None):
    """All rows, each of several values; those in which every value was met before are tested with ``-m slow``."""
    met, marked = set(), []
    for row in rows:
        known = set(row) <= met
        met |= set(row)
        marked.append(pytest.param(row, id=ids(row) if ids else None, marks=pytest.mark.slow if known else ()))
    return marked


def crossed(*columns, ids=None):
    """The product of columns, whose values are parameters of their own; fast are as many rows as the longest column has, with each value in
    one of them. ``ids`` names a value."""
    sizes = [len(column) for column in columns]
    fast = {tuple(k % size for size in sizes) for k in range(max(sizes))}
    return [
        pytest.param(
            *(column[i] for column, i in zip(columns, places, strict=True)),
            id="-".join(ids(column[i]) for column, i in zip(columns, places, strict=True)) if ids else None,
            marks=() if places in fast else pytest.mark.slow,
        )
        for places in itertools.product(*map(range, sizes))
    ]


def squared(first, second, third):
    """The product of three columns, the last of which is not longer than the others; fast are as many rows as the first two have pairs, with
    every pair of values of any two columns in one of them (a Latin square)."""
    return [
        pytest.param(a, b, c, marks=() if (i + j - k) % len(third) == 0 else pytest.mark.slow)
        for (i, a), (j, b), (k, c) in itertools.product(*map(enumerate, (first, second, third)))
    ]
