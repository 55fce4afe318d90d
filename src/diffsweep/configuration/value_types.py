"""Check that a value of a configuration has the type of the keyword that it is given for."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from diffsweep.errors import UserError

KINDS = {"int": "an integer", "float": "a number", "bool": "true, false", "list": "a list", "tuple": "a list"}


def check_type(path: str, value: Any, hint: Any) -> None:
    """Raise a UserError unless a value has the type that an annotation states.

    A single value is not converted: 1 is refused where text is expected. The elements of a list may be converted, and a
    list is accepted where a tuple is expected. An annotation that pydantic does not know accepts any value.

    Args:
        path: the full key of the value, with which the message begins.
        value: a number, text, bool, None, list or mapping from a configuration.
        hint: the annotation of the keyword argument that the value is for.

    Raises:
        UserError: the message states what is accepted instead.
    """
    from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

    if isinstance(hint, type) and is_dataclass(hint):  # pydantic would look into its fields
        if not isinstance(value, hint):
            raise UserError(f"{path}={_typed(value)}: it should be a {hint.__name__}, by its _target_ and keys")
        return
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except Exception as error:
        if isinstance(error, PydanticSchemaGenerationError):
            return
        raise
    try:
        adapter.validate_python(value, strict=not isinstance(value, list))
    except ValidationError as error:
        raise UserError(f"{path}={_typed(value)}: {_refusal(value, hint, error.errors())}") from None


def _refusal(value: Any, hint: Any, errors: Sequence[Mapping[str, Any]]) -> str:
    """Return why a value is not of a type: the nearest of its fixed words, if any, and all that it may be."""
    words = list(dict.fromkeys(_typed(word) for word in _fixed_words(hint)))
    kinds = list(filter(None, dict.fromkeys(KINDS.get(error["type"].partition("_")[0]) for error in errors)))
    if words and not isinstance(value, list | dict):
        near = difflib.get_close_matches(str(value), words, n=len(words), cutoff=0.6)
        accepted = dict.fromkeys([*near, *words, *kinds])
        return f"no such value{f', did you mean {near[0]}?' if near else ';'} it is one of {', '.join(accepted)}"
    if len(kinds) > 1:
        return f"it should be {' or '.join(kinds)}"
    if errors[0].get("ctx", {}).get("class") == "Sequence":
        return f"it should be a list, such as [{_typed(value)}]"
    return str(errors[0]["msg"][0].lower() + errors[0]["msg"][1:])


def _fixed_words(hint: Any) -> list[Any]:
    """Return the values that a type lists (``Literal``), alone or as parts of a union, with None where that is one."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        inner = [_fixed_words(part) for part in get_args(hint) if part is not type(None)]
        return [word for words in inner for word in words] + [None] * (type(None) in get_args(hint) and any(inner))
    return []


def _typed(value: Any) -> str:
    """Return a value as a user types it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
