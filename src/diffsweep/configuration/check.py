"""Check a configuration before anything is built: that its classes are allowed, and their keywords and types right."""

import functools
import importlib
import inspect
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffsweep.configuration.conf import content as content_of
from diffsweep.configuration.conf import files, groups, leaves
from diffsweep.configuration.secret_keys import refuse_secret
from diffsweep.configuration.signatures import hints_of, keywords_of
from diffsweep.configuration.spelling import nearest
from diffsweep.configuration.value_types import check_type
from diffsweep.errors import UserError

# A configuration can come from a run that someone else made. Only these are built: classes of diffsweep,
# torch's optimizers, and the names in NAMES.
PACKAGES = (
    *("schedules", "diffusion", "layers", "samplers", "guidance", "conditioning", "backbones", "autoencoders"),
    *("datasets", "degradations", "metrics", "models", "callbacks", "adaptation", "tasks"),
)
OURS = tuple(f"diffsweep.{package}." for package in PACKAGES)
OPTIMIZERS = "torch.optim."
RESOLVERS = ("oc.env", "oc.select", "when", "divide", "at_most")  # that a value may call; others make nodes
STAGE = "diffsweep.configuration.loading.trained"  # returns a trained model, by the directory of its run
NAMES = ("lightning.Trainer", STAGE)
RESERVED = ("_target_", "_partial_", "_convert_", "_recursive_")
# The last configurations that passed, as texts. A run builds its parts one by one: 1 ms a time in place of 80.
PASSED: deque[str] = deque(maxlen=32)


