"""Print the help of the commands: all groups, a page for each group and option, and the meaning of each key."""

from collections.abc import Iterable, Iterator, Sequence
from textwrap import indent, wrap

from diffsweep.configuration import texts
from diffsweep.configuration.comments import text_of
from diffsweep.configuration.conf import CONF, SELECTORS, about, content, defaults, groups, options, starts
from diffsweep.configuration.declarations import relations
from diffsweep.configuration.spelling import nearest
from diffsweep.configuration.suggestions import no_such_option
from diffsweep.configuration.texts import Key
from diffsweep.errors import UserError

COMMANDS = (
    *("train", "preview", "import", "sample", "evaluate", "export", "compare", "runs", "dashboard", "verify"),
    *("benchmark", "doctor"),
)
WIDTH = 118
REFERENCE = "conf/README.md"
DERIVED = ("space", "condition")  # root keys that follow from the groups


def help_text(command: str, topics: Sequence[str] = ()) -> str:
    """Return the text that ``--help`` prints: the help of a command, or the pages of the given topics.

    Args:
        command: one of ``COMMANDS``.
        topics: groups (``sampler``), options (``sampler=ddim``) and keys (``sampler.steps``); empty for the command.

    Raises:
        UserError: the command has no topic of this name; the message names the nearest one.
    """
    if not topics:
        return "\n".join(_command(command))
    return "\n\n".join("\n".join(page) for topic in topics for page in _pages(command, topic))


def groups_of(command: str) -> list[str]:
    """Return the configuration groups that a command has, in the order of conf/_groups.yaml: the method first."""
    chosen = defaults(command)
    return [group for group in about() if group in chosen]


def command_keys(command: str) -> list[Key]:
    """Return the keys of a command that belong to no configuration group, with their defaults and meanings.

    First come those of the command alone (``run``, ``num_samples``), then those that every command has (``seed``).
    """
    found = []
    others = {*groups(), "hydra", "defaults"}
    for name in reversed(starts(command)):
        for key, value, comment in text_of(CONF / f"{name}.yaml").entries:
            if key.partition(".")[0] not in others:
                found.append(Key(key, value, comment))
    return [*_runs(command), *found]


def _runs(command: str) -> Iterator[Key]:
    """Yield the keys by which a command is given a run: the entries of its defaults that are no groups."""
    for line in (CONF / f"{command}.yaml").read_text(encoding="utf-8").splitlines():
        entry, _, comment = line.strip().removeprefix("- ").partition(" # ")
        name, _, value = entry.partition(": ")
        if line.startswith("  - ") and name in SELECTORS:
            yield Key(name, "RUN_DIRECTORY" if value == "???" else value, comment)


def about_command(command: str) -> tuple[list[str], str]:
    """Return the lines that describe a command, and its examples as one text, from its file in conf/."""
    text = content("", command)["hydra"]["help"]
    return text["header"].splitlines(), text["footer"]


def _command(command: str) -> Iterator[str]:
    header, examples = about_command(command)
    named = {key.name for key in _runs(command)}
    chosen = {} if "run" in named and "resume" not in named else defaults(command)
    program = f"python src/{command}.py"
    yield from header
    run = "" if chosen else " run=RUN_DIRECTORY"
    yield f"\nUsage: {program}{run} [GROUP=OPTION ...] [KEY=VALUE ...]\n"
    yield (
        "Groups and their options (* is the default):"
        if chosen
        else "Groups and their options (by default those of the run):"
    )
    for group in groups_of(command):
        yield from _row(group, about()[group].decides, 15)
        names = ", ".join(texts.folded(group, chosen.get(group) or "")).replace(" ... ", "\0...\0")
        yield from (f"{' ' * 19}{line}".replace("\0", " ") for line in wrap(names, WIDTH - 19))
    yield "\nKeys of this command:"
    yield from _keys(key for key in command_keys(command) if key.name.partition(".")[0] not in DERIVED)
    yield "\nMore help:"
    pages = (
        ("--help GROUP", "what a group decides, and what each of its options is, such as --help sampler"),
        ("--help GROUP=OPTION", "the keys of an option, and what it goes with, such as --help sampler=ddim"),
        ("--help GROUP.KEY", "what a key means, such as --help sampler.steps"),
        (REFERENCE, "all of this on one page"),
    )
    yield from _table(pages)
    yield "  Options that do not go together are refused before anything starts, in a line that names what to use."
    yield f"\nExamples:\n{indent(examples, '  ')}"


def _pages(command: str, topic: str) -> Iterator[list[str]]:
    """Yield the pages of a topic; several for several options, ``sampler=ddim,heun``."""
    name, _, option = topic.lstrip("+~").partition("=")
    roots = {key.name: key for key in command_keys(command)}
    if name in groups_of(command):
        for choice in option.split(","):
            if choice and choice not in options(name):
                raise no_such_option(name, choice)
            yield list(_option(name, choice) if choice else _group(command, name))
    elif name in roots or name in DERIVED:
        found = [key for key in roots.values() if f"{key.name}.".startswith(f"{name}.")]
        yield list(_keys(found))
    elif name in groups():
        other = next(other for other in COMMANDS if name in groups_of(other))
        raise UserError(f"{command} has no group {name}; try python src/{other}.py --help {topic}")
    else:
        yield list(_key(command, name, roots))


