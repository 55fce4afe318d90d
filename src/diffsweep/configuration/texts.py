"""Describe the options of conf/ and their keys, from comments of their files and docstrings of their classes."""

import functools
import re
from collections.abc import Iterator
from typing import NamedTuple

from diffsweep.configuration.comments import header_of, text_of
from diffsweep.configuration.conf import CONF, DEFAULTS, SHARED, content, files, groups, options, parents, targets
from diffsweep.configuration.source import argument, summary

BUILT = ("_target_", "_partial_")  # keys that name what is built, and no settings
STAGE = "diffsweep.configuration.loading.trained"
LONGEST = 44  # characters of a value that is shown in full
PLAIN = {  # interpolations, and how they are shown
    r"\$\{([\w.]+)\}": r"\1",
    r"\$\{oc\.select:([\w.]+),null\}": r"\1",
    r"\$\{oc\.select:([\w.]+),(\w+)\}": r"\1, or \2",
    r"\$\{divide:([\w.]+),([\w.]+)\}": r"\1 / \2",
    r"\$\{when:([\w.]+),([\w.]+),([\w.]+)\}": r"\2 if \1, else \3",
}
SWEPT = "hydra.sweeper.params."  # before the keys that an experiment sweeps
FEW = 3  # presets of an option that a list names all; of more it names the first and the last


class Key(NamedTuple):
    """A key of an option, as ``--help`` and conf/README.md show it.

    Attributes:
        name: with dots if it lies in other keys: ``encoder.width``.
        default: its value, as it is typed; if the key describes an object to build, the name of the class.
        text: what it means, without a period; empty if neither a comment nor a docstring states it.
    """

    name: str
    default: str
    text: str

    @property
    def shown(self) -> str:
        """The default for display, as :func:`short` writes it."""
        return short(self.default)

    @property
    def follows(self) -> bool:
        """Whether the default is an interpolation (``${space.channels}``), and so follows from another key."""
        return "${" in self.default


def short(value: str) -> str:
    """Return a value for display: interpolations in words, and cut to :data:`LONGEST` characters with ``...``."""
    value = " ".join(value.split())
    if value.startswith("["):
        value = value.replace(", ", ",")  # so that a shell takes it as one word
    for pattern, replacement in PLAIN.items():
        value = re.sub(pattern, replacement, value)
    if len(value) <= LONGEST:
        return value
    return "[...]" if value.startswith("[") else f"{value[: LONGEST - 3]}..."


def line(group: str, option: str) -> str:
    """Return a description of an option in one line, from its file's first comment or the docstring of its class."""
    header = header_of(CONF / group / f"{option}.yaml")
    return header[0] if header else next((summary(target) for target in targets(group, option)), "")


def details(group: str, option: str) -> str:
    """Return the rest of the comment that an option's file begins with, without its first line, as one text."""
    return " ".join(header_of(CONF / group / f"{option}.yaml")[1:])


def papers(group: str, option: str) -> list[str]:
    """Return the addresses of the arXiv papers that the first comment of an option's file cites."""
    header = " ".join(header_of(CONF / group / f"{option}.yaml"))
    return [f"https://arxiv.org/abs/{number}" for number in dict.fromkeys(re.findall(r"arXiv:([\d.]+\d)", header))]


@functools.cache
def keys(group: str, option: str) -> dict[str, Key]:
    """Return all keys of an option by name; those of the files that it starts from come first."""
    found: dict[str, Key] = {}
    built: dict[str, str] = {}  # what is built, by the name of its node
    for name in _chain(group, option):
        built |= {
            key.removesuffix("_target_").rstrip("."): value
            for key, value, _ in _entries(group, name)
            if key.rpartition(".")[2] == "_target_"
        }
        for key, value, comment in _entries(group, name):
            if key.rpartition(".")[2] not in BUILT:
                before = found.get(key, Key(key, "", ""))
                found[key] = Key(key, value or before.default, comment or before.text)
    inner = {
        f"{place}.{key}": text for place, name in made_of(group, option).items() for key, text in texts(group, name)
    }
    return {key: _completed(entry, built, inner) for key, entry in found.items()}


def texts(group: str, option: str) -> list[tuple[str, str]]:
    """Return pairs of the name and the meaning of each key of an option."""
    return [(key.name, key.text) for key in keys(group, option).values()]


def _completed(key: Key, built: dict[str, str], inner: dict[str, str]) -> Key:
    """Return a key with its missing default, the class of its node, and text, of an inner option or a docstring."""
    name, default, text = key
    if name in built:
        default = "a trained model" if built[name] == STAGE else built[name].rpartition(".")[2]
    above, _, last = name.rpartition(".")
    text = text or inner.get(name, "") or (argument(built[above], last) if above in built else "")
    return Key(name, default, text.removesuffix("."))


def own_keys(group: str, option: str) -> list[Key]:
    """Return the keys of an option that none of the files which it starts from has."""
    before = {name for start in starts(group, option) for name in keys(group, start)}
    return [key for name, key in keys(group, option).items() if name not in before]


def changed_keys(group: str, option: str) -> list[Key]:
    """Return the keys that an option has from files that it starts from, but with another default."""
    before = {name: key for start in starts(group, option) for name, key in keys(group, start).items()}
    own = keys(group, option)
    return [own[name] for name, key in before.items() if own[name].default != key.default]


