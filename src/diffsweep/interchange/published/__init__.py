"""Published weights in the forms of their authors' codes, read into the networks of diffsweep by maps of keys."""

from diffsweep.interchange.published.base import Form, names_of
from diffsweep.interchange.published.files import read
from diffsweep.interchange.published.loading import FORMS, LoadedWeights, load

__all__ = ["FORMS", "Form", "LoadedWeights", "load", "names_of", "read"]
