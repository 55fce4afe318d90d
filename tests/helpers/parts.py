"""Incomplete sets of the parts of a run, for tests of rules."""

from dataclasses import fields

from diffsweep.configuration.rules import BuiltParts


def parts_of(**known):
    """``parts_of(noise=..., objective=...)`` returns parts of which all others are empty."""
    return BuiltParts(**(dict.fromkeys((field.name for field in fields(BuiltParts)), ()) | known))
