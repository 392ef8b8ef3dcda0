"""Files: the run directory, checkpoints, and other programs' formats."""
