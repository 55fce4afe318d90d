"""Sort the words of a command line into overrides and Hydra's switches, and refuse other words with dashes.

Hydra's own parser takes ``--experiment=x`` for its ``--experimental-rerun``, and shows a traceback or its usage.
"""

from collections.abc import Sequence
from typing import NamedTuple

from diffsweep.configuration.conf import groups, keys
from diffsweep.configuration.quoting import quoted
from diffsweep.configuration.suggestions import where
from diffsweep.errors import UserError

SHORT = {"-m": "--multirun", "-h": "--help", "-c": "--cfg", "-p": "--package", "-i": "--info", "-r": "--run"} | {
    "-sc": "--shell-completion", "-cp": "--config-path", "-cn": "--config-name", "-cd": "--config-dir"
}  # fmt: skip
VALUED = ("--cfg", "--package", "--config-path", "--config-name", "--config-dir", "--experimental-rerun")
PLAIN = ("--hydra-help", "--version", "--resolve", "--info", *(set(SHORT.values()) - set(VALUED)))
SHOWN = ("job", "hydra", "all")  # what --cfg shows


class Arguments(NamedTuple):
    """The words of a command line, sorted into overrides and switches.

    Attributes:
        overrides: the words without dashes, such as ``seed=1``, in their order.
        switches: the words with dashes, by their long names (``--cfg`` for ``-c``), each with its value; "" for a
            switch that takes none.
    """

    overrides: list[str]
    switches: dict[str, str]


def read_arguments(words: Sequence[str], command: str) -> Arguments:
    """Sort the words of a command line into overrides (``seed=1``) and Hydra's switches (``--cfg job``).

    Args:
        words: the words after the name of the program.
        command: ``train``, ``sample``, ``evaluate``, ``verify`` or ``benchmark``; error messages suggest its keys.

    Raises:
        UserError: a word with dashes is no switch, a switch lacks its value, ``--cfg`` has another value than ``job``,
            ``hydra`` or ``all``, or ``--resolve`` is used without ``--cfg`` or ``--info``. The message states what to
            type instead.
    """
    overrides: list[str] = []
    switches: dict[str, str] = {}
    rest = list(words)
    while rest:
        word, _, value = (first := rest.pop(0)).partition("=")
        switch = SHORT.get(word, word)
        if not first.startswith("-"):
            overrides.append(first)
        elif switch in VALUED:
            if not value and not rest:
                raise UserError(f"{word} needs a value{', such as --cfg job' * (switch == '--cfg')}")
            switches[switch] = value or rest.pop(0)
        elif switch in PLAIN and not value:
            switches[switch] = ""
        else:
            raise UserError(_without_dashes(first, rest, command))
    if (shown := switches.get("--cfg", "job")) not in SHOWN:
        raise UserError(f"--cfg {shown}: write --cfg job, which shows the configuration, or --cfg hydra or --cfg all")
    if "--resolve" in switches and not {"--cfg", "--info"} & switches.keys():
        raise UserError("--resolve goes with --cfg job, which shows the configuration")
    return Arguments(quoted(command, overrides), switches)


def _without_dashes(word: str, rest: Sequence[str], command: str) -> str:
    """Return the message for a word with dashes that is no switch: how it is written as an override."""
    key, _, value = word.lstrip("-").partition("=")
    if not value and rest and not rest[0].startswith("-") and "=" not in rest[0]:
        value = rest[0]  # --seed 1
    key = key.replace("-", "_")
    if key in (*groups(), *keys(command)):
        return f"{word}: options take no dashes: {key}={value or 'VALUE'}"
    return f"{word}: options take no dashes, as in seed=1 or schedule=linear; {key}: no such key{where(key, command)}"
