"""Prove a schedule, a prediction and a sampler before training them: ``python src/verify.py --help``."""

from diffsweep.runs.cli import main

if __name__ == "__main__":
    main("verify")
