"""Pictures, reports and films of runs; imports no torch."""
