"""Refuse combinations that do not work: each rule is named by what must hold, and each file has one subject.

A rule reads the classes of parts and what they declare (:mod:`diffsweep.capabilities`), never the names of options.
"""

from diffsweep.configuration.rules.base import NOTES, RULES, BuiltParts, apply, limit, note, rule

__all__ = ["NOTES", "RULES", "BuiltParts", "apply", "limit", "note", "rule"]
