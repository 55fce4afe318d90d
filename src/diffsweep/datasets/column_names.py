"""Find the columns of images, labels and captions of a table by what is declared, by type, and by usual names."""

from collections.abc import Sequence

from diffsweep.datasets.tables import Columns

IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp", "pixels", "picture", "photo")
LABELS = ("label", "labels", "class", "cls", "class_id", "category", "fine_label", "target", "y")
CAPTIONS = ("caption", "captions", "text", "txt", "prompt", "description", "sentence")


def likeliest(
    images: Sequence[str],
    labels: Sequence[str],
    texts: Sequence[str],
    declared_images: Sequence[str] = (),
    declared_labels: Sequence[str] = (),
) -> Columns:
    """Return the columns that can hold images, labels and captions, each list with the likeliest first.

    Images and labels that the data declare come first, then those with a usual name. Any other column of bytes may hold
    images, but no other column is taken for labels or captions.

    Args:
        images: columns whose type can hold encoded images.
        labels: columns whose type can hold labels: integers, truth values or texts.
        texts: columns of texts.
        declared_images, declared_labels: columns that the data declare to be images or classes.
    """
    by_name = {name.lower(): name for name in [*images, *labels, *texts]}

    def usual(names: Sequence[str], among: Sequence[str]) -> list[str]:
        return [by_name[name] for name in names if by_name.get(name) in among]

    return Columns(
        images=_distinct([*declared_images, *usual(IMAGES, images), *images]),
        labels=_distinct([*declared_labels, *usual(LABELS, labels)]),
        captions=_distinct(usual(CAPTIONS, texts)),
    )


def _distinct(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))
