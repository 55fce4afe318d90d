"""Checks a composed configuration before anything is built: who may be built, and with which keywords and types."""

import difflib
import importlib
import inspect
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffsweep.configuration.spelling import nearest
from diffsweep.errors import UserError

# A configuration can come from a run that someone else made. Only these are built: what diffsweep itself defines,
# torch's optimizers, and exact names.
PACKAGES = (
    *("schedules", "diffusion", "layers", "samplers", "guidance", "conditioning", "backbones", "autoencoders"),
    *("datasets", "metrics", "models", "callbacks", "tasks"),
)
OURS = tuple(f"diffsweep.{package}" for package in PACKAGES)
RESOLVERS = ("oc.env", "oc.select", "when", "divide")  # functions that a value may call; others can build or run things
STAGE = "diffsweep.configuration.loading.trained"  # a trained model, by the directory of its run
NAMES = ("lightning.Trainer", STAGE)
RESERVED = ("_target_", "_partial_", "_convert_", "_recursive_")
PASSED: deque[str] = deque(
    maxlen=32
)  # the last configurations found right, as texts: 1 ms in place of 80, ten times a run


def targets(node: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every node with a ``_target_``, with its full path; what an interpolation points to is met where it stands."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield path, node
        for key in node:
            if not OmegaConf.is_interpolation(node, str(key)):
                yield from targets(node._get_node(key), f"{path}.{key!s}" if path else str(key))
    elif isinstance(node, ListConfig):
        for index in range(len(node)):
            yield from targets(node._get_node(index), f"{path}[{index}]")


def locate(name: str, trust: Sequence[str] = ()) -> Callable[..., Any]:
    """The object that a ``_target_`` names, if it may be built.

    Raises:
        UserError: it does not exist, or is neither ours, nor a torch optimizer, nor of a package in ``trust``.
    """
    package = name.partition(".")[0]
    if package not in ("diffsweep", "torch", *trust) and name not in NAMES:
        raise UserError(f"_target_ {name} is not allowed; if you trust its package, add trust=[{package}]")
    module, attributes = _import_longest(name)
    found: Any = module
    for attribute in attributes:
        if not hasattr(found, attribute):
            raise UserError(f"_target_ {name}: {getattr(found, '__name__', found)} has no {attribute}")
        found = getattr(found, attribute)
    home = getattr(found, "__module__", "") or ""
    import torch

    ours = home.startswith(OURS) or home.partition(".")[0] in trust
    optimizer = inspect.isclass(found) and issubclass(found, torch.optim.Optimizer) and home.startswith("torch.optim")
    if not callable(found) or not (ours or optimizer or name in NAMES):
        raise UserError(f"_target_ {name} is not allowed: it is not one of diffsweep's own")
    return found  # type: ignore[no-any-return]


def import_trusted(package: str) -> None:
    """Import a package that the user trusts, so that what it adds by decorators (rules, proofs) is there.

    Raises:
        UserError: it cannot be imported.
    """
    from diffsweep.metrics.i3d import TRUSTED as FILES  # a word that trusts files, and no package

    if package == FILES:
        return
    try:
        importlib.import_module(package)
    except Exception as error:  # whatever a package's own code raises
        raise UserError(f"trust=[{package}]: it cannot be imported: {type(error).__name__}: {error}") from error


def is_of_kind(found: Any, kind: Any) -> bool:
    """Whether what a ``_target_`` names is a class, and one of a kind, or of one of several."""
    return inspect.isclass(found) and issubclass(found, kind)


def _import_longest(name: str) -> tuple[Any, list[str]]:
    """The longest prefix of a dotted name that is a module, and the attributes that remain."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            return importlib.import_module(".".join(parts[:length])), parts[length:]
        except ModuleNotFoundError as error:
            if error.name is not None and not ".".join(parts[:length]).startswith(error.name):
                raise UserError(f"_target_ {name} needs the package {error.name}, which is not installed") from error
    raise UserError(f"_target_ {name}: there is no such module")


def check(cfg: DictConfig) -> None:
    """Every ``_target_`` may be built, every keyword is one that it takes, every plain value has the right type.

    Raises:
        UserError: with the key's full path.
    """
    for package in cfg.trust:
        import_trusted(package)
    content = OmegaConf.to_container(cfg, resolve=False)
    if (seen := repr(content)) in PASSED:  # a run builds part after part of one configuration
        return
    trust = list(cfg.trust)
    for path, text in _texts(content):
        _refuse_hidden_calls(path, text)
    for path, node in targets(cfg):
        _check_node(path, node, locate(str(node._target_), trust))
        _refuse_own_trust(path, node, trust)
    PASSED.append(seen)


def check_resolved(cfg: DictConfig, group: str) -> None:
    """Hold what a group comes to against what may be built. A node may come out of a value that is computed, and what it is computed
    from may have changed since :func:`check`.

    Raises:
        UserError: with the key's full path.
    """
    content = OmegaConf.to_container(cfg[group], resolve=True)
    for path, text in _texts(content, group):
        if "${" in text:
            raise UserError(f"{path}: a value may not come to an interpolation, as {text!r} is")
    trust = list(cfg.get("trust") or ())
    for node in _plain_targets(content):
        locate(str(node["_target_"]), trust)
        _refuse_own_trust(group, node, trust)


def _plain_targets(node: Any) -> Iterator[dict[Any, Any]]:
    """Every node with a ``_target_`` in a plain configuration."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from _plain_targets(part)


def _refuse_own_trust(path: str, node: Mapping[Any, Any], trust: Sequence[str]) -> None:
    """Refuse a node that trusts more packages than the command line does."""
    if not set(node.get("trust") or ()) <= set(trust):
        raise UserError(f"{path}.trust: whom to trust is for the command line to say, by trust=[...]")


def _refuse_hidden_calls(path: str, text: str) -> None:
    """Refuse what would be built or called without being seen by :func:`check`."""
    for resolver in re.findall(r"\$\{\s*([\w.]+)\s*:", text):
        if resolver not in RESOLVERS:
            raise UserError(f"{path}: a value may not call {resolver}")
    if re.search(r"\$\{[\s\w.\[\]]*\$\{", text):
        raise UserError(f"{path}: the name in an interpolation may not be computed, as in {text!r}")
    if path.endswith("_target_") and "${" in text:
        raise UserError(f"{path}: a _target_ may not be computed, as {text!r} is")
    if text == "_args_":
        raise UserError(f"{path}: arguments are given by their names, not by _args_")


def _texts(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a plain configuration, keys too, with its full path."""
    if isinstance(node, dict):
        for key, value in node.items():
            inner = f"{path}.{key}" if path else str(key)
            yield inner, str(key)
            yield from _texts(value, inner)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _texts(value, f"{path}[{index}]")
    elif isinstance(node, str):
        yield path, node


def _check_node(path: str, node: DictConfig, target: Callable[..., Any]) -> None:
    parameters, anything = keywords_of(target)
    named = list(parameters)
    hints = _hints(target)
    for key in node:
        name = str(key)
        if name in RESERVED:
            continue
        if name not in named:
            if anything:
                continue
            near = nearest(name, named)
            raise UserError(
                f"{path}.{name}: no such key{near or ';'} {path} has {', '.join(n for n in named if n in node)}"
            )
        try:
            value = node[key]
        except OmegaConfBaseException as error:
            raise UserError(f"{path}.{name}: {' '.join(str(error).split())}") from error
        if isinstance(value, DictConfig) or name not in hints:
            continue
        _check_type(
            f"{path}.{name}", OmegaConf.to_container(value) if isinstance(value, ListConfig) else value, hints[name]
        )
    missing = [n for n in named if parameters[n].default is inspect.Parameter.empty and n not in node]
    if missing and not node.get("_partial_"):
        raise UserError(f"{path} misses {', '.join(missing)}")


def _own_parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return {name: p for name, p in inspect.signature(target).parameters.items() if name != "self"}


def _makers(target: Callable[..., Any]) -> list[Callable[..., Any]]:
    """What takes the keywords: the function itself, or the constructor of a class and, where that hands on what it does not name
    (``**settings``), the dataclass of its ``Options``, or the constructor of the class it comes from, and so on."""
    if not inspect.isclass(target):
        return [target]
    makers: list[Callable[..., Any]] = []
    for kind in target.__mro__[:-1]:
        if "__init__" in vars(kind):
            makers.append(vars(kind)["__init__"])
            if inspect.isclass(options := vars(kind).get("Options")):
                makers.append(options.__init__)
                break
            if all(p.kind is not p.VAR_KEYWORD for p in _own_parameters(makers[-1]).values()):
                break
    return makers or [target]


def keywords_of(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """The keywords that a target takes, and whether it takes any others."""
    makers = _makers(target)
    every = {name: p for maker in reversed(makers) for name, p in _own_parameters(maker).items()}
    anything = any(p.kind is p.VAR_KEYWORD for p in _own_parameters(makers[-1]).values())
    return {name: p for name, p in every.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}, anything


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    try:
        return {name: hint for maker in reversed(_makers(target)) for name, hint in get_type_hints(maker).items()}
    except Exception:  # hints that only a type checker can resolve say nothing here
        return {}


def _check_type(path: str, value: Any, hint: Any) -> None:
    from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

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


KINDS = {"int": "an integer", "float": "a number", "bool": "true, false", "list": "a list", "tuple": "a list"}


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
