"""Show what a model will be trained on, before it is trained: ``python src/preview.py --help`` lists what it takes."""

from diffsweep.runs.cli import main

if __name__ == "__main__":
    main("preview")
