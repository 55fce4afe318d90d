"""diffsweep: an experiment framework for diffusion models on Lightning and Hydra."""

__version__ = "0.1.0"
