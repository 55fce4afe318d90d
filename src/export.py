"""Write a trained model in the format of another program: ``python src/export.py --help``."""

from diffsweep.runs.cli import main

if __name__ == "__main__":
    main("export")