def starts(group: str, option: str) -> list[str]:
    """Return the files of its group that an option starts from, shared ones (``_unet``) included."""
    return [name for name, place in _defaults(group, option) if place in ("", group)]


def made_of(group: str, option: str) -> dict[str, str]:
    """Return the options of the same group that an option contains, by the keys that they are under.

    The guidance ``composed`` contains ``{"inner": "classifier_free", "outer": "classifier"}``.
    """
    return {place: name for name, place in _defaults(group, option) if place not in ("", group)}


def shared(group: str) -> list[str]:
    """Return the files of a group that hold what its options have in common (``_unet``), and are no options."""
    return [name for name in files(group) if name.startswith(SHARED)]


def choices(group: str, option: str) -> list[str]:
    """Return what an option chooses and sets in other groups, as a user types it (``schedule=cosine``, ``seed=1``).

    Models and experiments do so. A later file replaces what an option that it starts from chooses. The keys that an
    experiment sweeps have all their values (``seed=0,1,2``).
    """
    chosen, values = [], []
    for name in _chain(group, option):
        for entry in content(group, name).get(DEFAULTS, []):
            if isinstance(entry, dict):
                chosen += [f"{key.removeprefix('override /')}={value}" for key, value in entry.items()]
        text = text_of(CONF / group / f"{name}.yaml")
        if text.is_global:
            others = [entry for entry in text.entries if not f"{entry.key}.".startswith(f"{group}.") and entry.value]
            settings = [entry for entry in others if entry.key != DEFAULTS and not entry.key.startswith(SWEPT)]
            values += [f"{entry.key}={short(entry.value)}" for entry in settings]
            swept = [entry for entry in others if entry.key.startswith(SWEPT)]  # with all their values
            values += [f"{entry.key.removeprefix(SWEPT)}={entry.value}" for entry in swept]
    latest = {text.partition("=")[0]: text for text in chosen + values}  # a file overrides what it starts from
    return list(latest.values())


def settings_of(group: str, preset: str) -> list[str]:
    """Return the settings in which a preset differs from the option that it starts from, as ``KEY=VALUE``."""
    family = keys(group, family_of(group, preset))
    own = keys(group, preset).values()
    return [
        f"{key.name}={key.shown}" for key in own if key.name not in family or key.default != family[key.name].default
    ]


def presets(group: str, option: str) -> list[str]:
    """Return the presets of an option, which are options that start from it with other settings, the smallest first."""
    found = [name for name in options(group) if is_preset(group, name) and family_of(group, name) == option]

    def size(name: str) -> tuple[int, int, list[tuple[str, int]]]:
        channels = keys(group, name).get("channels", Key("", "", "")).default
        parts = [(word, int(digits or 0)) for word, digits in re.findall(r"(\D+)(\d*)", name)]
        return int(channels) if channels.isdigit() else 0, len(_chain(group, name)), parts

    return sorted(found, key=size)


@functools.cache
def is_preset(group: str, option: str) -> bool:
    """Return whether an option is a preset: it starts from another of its group and only changes settings."""
    text = text_of(CONF / group / f"{option}.yaml")
    builds = any(entry.key.rpartition(".")[2] == "_target_" for entry in text.entries)
    return bool(parents(group, option)) and not text.is_global and not builds


@functools.cache
def family_of(group: str, option: str) -> str:
    """Return the option that a preset starts from in the end; an option that is no preset is returned itself."""
    return family_of(group, parents(group, option)[0]) if is_preset(group, option) else option


def folded(group: str, mark: str = "") -> Iterator[str]:
    """Yield the options of a group for a list; of more than :data:`FEW` presets only the first and the last are named.

    Args:
        group: the configuration group.
        mark: the option that gets a ``*`` behind it, such as the default.
    """
    for option in options(group):
        if is_preset(group, option):
            continue
        others = presets(group, option)
        sizes = [name for name in others if option in parents(group, name)]
        shown = f"{option}{'*' * (option == mark)}"
        if len(sizes) > FEW:
            yield f"{shown} (and {len(sizes)} presets: {sizes[0]} ... {sizes[-1]})"
            others = [name for name in others if name not in sizes]
        else:
            yield shown
        yield from (f"{name}{'*' * (name == mark)}" for name in others)


def _chain(group: str, option: str) -> list[str]:
    """Return the files of a group that make an option, from the first to its own."""
    before = [name for start in starts(group, option) for name in _chain(group, start)]
    return list(dict.fromkeys([*before, option]))


def _defaults(group: str, option: str) -> Iterator[tuple[str, str]]:
    """Yield the files of its group that an option names in its defaults, each with the key that it goes under."""
    for entry in content(group, option).get(DEFAULTS, []):
        name, _, place = str(entry).removeprefix(f"/{group}/").partition("@")
        if name in files(group):
            yield name, place


def _entries(group: str, name: str) -> Iterator[tuple[str, str, str]]:
    """Yield the entries of a file that are keys of its group, as the group has them."""
    text = text_of(CONF / group / f"{name}.yaml")
    for key, value, comment in text.entries:
        if not text.is_global:
            if key.partition(".")[0] != DEFAULTS:
                yield key, value, comment
        elif key.startswith(f"{group}."):
            yield key.removeprefix(f"{group}."), value, comment


def wired(key: Key) -> bool:
    """Return whether a key only stands for the whole group of its name, such as ``backbone: ${backbone}``."""
    return key.default == f"${{{key.name}}}" and key.name in groups()
