"""Container formats: the recordings in a file, their extent, and the repair of damaged headers."""
