"""The pictures of a task's samples, in pages that show all of them, with labels."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from diffsweep import pictures
from diffsweep.guidance import guidances_of
from diffsweep.models import DiffusionModel
from diffsweep.progress import tracked
from diffsweep.tasks.drawing import Drawn
from diffsweep.tasks.sampling import Job

ACROSS = 10  # images in a row of a grid, and rows in a page, at most
ROWS = 12  # rows of a page at most, where several rows belong together


def sampling_of(model: DiffusionModel) -> str:
    """Return in words how a model samples: ``by DDIM in 20 steps``, and any guidance with its scale."""
    guidances = guidances_of(model.guided(model.sampler))
    words = [f"by {type(model.sampler).__name__} in {model.sampler.steps} steps"]
    return ", ".join([*words, *(each.described for each in guidances)])


def show_first(model: DiffusionModel, drawn: Drawn, path: Path) -> list[Path]:
    """Save a grid of samples, each below its class or caption, and return the files.

    The grid has no title, so that ``compare.py`` can cut whole samples out of it.

    Args:
        model: the model that drew the samples.
        drawn: the samples.
        path: the file without its suffix.
    """
    draw = partial(pictures.grid, labels=model.conditioning.described(drawn.request))
    return pictures.save_shown(draw, [drawn.x], path)


def show_grid(job: Job, x: Tensor, labels: Sequence[str], name: str, title: str, fps: float = 8.0) -> str:
    """Save grids of all samples, at most 100 a page, each sample below its label.

    Args:
        job: the task's job, of which the folder and the largest number of pages matter.
        x: images (N, C, H, W) or clips (N, C, F, H, W).
        labels: a text for each sample; empty for none.
        name: the name of the files without a suffix: see :func:`~diffsweep.pictures.pages`.
        title: a text above each grid.
        fps: frames a second of clips.

    Returns:
        A text about the pages that goes on after the number of samples: empty for one page that shows all.
    """
    columns = pictures.columns_of(x, ACROSS)
    pages = pictures.pages(len(x), columns**2, job.folder / name, job.pages)
    for page in tracked_pages(pages):
        width = columns if len(x) > columns**2 else None
        draw = partial(pictures.grid, columns=width, labels=labels[page.part], title=titled(title, page))
        pictures.save_shown(draw, [x[page.part]], page.path, fps)
    return pages_in_words(pages, len(x))


def show_rows(
    job: Job,
    sets: Sequence[tuple[str, Tensor, Sequence[str]]],
    name: str,
    title: str,
    fps: float = 8.0,
) -> str:
    """Save pictures of all samples of several sets, such as originals and results, one row for each set.

    A page has at most twelve rows.

    Args:
        job: the task's job, of which the folder and the largest number of pages matter.
        sets: for each set what its rows show, such as ``original``; images (N, C, H, W) or clips (N, C, F, H, W), with
            the same N in all sets; and their labels, one text for each, or none.
        name: the name of the files without a suffix: see :func:`~diffsweep.pictures.pages`.
        title: a text above each picture.
        fps: frames a second of clips.

    Returns:
        A text about the pages that goes on after the number of samples: empty for one page that shows all.
    """
    names, images, labels = zip(*sets, strict=True)
    columns, count = pictures.columns_of(images[0]), len(images[0])
    blocks = max(1, pictures.columns_of(images[0], ROWS) // len(sets))
    pages = pictures.pages(count, columns * blocks, job.folder / name, job.pages)
    for page in tracked_pages(pages):
        parts = [texts[page.part] for texts in labels]
        draw = partial(pictures.rows, names=names, labels=parts, title=titled(title, page))
        pictures.save_shown(draw, [each[page.part] for each in images], page.path, fps)
    return pages_in_words(pages, count)


def percentages(name: str, shares: Mapping[str, Tensor] | None) -> str:
    """Return a line of text of the shares of samples that have something, in percent: ``NAME: colour 98.4 %, ...``.

    Args:
        name: how the line begins, after a line break.
        shares: for each thing whether a sample has it, bool, (N,); None or empty for an empty text.
    """
    if not shares:
        return ""
    parts = [f"{key.replace('_', ' ')} {100 * float(each.float().mean()):.1f} %" for key, each in shares.items()]
    return f"\n{name}: {', '.join(parts)}"


def show_restored(job: Job, drawn: Drawn) -> str:
    """Save ``restored.png`` with restored images between what the network read and the originals, and the difference.

    Args:
        job: the task's job.
        drawn: restored images, whose request has the ``image`` that the network read, and the original ones as
            ``clean`` if these are known; the last two rows are of them.

    Returns:
        A text about the pages: see :func:`show_rows`.
    """
    request, channels = drawn.request, drawn.x.shape[1]
    words = job.model.conditioning.described(request)
    sets: list[tuple[str, Tensor, Sequence[str]]] = [
        ("given", request["image"][:, :channels].cpu(), words),
        ("restored", drawn.x, ()),
    ]
    if "clean" in request:
        clean = request["clean"].cpu()
        sets += [("original", clean, ()), ("difference", (drawn.x - clean) / 2, ())]
    return show_rows(job, sets, "restored", f"images restored {sampling_of(job.model)}")


def show_controlled(job: Job, drawn: Drawn) -> str:
    """Save ``controlled.png`` with samples below the control images that they were drawn for.

    Args:
        job: the task's job.
        drawn: samples of a model with control networks; their request may have ``clean``, the images from which the
            control images were made, for a last row.

    Returns:
        A text about the pages: see :func:`show_rows`.
    """
    request, words = drawn.request, job.model.conditioning.described(drawn.request)
    control = job.model.control_pictures(request)
    names = ["control"] if len(control) == 1 else [f"control {number}" for number in range(1, len(control) + 1)]
    sets: list[tuple[str, Tensor, Sequence[str]]] = [(*pair, ()) for pair in zip(names, control, strict=True)]
    sets = [(*sets[0][:2], words), *sets[1:], ("sample", drawn.x, ())]
    if "clean" in request:
        sets.append(("original", request["clean"].cpu(), ()))
    return show_rows(job, sets, "controlled", f"samples {sampling_of(job.model)}")


def tracked_pages(pages: Sequence[pictures.Page]) -> Iterable[pictures.Page]:
    """Yield pages, and show the progress of drawing them if they are several."""
    return tracked(pages, "drawing pictures", "page") if len(pages) > 1 else pages


def titled(title: str, page: pictures.Page) -> str:
    """Return the title of a page: that of the pictures, and which samples the page shows if it is one of several."""
    return f"{title}: {page.words}" if page.words else title


def pages_in_words(pages: Sequence[pictures.Page], count: int) -> str:
    """Return in words in how many pages ``count`` samples are shown; an empty text if one page shows all of them."""
    shown = pages[-1].part.stop
    many = f"{len(pages)} pages" if len(pages) > 1 else "1 page"
    if shown < count:
        return f", the first {shown} shown in {many}; pages=null shows all"
    return f", shown in {many}" if len(pages) > 1 else ""
