"""Turn the errors of Hydra and OmegaConf into one line that names the nearest right word."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from diffsweep.configuration.conf import groups, options
from diffsweep.configuration.spelling import nearest
from diffsweep.configuration.suggestions import keys_of, no_such_hydra_option, no_such_key, no_such_option
from diffsweep.errors import UserError, line_of


@contextmanager
def explained(command: str, overrides: Sequence[str]) -> Iterator[None]:
    """Raise errors of Hydra and OmegaConf in a ``with`` block as a :class:`UserError` of one line.

    A word that removes a key of the command's root (``~seed``) is refused before.

    Args:
        command: such as ``train``; the message suggests keys that its configuration has.
        overrides: of the command line, which choose options whose keys are suggested.
    """
    for override in overrides if command else ():
        key = override[1:].partition("=")[0]
        if override.startswith("~") and "." not in key and key in keys_of(command, {}):
            raise UserError(f"{override}: {command.partition('_')[0]}.py always has this key; leave the word out")
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, command, overrides) from error
    except ValueError as error:
        if match := re.search(r"Config group override must be a string or a list. Got (\w+)", str(error)):
            raise UserError(f"{_odd(overrides)}: the option of a group is a word, not of type {match[1]}") from error
        raise


def explain(error: Exception, command: str, overrides: Sequence[str] = ()) -> UserError:
    """Return a UserError that states an error of Hydra or OmegaConf in one line, with the nearest right word.

    Args:
        error: the error as Hydra or OmegaConf raised it.
        command: such as ``train``; the message suggests keys that its configuration has.
        overrides: of the command line, which choose options whose keys are suggested.
    """
    cause = error.__cause__
    text = f"{error}\n{cause}" if cause is not None else str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        if not group:
            return UserError(f"{option}: no such group or command{nearest(option, groups())}")
        return no_such_hydra_option(group, option) if "/" in group else no_such_option(group, option)
    if isinstance(error, OverrideParseException):
        if "=" not in str(error.override):
            return UserError(
                f"cannot read {error.override!r}: write KEY=VALUE, such as seed=0, or GROUP=OPTION, such as "
                "schedule=linear"
            )
        return UserError(f"cannot read {error.override!r}: {str(error).splitlines()[0]}")
    if match := re.search(r"Ambiguous value for argument '(.+?)'", text):
        return UserError(f"{match[1]} has several values; add -m to run each of them")
    if match := re.search(r"You must specify '(\w+)'", text):
        return UserError(f"{match[1]}= is missing: give the directory of a run, as training printed it")
    if match := re.search(r"Could not append to config. An item is already at '([^']+)'", text):
        return UserError(f"{match[1]} is set already: leave out the +")
    if match := re.search(r"Cannot merge DictConfig with ListConfig\s+full_key: (\S+)", text):
        return UserError(f"{match[1]} is no list, but values by name: write +{match[1]}.NAME=VALUE, or leave it out")
    match = re.search(r"To append to your config use (\+(\S+?)=\{.*)", text)
    if match and keys_of(command, {}).get(match[2]) == "{}":  # a key with names of one's own
        return UserError(f"{match[2]}: names are added to it: write {match[1]}")
    if match := re.search(r"Could not (?:override|append|delete).*? '([^']+)'", text):
        key = match[1]
        if converted := re.search(r"Value '(.*?)'.* (?:could not be converted to|of type) (\w+)", text):
            return UserError(f"{key}={converted[1]}: not of type {_spoken(converted[2])}")
        return no_such_key(key, command, overrides)
    if match := re.search(r"full_key: (\S+)", text):
        key = match[1]
        if converted := re.search(r"Value '(.*?)'.* could not be converted to (\w+)", text):
            return UserError(f"{key}={converted[1]}: not of type {_spoken(converted[2])}")
        if "is not a ListConfig" in text:
            return UserError(f"{key} is a list: write {key}=[...], in quotation marks if it has spaces")
        if "not in" in text:
            return no_such_key(key, command, overrides)
    if isinstance(error, ConfigCompositionException):
        return UserError(" ".join(text.split()))
    return UserError(line_of(error))


def _odd(overrides: Sequence[str]) -> str:
    """Return the overrides that give a group something other than a word, with the options of the group."""
    every = OverridesParser.create().parse_overrides(list(overrides))
    odd = [o for o in every if o.key_or_group in groups() and not isinstance(o.value(), str)]
    return ", ".join(f"{o.input_line} ({o.key_or_group} has {', '.join(options(o.key_or_group))})" for o in odd)


def _spoken(kind: str) -> str:
    return {"Integer": "int", "Float": "float", "Boolean": "bool"}.get(kind, kind)
