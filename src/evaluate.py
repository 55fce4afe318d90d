"""Measure a finished run, by samples or likelihood: ``python src/evaluate.py --help``."""

from diffsweep.runs.cli import main

if __name__ == "__main__":
    main("evaluate")