def targets(node: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Yield every mapping with a ``_target_`` in a configuration, with its full path (``guidance.classifier``).

    A mapping comes before those in it. Interpolations (``${backbone}``) are not followed: the mapping that they refer
    to is yielded at its own path.

    Args:
        node: a configuration or a part of one; a plain value yields nothing.
        path: the full path of ``node``; empty for a whole configuration.
    """
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
    """Import and return the class or function that a ``_target_`` names, if a configuration may build it.

    Args:
        name: the full name, such as ``diffsweep.samplers.DDIM``.
        trust: the packages besides diffsweep whose classes are allowed.

    Raises:
        UserError: the name does not exist, needs a package that is not installed, or is not allowed. Allowed are the
            classes of diffsweep's parts and the functions that its options name, torch's optimizers,
            ``lightning.Trainer`` and whatever a package in ``trust`` defines.
    """
    package = name.partition(".")[0]
    if package not in ("diffsweep", "torch", *trust) and name not in NAMES:
        raise UserError(f"_target_ {name} is not allowed; if you trust its package, add trust=[{package}]")
    if package not in trust and name not in NAMES and not name.startswith((*OURS, OPTIMIZERS)):
        raise UserError(_not_allowed(name))  # its module is not even imported
    module, attributes = _import_longest(name)
    found: Any = module
    for attribute in attributes:
        if not hasattr(found, attribute):
            raise UserError(f"_target_ {name}: {getattr(found, '__name__', found)} has no {attribute}")
        found = getattr(found, attribute)
    home = f"{getattr(found, '__module__', '') or ''}."
    import torch

    ours = home.startswith(OURS) and (inspect.isclass(found) or _is_of_an_option(found))
    ours = ours or home.partition(".")[0] in trust
    optimizer = inspect.isclass(found) and issubclass(found, torch.optim.Optimizer) and home.startswith(OPTIMIZERS)
    if not callable(found) or not (ours or optimizer or name in NAMES):
        raise UserError(_not_allowed(name))
    return found  # type: ignore[no-any-return]


def _not_allowed(name: str) -> str:
    return f"_target_ {name} is not allowed: it is no class of diffsweep that a configuration may build"


def _is_of_an_option(found: Any) -> bool:
    """Return whether an option of conf/ names a function; other functions and methods of ours are not called."""
    own = getattr(found, "__name__", "")
    return any(_attribute(name) is found for name in _targets_of_options() if name.rpartition(".")[2] == own)


@functools.cache  # 4 ms
def _targets_of_options() -> frozenset[str]:
    """Return every ``_target_`` in the files of conf/'s groups."""
    return frozenset(
        str(value)
        for group in groups()
        for option in files(group)
        for key, value in leaves(content_of(group, option))
        if key.rpartition(".")[2] == "_target_"
    )


def _attribute(name: str) -> Any:
    """Return what a full name of conf/ stands for; None if it does not exist."""
    module, attributes = _import_longest(name)
    return functools.reduce(lambda part, attribute: getattr(part, attribute, None), attributes, module)


def import_trusted(package: str) -> None:
    """Import a package that ``trust=[...]`` names, so that its rules, proofs and benchmarks are registered.

    Rules are checks of combinations, and proofs are checks that ``verify.py`` runs. The word ``torchscript``, which
    allows other files of a feature network than the public one, is no package and is passed over.

    Raises:
        UserError: the package cannot be imported; the message has the error that its code raised.
    """
    from diffsweep.metrics.torchscript import TRUSTED as FILES  # a word that allows a kind of files, and no package

    if package == FILES:
        return
    try:
        importlib.import_module(package)
    except Exception as error:  # whatever a package's own code raises
        raise UserError(f"trust=[{package}]: it cannot be imported: {type(error).__name__}: {error}") from error


def is_of_kind(found: Any, kind: Any) -> bool:
    """Return whether ``found`` is a class and equals or derives from ``kind``, a class or a tuple of classes."""
    return inspect.isclass(found) and issubclass(found, kind)


def _import_longest(name: str) -> tuple[Any, list[str]]:
    """Return the longest prefix of a dotted name that is a module, and the attributes that remain."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            return importlib.import_module(".".join(parts[:length])), parts[length:]
        except ModuleNotFoundError as error:
            if error.name is not None and not ".".join(parts[:length]).startswith(error.name):
                raise UserError(f"_target_ {name} needs the package {error.name}, which is not installed") from error
    raise UserError(f"_target_ {name}: no such module")


def check(cfg: DictConfig) -> None:
    """Raise a UserError unless every class may be built, takes the keywords given and has values of the right types.

    Nothing is built. The packages in ``cfg.trust`` are imported first. Interpolations must neither compute a
    ``_target_`` nor call other functions than ``oc.env``, ``oc.select``, ``when`` and ``divide``.

    Raises:
        UserError: the message names the full path of a wrong key, or the class or package that is refused.
    """
    for package in cfg.trust:
        import_trusted(package)
    content = OmegaConf.to_container(cfg, resolve=False)
    if (seen := repr(content)) in PASSED:  # a run builds part after part of one configuration
        return
    trust = list(cfg.trust)
    for path, text in _texts(content):
        _refuse_hidden_calls(path, text)
    for path, value in leaves(content):
        if isinstance(value, str):
            refuse_secret(path, value)
    for path, node in targets(cfg):
        _check_node(path, node, locate(str(node._target_), trust))
        _refuse_own_trust(path, node, trust)
    PASSED.append(seen)


def check_resolved(cfg: DictConfig, group: str) -> None:
    """Raise a UserError unless every class in a group may be built when its interpolations are resolved.

    An interpolation can resolve to a mapping with a ``_target_``, and the values that it depends on may have changed
    since :func:`check`, which reads the configuration unresolved.

    Args:
        cfg: a configuration that has passed :func:`check`.
        group: the key of the group, such as ``sampler``.

    Raises:
        UserError: the message names the class that is refused, or the path of a value.
    """
    content = OmegaConf.to_container(cfg[group], resolve=True)
    for path, text in _texts(content, group):
        if "${" in text:
            raise UserError(
                f"{path}: a value may not resolve to an interpolation, as in {text!r}; write the value itself"
            )
    trust = list(cfg.get("trust") or ())
    for node in _plain_targets(content):
        locate(str(node["_target_"]), trust)
        _refuse_own_trust(group, node, trust)


def _plain_targets(node: Any) -> Iterator[dict[Any, Any]]:
    """Yield every node with a ``_target_`` in a plain configuration."""
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
        raise UserError(f"{path}.trust: packages are trusted on the command line alone, by trust=[...]")


def _refuse_hidden_calls(path: str, text: str) -> None:
    """Raise a UserError if a text would build or call something that :func:`check` does not see."""
    for resolver in re.findall(r"\$\{\s*([\w.]+)\s*:", text):
        if resolver not in RESOLVERS:
            raise UserError(f"{path}: a value may not call {resolver}; it may call {', '.join(RESOLVERS)}")
    if re.search(r"\$\{[\s\w.\[\]]*\$\{", text):
        raise UserError(f"{path}: the name in an interpolation may not be computed, as in {text!r}")
    if path.endswith("_target_") and "${" in text:
        raise UserError(f"{path}: a _target_ may not be computed, as {text!r} is")
    if text == "_args_":
        raise UserError(f"{path}: arguments are given by their names, not by _args_")


def _has_objects(mapping: dict[Any, Any]) -> bool:
    """Return whether a mapping is an object, or has objects or interpolations, whose types are not known yet."""
    return any(text == "_target_" or "${" in text for _, text in _texts(mapping))


def _texts(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in a plain configuration, keys too, with its full path."""
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
    """Raise a UserError unless a node has the keywords of its class, with values of their types."""
    parameters, anything = keywords_of(target)
    named = list(parameters)
    hints = hints_of(target)
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
        plain = OmegaConf.to_container(value) if isinstance(value, DictConfig | ListConfig) else value
        if name not in hints or (isinstance(plain, dict) and _has_objects(plain)):
            continue
        check_type(f"{path}.{name}", plain, hints[name])
    missing = [n for n in named if parameters[n].default is inspect.Parameter.empty and n not in node]
    if missing and not node.get("_partial_"):
        raise UserError(f"{path} misses {', '.join(missing)}")
