"""Pictures of images and clips: grids, rows and strips with labels, written as PNG, GIF and MP4."""

from diffsweep.pictures.pixels import load_npz, to_uint8
from diffsweep.pictures.saving import SHOWN, Page, listed, pages, picture_name, save_gif, save_mp4, save_png, save_shown
from diffsweep.pictures.sheets import MIN_SIDE, Row, beside, columns_of, grid, rows, sheet, strips

__all__ = [
    "MIN_SIDE",
    "SHOWN",
    "Page",
    "Row",
    "beside",
    "columns_of",
    "grid",
    "listed",
    "load_npz",
    "pages",
    "picture_name",
    "rows",
    "save_gif",
    "save_mp4",
    "save_png",
    "save_shown",
    "sheet",
    "strips",
    "to_uint8",
]
