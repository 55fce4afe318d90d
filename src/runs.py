"""List runs and sweeps, and delete those of no use: ``python src/runs.py --help``."""

from diffsweep.runs.cli import main

if __name__ == "__main__":
    main("runs")
