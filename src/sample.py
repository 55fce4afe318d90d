"""Draw samples from a finished run: ``python src/sample.py --help``."""

from diffsweep.runs.cli import main

if __name__ == "__main__":
    main("sample")
