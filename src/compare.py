"""Compare runs and sweeps, with intervals and verdicts: ``python src/compare.py --help``."""

from diffsweep.runs.cli import main

if __name__ == "__main__":
    main("compare")
