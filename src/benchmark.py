"""Time diffsweep beside bare PyTorch: ``python src/benchmark.py --help``."""

from diffsweep.runs.cli import main

if __name__ == "__main__":
    main("benchmark")
