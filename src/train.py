"""Train a model, sample it and measure it: ``python src/train.py --help``."""

from diffsweep.runs.cli import main

if __name__ == "__main__":
    main("train")
