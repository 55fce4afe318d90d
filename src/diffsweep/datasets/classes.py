"""Check the settings of classes of a dataset of image files against each other and against the files."""

from collections.abc import Sequence

from diffsweep.datasets.tables import ImageTable
from diffsweep.files import ContentError


def check_classes(
    table: ImageTable, label_column: str | None, num_classes: int | None, class_names: Sequence[str] | None
) -> None:
    """Raise an error unless the settings of classes agree with each other and with the names that a table stores.

    Args:
        table: the table.
        label_column: the column of labels; None for none.
        num_classes: the number of classes; None without labels.
        class_names: the names of the classes; None for no names.

    Raises:
        ValueError: the settings disagree with each other.
        ContentError: they disagree with the names that are stored.
    """
    if label_column is None:
        if num_classes is not None or class_names is not None:
            found = table.columns().labels
            name = f", such as {found[0]}" if found else ""
            raise ValueError(
                "dataset.label_column=none has no classes: set dataset.num_classes=null, dataset.class_names=null"
                f", or dataset.label_column= to a column of labels{name}"
            )
        return
    names = table.class_names(label_column)
    stored = "" if names is None else f"; {table.place} has {len(names)}: {', '.join(names)}"
    if num_classes is None or num_classes < 1:
        given = "null" if num_classes is None else num_classes
        raise ValueError(f"dataset.num_classes={given} is not the number of classes{stored}")
    if names is not None and len(names) != num_classes:
        raise ContentError(f"dataset.num_classes={num_classes} is not the number of classes{stored}")
    if class_names is not None:
        if names is not None and list(class_names) != names:
            raise ContentError(f"dataset.class_names=[{', '.join(class_names)}] are not those of the file{stored}")
        if len(class_names) != num_classes:
            raise ValueError(f"dataset.class_names has {len(class_names)} names for {num_classes} classes")
