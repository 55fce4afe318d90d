"""Parts of a run for rules to read, of which only some are there."""

from dataclasses import fields

from diffsweep.configuration.rules import BuiltParts


def parts_of(**known):
    """``parts_of(noise=..., objective=...)``: the others are left out."""
    return BuiltParts(**(dict.fromkeys((field.name for field in fields(BuiltParts)), ()) | known))
