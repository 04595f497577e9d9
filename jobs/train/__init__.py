"""Trains the bundled reference models: `python -m jobs.train --help`."""
