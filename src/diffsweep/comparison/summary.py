"""Summaries of sweeps and comparisons: the text that is printed, and files: summary.md, .csv, .html and .png."""

import importlib.util
import io
import shlex
from pathlib import Path

from diffsweep import shell
from diffsweep.comparison import tables
from diffsweep.comparison.figures import summary_figure
from diffsweep.comparison.page import as_html
from diffsweep.comparison.records import read, read_manifest
from diffsweep.comparison.variants import Comparison
from diffsweep.errors import UserError
from diffsweep.files import write_atomically, write_text

NAME = "summary"
MOST_VERDICTS = 12  # that are printed


def summarise(folder: Path) -> str:
    """Summarise a sweep into its folder, as :func:`write` does, and return the text to print.

    The jobs that have finished are compared. If none has a number yet, the text is the reason.
    """
    try:
        comparison = Comparison(read([folder]))
    except UserError as error:
        return f"  no summary: {error}"
    return write(comparison, folder, folder.name, command_of(folder))


def write(comparison: Comparison, folder: Path, title: str, command: str | None = None) -> str:
    """Write ``summary.md``, ``.csv`` and ``.html`` into a folder, and ``summary.png`` if matplotlib is installed.

    Args:
        comparison: what is summarised.
        folder: it is created.
        title: the heading of ``summary.md`` and ``summary.html``.
        command: that made the runs, or the comparison; shown below the title.

    Returns:
        The text to print: the table by what varied, conclusions, and the paths of the files.
    """
    files = [folder / f"{NAME}.md", folder / f"{NAME}.csv", folder / f"{NAME}.html"]
    write_text(files[1], tables.as_csv(comparison))
    drawn = importlib.util.find_spec("matplotlib") is not None
    if drawn:
        buffer = io.BytesIO()
        summary_figure(comparison).savefig(buffer, dpi=110, format="png")
        files.append(folder / f"{NAME}.png")
        write_atomically(files[-1], lambda file: file.write(buffer.getvalue()))
    write_text(files[2], as_html(comparison, title, command))
    write_text(files[0], as_markdown(comparison, title, command, drawn))
    return f"{as_text(comparison)}\n\n" + "\n".join(f"  {shell.shown(path)}" for path in files)


def as_text(comparison: Comparison) -> str:
    """Return a comparison as lines for a terminal: the table by what varied, conclusions, and runs without numbers."""
    parts = [f"{tables.heading(comparison)}\n", tables.aligned(*tables.by_variant(comparison)), ""]
    lines = tables.conclusions(comparison)
    hidden = len(comparison.effects) - MOST_VERDICTS
    if hidden > 0:  # the best variant and what follows are printed all the same
        lines[MOST_VERDICTS : len(comparison.effects)] = [f"and {hidden} more verdicts, which {NAME}.md has"]
    parts += [f"  {line}" for line in lines]
    parts += [f"  {tables.how(comparison)}"]
    parts += [f"  {line}" for line in tables.troubles(comparison.records, comparison.metric)]
    return "\n".join(parts)


def as_markdown(comparison: Comparison, title: str, command: str | None = None, picture: bool = True) -> str:
    """Return a comparison as markdown.

    Args:
        comparison: what is shown.
        title: the heading.
        command: that made the runs; None to leave it out.
        picture: whether ``summary.png`` is beside the file.
    """
    parts = [f"# {title}", tables.heading(comparison) + "."]
    if command is not None:
        parts.append(f"    {command}")
    parts.append(tables.markdown(*tables.by_variant(comparison)))
    parts.append("\n".join(f"- {line}" for line in tables.conclusions(comparison)))
    parts.append(tables.how(comparison))
    if picture:
        parts.append(f"![curves and samples]({NAME}.png)")
    if lines := tables.troubles(comparison.records, comparison.metric):
        parts += ["## Runs without numbers", "\n".join(f"- {line}" for line in lines)]
    if len(comparison.records) <= tables.MOST_RUNS:
        parts += ["## Runs", tables.markdown(*tables.by_run(comparison))]
    return "\n\n".join(parts) + "\n"


def command_of(folder: Path) -> str | None:
    """Return the command line that made a sweep; None without a manifest."""
    manifest = read_manifest(folder)
    if manifest is None or not isinstance(manifest.get("words"), list):
        return None
    return shlex.join(["python", f"src/{manifest.get('command')}.py", "-m", *map(str, manifest["words"])])
