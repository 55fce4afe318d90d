"""Quote values on command lines that hold commas or equals signs and are no sweeps, such as ``runs=DIR,DIR``."""

from collections.abc import Sequence
from dataclasses import fields

from diffsweep.configuration.schema import LISTED, SCHEMAS, TEXT


def quoted(command: str, overrides: Sequence[str]) -> list[str]:
    """Return the overrides of a command with the brackets and quotes that Hydra requires: ``runs=a,b`` is a list.

    Only keys that the schema marks are changed; elsewhere values with commas are those of a sweep.
    """
    marks = {of.name: of.metadata for of in fields(SCHEMAS[command])}
    found = []
    for override in overrides:
        key, equals, value = override.partition("=")
        inner = value.strip().removeprefix("[").removesuffix("]")
        if equals and marks.get(key) == LISTED:
            items = [item.strip().strip("'\"") for item in inner.split(",")]
            found.append(f"{key}=[{','.join(_in_quotes(item) for item in items if item)}]")
        elif equals and marks.get(key) == TEXT and value != "null":
            found.append(f"{key}={_in_quotes(value.strip().strip(chr(39) + chr(34)))}")
        else:
            found.append(override)
    return found


def _in_quotes(text: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text, Quote.double).with_quotes()
