"""The parts of ``benchmark.py``: ratios of times, such as that of a training step to a bare PyTorch loop's."""