def _group(command: str, group: str) -> Iterator[str]:
    """Yield the lines of a group's page."""
    decides, begin = about()[group]
    chosen = defaults(command)[group]
    yield from wrap(f"{group}: {decides}", WIDTH)
    yield f"The default is {chosen or 'none of them'}." + (f" Begin with {begin}." if begin != chosen else "")
    yield ""
    for option in options(group):
        if not texts.is_preset(group, option):
            yield from _row(option, texts.line(group, option), 20)
            names = texts.presets(group, option)
            if len(names) > texts.FEW:
                yield from _row("", f"Presets: {', '.join(names)}", 20)
            else:
                for name in names:
                    yield from _row(name, texts.line(group, name), 20)
    yield f"\nThe keys of an option: python src/{command}.py --help {group}={begin}"


def _option(group: str, option: str) -> Iterator[str]:
    """Yield the lines of an option's page."""
    yield f"{group}={option}"
    yield from _paragraph(f"{texts.line(group, option)} {texts.details(group, option)}")
    yield from (f"  {paper}" for paper in texts.papers(group, option))
    if chosen := texts.choices(group, option):
        yield "\nIt chooses and sets:"
        yield from _paragraph("  ".join(text.replace(" ", "\0") for text in chosen))
    if lines := list(relations(group, option)):
        yield "\nWhat it goes with:"
        for line in lines:
            yield from _paragraph(line)
    own, every = texts.own_keys(group, option), texts.keys(group, option)
    keys = [key for key in dict.fromkeys([*own, *every.values()]) if not texts.wired(key)]
    if free := [key for key in keys if not key.follows]:
        first = next((key for key in free if not any(other.name.startswith(f"{key.name}.") for other in keys)), free[0])
        yield f"\nKeys, to be typed as {group}.{first.name}={first.shown}, with their defaults:"
        yield from _keys(free)
    if others := [key for key in keys if key.follows]:
        yield "\nKeys that follow from other keys if they are not typed:"
        yield from _keys(others)
    if inner := texts.made_of(group, option):
        yield "\nKeys of the options that it is made of:"
        yield from _table((f"{group}.{place}.KEY", f"the keys of {group}={name}") for place, name in inner.items())
    if names := texts.presets(group, option):
        yield "\nPresets, which are this option with other settings:"
        for name in names:
            yield from _row(name, texts.line(group, name), 22)
            yield from _row("", "  ".join(texts.settings_of(group, name)), 22)


def _key(command: str, name: str, roots: Iterable[str]) -> Iterator[str]:
    """Yield what a key of a group means, and its default in each option that has it."""
    group, _, key = name.partition(".")
    found: dict[str, dict[str, list[str]]] = {}
    if key and group in groups_of(command):
        for option in options(group):
            if not texts.is_preset(group, option) and key in texts.keys(group, option):
                _, default, text = texts.keys(group, option)[key]
                found.setdefault(text, {}).setdefault(default, []).append(option)
    if not found:
        names = [f"{group}.{key}" for option in options(group) for key in texts.keys(group, option)] if key else []
        near = nearest(name, [*groups_of(command), *roots, *names])
        raise UserError(f"{name}: no such group or key of {command}{near or f'; see python src/{command}.py --help'}")
    for text, defaults_of in found.items():
        yield from wrap(f"{name}: {text}", WIDTH)
        for default, having in defaults_of.items():
            yield from _paragraph(f"{texts.short(default)} by default with {group}={', '.join(having)}")


def _keys(keys: Iterable[Key]) -> Iterator[str]:
    """Yield keys in columns: name, default and text."""
    found = list(keys)
    names, values = (
        max(len(text) for text in column) for column in zip(*((k.name, k.shown) for k in found), strict=True)
    )
    for key in found:
        yield from _row(f"{key.name:<{names}}  {key.shown}", key.text, names + 2 + min(values, 20))


def _row(name: str, text: str, width: int, margin: int = 2) -> Iterator[str]:
    """Yield the lines of a row: a name, and a text that goes on below itself."""
    lines = wrap(text, WIDTH - width - margin - 2) or [""]
    if len(name) > width:
        yield f"{' ' * margin}{name}"
    else:
        yield f"{' ' * margin}{name:<{width}}  {lines.pop(0)}".rstrip()
    yield from (f"{' ' * (margin + width + 2)}{line}" for line in lines)


def _table(rows: Iterable[tuple[str, str]], margin: int = 2) -> Iterator[str]:
    """Yield rows whose texts begin in one column, which few long names do not move."""
    found = list(rows)
    width = max([len(name) for name, _ in found if len(name) <= 40], default=20)
    for name, text in found:
        yield from _row(name, text, width, margin)


def _paragraph(text: str) -> Iterator[str]:
    """Yield the lines of an indented text, whose null characters are spaces that no line is broken at."""
    yield from (
        f"  {line}".replace("\0", " ") for line in wrap(text, WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    )
