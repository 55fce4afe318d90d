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
FEW = 3  # presets of an option that a list names all; of more it names the first and the last


class Key(NamedTuple):
    """A key of an option.

    Attributes:
        name: with dots where it lies in other keys.
        default: its value, as it is typed; of a node that is built its class.
        text: what it means; empty if neither a comment nor a docstring states it.
    """

    name: str
    default: str
    text: str

    @property
    def shown(self) -> str:
        """The default, cut short if it is long."""
        return short(self.default)

    @property
    def follows(self) -> bool:
        """Whether the default follows from another key."""
        return "${" in self.default


def short(value: str) -> str:
    """Return a value as it is typed, cut short if it is long."""
    value = " ".join(value.split())
    if value.startswith("["):
        value = value.replace(", ", ",")  # so that a shell takes it as one word
    for pattern, replacement in PLAIN.items():
        value = re.sub(pattern, replacement, value)
    if len(value) <= LONGEST:
        return value
    return "[...]" if value.startswith("[") else f"{value[: LONGEST - 3]}..."


def line(group: str, option: str) -> str:
    """Return what an option is, in a line: the first comment of its file, or the docstring of what it builds."""
    header = header_of(CONF / group / f"{option}.yaml")
    return header[0] if header else next((summary(target) for target in targets(group, option)), "")


def details(group: str, option: str) -> str:
    """Return what an option's first comment states beyond its line."""
    return " ".join(header_of(CONF / group / f"{option}.yaml")[1:])


def papers(group: str, option: str) -> list[str]:
    """Return the addresses of the papers that an option's first comment cites."""
    header = " ".join(header_of(CONF / group / f"{option}.yaml"))
    return [f"https://arxiv.org/abs/{number}" for number in dict.fromkeys(re.findall(r"arXiv:([\d.]+\d)", header))]


@functools.cache
def keys(group: str, option: str) -> dict[str, Key]:
    """Return all keys of an option by their names: those of the files that it starts from, then its own."""
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
    """Return the names of the keys of an option, each with its text."""
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
    """Return the keys of an option that no file which it starts from has."""
    before = {name for start in starts(group, option) for name in keys(group, start)}
    return [key for name, key in keys(group, option).items() if name not in before]


def changed_keys(group: str, option: str) -> list[Key]:
    """Return the keys of the files that an option starts from to which it gives other values."""
    before = {name: key for start in starts(group, option) for name, key in keys(group, start).items()}
    own = keys(group, option)
    return [own[name] for name, key in before.items() if own[name].default != key.default]


def starts(group: str, option: str) -> list[str]:
    """Return the files of the group that an option starts from, shared ones included."""
    return [name for name, place in _defaults(group, option) if place in ("", group)]


def made_of(group: str, option: str) -> dict[str, str]:
    """Return the options of the group that an option is made of, by the keys that they are under (``inner``)."""
    return {place: name for name, place in _defaults(group, option) if place not in ("", group)}


def shared(group: str) -> list[str]:
    """Return the files that hold what options of a group have in common."""
    return [name for name in files(group) if name.startswith(SHARED)]


def choices(group: str, option: str) -> list[str]:
    """Return what an option chooses and sets in other groups, as a user types it."""
    chosen, values = [], []
    for name in _chain(group, option):
        for entry in content(group, name).get(DEFAULTS, []):
            if isinstance(entry, dict):
                chosen += [f"{key.removeprefix('override /')}={value}" for key, value in entry.items()]
        text = text_of(CONF / group / f"{name}.yaml")
        if text.is_global:
            others = [entry for entry in text.entries if not f"{entry.key}.".startswith(f"{group}.") and entry.value]
            values += [f"{entry.key}={short(entry.value)}" for entry in others if entry.key != DEFAULTS]
    latest = {text.partition("=")[0]: text for text in chosen + values}  # a file overrides what it starts from
    return list(latest.values())


def settings_of(group: str, preset: str) -> list[str]:
    """Return the settings in which a preset differs from the option that it comes from, as ``KEY=VALUE``."""
    family = keys(group, family_of(group, preset))
    own = keys(group, preset).values()
    return [
        f"{key.name}={key.shown}" for key in own if key.name not in family or key.default != family[key.name].default
    ]


def presets(group: str, option: str) -> list[str]:
    """Return the options that differ from an option in settings only, in the order of their sizes."""
    found = [name for name in options(group) if is_preset(group, name) and family_of(group, name) == option]

    def size(name: str) -> tuple[int, int, list[tuple[str, int]]]:
        channels = keys(group, name).get("channels", Key("", "", "")).default
        parts = [(word, int(digits or 0)) for word, digits in re.findall(r"(\D+)(\d*)", name)]
        return int(channels) if channels.isdigit() else 0, len(_chain(group, name)), parts

    return sorted(found, key=size)


def is_preset(group: str, option: str) -> bool:
    """Return whether an option is another one of its group with other settings."""
    text = text_of(CONF / group / f"{option}.yaml")
    builds = any(entry.key.rpartition(".")[2] == "_target_" for entry in text.entries)
    return bool(parents(group, option)) and not text.is_global and not builds


def family_of(group: str, option: str) -> str:
    """Return the option that a preset comes from."""
    return family_of(group, parents(group, option)[0]) if is_preset(group, option) else option


def folded(group: str, mark: str = "") -> Iterator[str]:
    """Yield the options of a group, of many presets the first and the last; the option ``mark`` gets a *."""
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
    """Return whether a key only takes the group of its name, such as ``backbone: ${backbone}``."""
    return key.default == f"${{{key.name}}}" and key.name in groups()
