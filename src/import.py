"""Make a run of published weights, to sample, evaluate and finetune: ``python src/import.py --help``."""

from diffsweep.runs.cli import main

if __name__ == "__main__":
    main("import")
