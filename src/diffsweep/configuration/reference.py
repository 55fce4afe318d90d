"""Write conf/README.md, the reference of all groups, options and keys.

Run it with ``python -m diffsweep.configuration.reference``.
"""

import re
from collections.abc import Iterable, Iterator

from diffsweep.configuration import texts
from diffsweep.configuration.conf import CONF, about, defaults, options
from diffsweep.configuration.declarations import relations, requirements
from diffsweep.configuration.help import COMMANDS, DERIVED, about_command, command_keys
from diffsweep.configuration.resuming import TABLE
from diffsweep.configuration.texts import Key

REFERENCE = CONF / "README.md"
COMMAND = "make reference"
FEW = 3  # keys that two options may have in common before the second one refers to the first
VALUE = r"(?:\[[^\]]*\]|\$\{[^}]*\}|[^\s,;:()\[\]]*[^\s,;:().\[\]])"
TYPED = rf"(?<![\w`.$])(?:[a-z_]+[\w.]*={VALUE}|\$\{{[^}}]*\}}|_\w+_(?!\w))"  # what a user types, in a text
TOP = f"""# The options and keys of diffsweep

This page is written by `{COMMAND}` from the comments of the files beside it. Change those, not this page.

A **group** is a folder, an **option** is a file in it, and a **key** is a line of the file. On the command line

```bash
python src/train.py model=edm sampler=heun sampler.steps=30 seed=1
```

chooses the options `model=edm` and `sampler=heun` of two groups, and gives values to two keys. Each group names an
option to begin with. `python src/train.py --help sampler` and `--help sampler=heun` print the same texts as this page.
A default such as `space.channels` is the value of that key, which holds unless another one is typed.
"""


def reference() -> str:
    """Return the text of conf/README.md, in Markdown: all groups, options and keys of conf/ with their meanings."""
    parts = [TOP, *_contents(), *_commands()]
    for group in about():
        parts += _group(group)
    parts += ["## What a resumed run takes over\n", *_resumed()]
    parts += ["## What goes only with what\n", *(f"- {_text(line)}" for line in requirements())]
    return "\n".join(parts) + "\n"


def _contents() -> Iterator[str]:
    """Yield the list of contents."""
    yield "## Contents\n"
    yield "- [Commands and their keys](#commands-and-their-keys)"
    yield "- [What a resumed run takes over](#what-a-resumed-run-takes-over)"
    yield "- [What goes only with what](#what-goes-only-with-what)"
    yield "- The groups, in the order in which one meets them:\n"
    yield from _rows(("group", "what it decides", "default", "begin with"), _group_rows())


def _group_rows() -> Iterator[tuple[str, ...]]:
    chosen = defaults("benchmark") | defaults("train") | defaults("sample")
    for group, (decides, begin) in about().items():
        yield f"[`{group}`](#{group})", _text(decides), f"`{chosen[group]}`" if chosen[group] else "none", f"`{begin}`"


def _commands() -> Iterator[str]:
    """Yield the section of the commands."""
    yield "## Commands and their keys\n"
    common = command_keys("base")
    for command in COMMANDS:
        header, _ = about_command(command)
        yield f"### {command}\n\n`python src/{command}.py`: {_text(' '.join(header))}\n"
        yield from _keys("", [key for key in command_keys(command) if key not in common])
    yield "### Keys of every command\n"
    yield from _keys("", [key for key in common if key.name.partition(".")[0] not in DERIVED])
    for name in DERIVED:
        first, *rest = [key for key in common if key.name.partition(".")[0] == name]
        yield f"`{name}` has the {_text(first.text)}.\n"
        yield from _keys("", rest)


def _resumed() -> Iterator[str]:
    """Yield the table of what a change does that is typed beside ``resume=RUN``."""
    yield (
        "A key that is typed beside `resume=RUN` takes effect from the step at which the run goes on, or it is refused "
        "by name. The first row that fits a key decides. The run keeps its changes in `changes.jsonl`.\n"
    )
    rows = ((", ".join(f"`{key}`" for key in row.keys), row.effect.value, _text(row.because)) for row in TABLE)
    yield from _rows(("keys", "a change", "how, or why not"), rows)


def _group(group: str) -> Iterator[str]:
    """Yield the section of a group."""
    decides, begin = about()[group]
    default = (defaults("benchmark") | defaults("train") | defaults("sample"))[group]
    yield f"## {group}\n\n{_text(decides)}\n"
    chosen = f"The default is `{default}`" if default else "By default none is chosen"
    yield f"{chosen}; begin with {_linked(group, begin)}.\n"
    shown = [option for option in options(group) if not texts.is_preset(group, option)]
    yield from _rows(("option", "what it is"), ((_linked(group, o), _text(texts.line(group, o))) for o in shown))
    for name in texts.shared(group):
        yield f"### {_title(group, name)}\n"
        yield from _own(group, name)
    for option in shown:
        if _has_section(group, option):
            yield from _option(group, option)


