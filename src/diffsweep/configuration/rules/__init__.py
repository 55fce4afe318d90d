"""Combinations that do not work, each a rule with a name that says what must hold, one file a subject.

A rule reads what parts are and declare (:mod:`diffsweep.capabilities`), never what they are called.
"""

from diffsweep.configuration.rules.base import NOTES, RULES, BuiltParts, apply, note, rule

__all__ = ["NOTES", "RULES", "BuiltParts", "apply", "note", "rule"]
