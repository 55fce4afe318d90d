"""Show the configuration of a command with the sizes that its run has, as ``--cfg job`` does, without running it."""

import sys
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffsweep.configuration.compose import compose
from diffsweep.configuration.sizes import fill_in_sizes
from diffsweep.errors import UserError
from diffsweep.files import ContentError


def shown(command: str, overrides: Sequence[str], resolve: bool = False, package: str | None = None) -> str:
    """Return the configuration of a command as YAML, with the sizes that its run fills in, as ``--cfg job`` prints it.

    If sizes cannot be filled in, or interpolations have no value yet, a line on stderr states it.

    Args:
        command: ``train``, ``evaluate``, ``sample``, ``benchmark`` or ``verify``.
        overrides: such as ``["schedule=linear", "seed=1"]``.
        resolve: whether interpolations (``${space.channels}``) are replaced by their values; those that have none
            before the model is built stay as they are.
        package: the key of a part, such as ``backbone``; None for all of the configuration.

    Raises:
        UserError: an option or key is wrong.
    """
    cfg = compose(command, overrides)
    try:
        fill_in_sizes(cfg)
    except (UserError, ContentError, OmegaConfBaseException, ImportError) as error:
        line = " ".join(str(getattr(error, "msg", None) or error).split())
        print(f"NOTE: sizes that the conditioning provides are not filled in: {line}", file=sys.stderr)
    if resolve:
        unresolved: list[str] = []
        cfg = OmegaConf.create(_values(cfg, "", unresolved))
        if unresolved:
            print(f"NOTE: without a value before the model is built: {', '.join(unresolved)}", file=sys.stderr)
    part = OmegaConf.select(cfg, package) if package else cfg
    if part is None:
        raise UserError(f"--package {package}: no such key; give that of a part, such as --package backbone")
    return OmegaConf.to_yaml(part) if OmegaConf.is_config(part) else f"{part}\n"


def _values(node: Any, path: str, unresolved: list[str]) -> Any:
    """Return a plain copy of a configuration with references replaced by their values.

    Args:
        node: a mapping, a list or a value.
        path: the key of the node.
        unresolved: takes the keys of references without a value, which stay as they are.
    """
    if not isinstance(node, DictConfig | ListConfig):
        return node
    found: list[tuple[Any, Any]] = []
    keys: list[Any] = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    for key in keys:
        child: Any = node._get_node(key)
        full = f"{path}.{key}" if path else str(key)
        if child._is_missing():
            found.append((key, "???"))
        elif not child._is_interpolation():
            found.append((key, _values(node[key], full, unresolved)))
        else:
            try:  # what a reference points to is listed where it lies
                found.append((key, _values(node[key], full, [])))
            except OmegaConfBaseException:
                found.append((key, child._value()))
                unresolved.append(full)
    return dict(found) if isinstance(node, DictConfig) else [value for _, value in found]
