"""Report whether this machine can run diffsweep: ``python src/doctor.py --help``."""

from diffsweep.runs.cli import main

if __name__ == "__main__":
    main("doctor")
