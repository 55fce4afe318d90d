"""Check a schedule, prediction and sampler against closed forms before training: ``python src/verify.py --help``."""

from diffsweep.runs.cli import main

if __name__ == "__main__":
    main("verify")
