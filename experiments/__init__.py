"""Programs that run from a clone: `python -m experiments.NAME --help`."""
