"""A run's life: compose, check, train, resume, load, sample, evaluate, report. Import its modules, not this package:
the command line starts before torch is imported."""