def _option(group: str, option: str) -> Iterator[str]:
    """Yield the section of an option."""
    description = f"{texts.line(group, option)} {texts.details(group, option)}".strip()
    yield f"### {group}={option}\n\n{_text(description)}\n"
    if chosen := texts.choices(group, option):
        yield f"It chooses and sets {_typed(chosen)}.\n"
    if sentences := list(relations(group, option)):
        yield "\n".join(f"- {_text(sentence)}" for sentence in sentences) + "\n"
    yield from _own(group, option)
    if names := texts.presets(group, option):
        yield "Presets, which are this option with other settings:\n"
        rows = (
            (f"`{name}`", _text(texts.line(group, name)), f"`{' '.join(texts.settings_of(group, name))}`")
            for name in names
        )
        yield from _rows(("preset", "what it is", "settings"), rows)


def _own(group: str, name: str) -> Iterator[str]:
    """Yield the keys of a file, and where those are that it starts from."""
    own = [key for key in texts.own_keys(group, name) if not texts.wired(key)]
    other = _most_alike(group, name, own)
    same = [key for key in own if other and key in texts.own_keys(group, other)]
    yield from _keys(group, [key for key in own if key not in same])
    if same:
        yield f"Its keys {_typed(key.name for key in same)} are those of {_linked(group, other)}.\n"
    if wired := [f"`{key.name}`" for key in texts.own_keys(group, name) if texts.wired(key)]:
        yield f"It takes {', '.join(wired)} from the groups of these names.\n"
    starts = [start for start in texts.starts(group, name) if texts.keys(group, start)]
    if starts:
        changed = [f"{key.name}={key.shown}" for key in texts.changed_keys(group, name)]
        links = " and ".join(f"[{_title(group, start)}](#{_anchor(_title(group, start))})" for start in starts)
        yield f"It also has the keys under {links}{f', with {_typed(changed)}' if changed else ''}.\n"
    for place, inner in texts.made_of(group, name).items():
        yield f"`{group}.{place}` has the keys of {_linked(group, inner)}.\n"


def _most_alike(group: str, option: str, own: list[Key]) -> str:
    """Return the first option before this one that has most of its keys, with the same defaults; empty if few are."""
    before = [name for name in options(group) if name < option and not texts.is_preset(group, name)]
    counts = {name: len([key for key in own if key in texts.own_keys(group, name)]) for name in before}
    best = max(counts, key=lambda name: counts[name], default="")
    return best if best and counts[best] > FEW else ""


def _has_section(group: str, option: str) -> bool:
    """Return whether more is to be written of an option than its line."""
    return bool(
        texts.own_keys(group, option)
        or texts.changed_keys(group, option)
        or texts.choices(group, option)
        or texts.made_of(group, option)
        or texts.presets(group, option)
        or texts.details(group, option)
        or list(relations(group, option))
    )


def _title(group: str, name: str) -> str:
    """Return the heading of a file: of one that options share, its first comment."""
    return texts.line(group, name).removesuffix(".") if name in texts.shared(group) else f"{group}={name}"


def _linked(group: str, option: str) -> str:
    """Return an option with a link to its section, if it has one."""
    target = texts.family_of(group, option)
    link = f"{group}={target}"
    return f"[`{option}`](#{_anchor(link)})" if _has_section(group, target) else f"`{option}`"


def _anchor(heading: str) -> str:
    """Return the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _keys(group: str, keys: Iterable[Key]) -> Iterator[str]:
    """Yield a table of keys; nothing if it would be empty."""
    prefix = f"{group}." if group else ""
    found = [(f"`{prefix}{key.name}`", f"`{key.shown}`" if key.default else "", _text(key.text)) for key in keys]
    if found:
        yield from _rows(("key", "default", "meaning"), found)


def _rows(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Yield a table, and an empty line behind it."""
    lines = [head, tuple("---" for _ in head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    yield "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _typed(settings: Iterable[str]) -> str:
    """Return what a user types, each in a code span."""
    return ", ".join(f"`{setting}`" for setting in settings)


def _text(text: str) -> str:
    """Return a text with links to papers, and with what a user types in code spans."""
    for group in about():
        option = rf"(?:{'|'.join(sorted(options(group), key=len, reverse=True))})\b(?![.=]\w)"
        text = re.sub(rf"(?<![\w`.]){group}={option}(?:, {option})+", lambda many: _typed(many[0].split(", ")), text)
    text = re.sub(TYPED, r"`\g<0>`", text).replace("<", "&lt;").replace("*", "\\*")
    return re.sub(r"arXiv:([\d.]*\d)", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


if __name__ == "__main__":
    REFERENCE.write_text(reference(), encoding="utf-8")
    print(f"wrote {REFERENCE}")
