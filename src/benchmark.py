"""Time training and sampling against bare PyTorch loops: ``python src/benchmark.py --help``."""

from diffsweep.runs.cli import main

if __name__ == "__main__":
    main("benchmark")
