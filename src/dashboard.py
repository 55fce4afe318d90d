"""Make a workspace of W&B for a sweep: ``python src/dashboard.py --help``."""

from diffsweep.runs.cli import main

if __name__ == "__main__":
    main("dashboard")
