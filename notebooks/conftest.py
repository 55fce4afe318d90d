"""Notebooks that are executed side by side use one thread each; with more they wait for each other."""

import os


def pytest_configure(config):
    """Set the threads of the notebooks' kernels, which inherit the environment, unless it has them already."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
