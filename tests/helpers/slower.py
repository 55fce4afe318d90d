"""Parametrisations that mark most of their rows as slow, for tests whose rows show the same thing."""

import itertools

import pytest


def some(values, fast, ids=None):
    """Return the values as parameters, of which all after the first ``fast`` are marked slow."""
    return [
        pytest.param(value, id=ids(value) if ids else None, marks=pytest.mark.slow if i >= fast else ())
        for i, value in enumerate(values)
    ]


def each_once(rows, ids=None):
    """Return rows of several values as parameters; a row is marked slow if earlier rows have all its values."""
    met, marked = set(), []
    for row in rows:
        known = set(row) <= met
        met |= set(row)
        marked.append(pytest.param(row, id=ids(row) if ids else None, marks=pytest.mark.slow if known else ()))
    return marked


def crossed(*columns, ids=None):
    """Return the product of columns as parameters, all but a few marked slow.

    As many rows as the longest column has are fast, and each value is in one of them. ``ids`` names a value.
    """
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
    """Return the product of three columns as parameters, all but a Latin square marked slow.

    The third column must not be longer than the others. As many rows as the first two columns have pairs are fast, and
    every pair of values of two columns is in one of them.
    """
    return [
        pytest.param(a, b, c, marks=() if (i + j - k) % len(third) == 0 else pytest.mark.slow)
        for (i, a), (j, b), (k, c) in itertools.product(*map(enumerate, (first, second, third)))
    ]
