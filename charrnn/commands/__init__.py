"""Console commands of charrnn: their flags and messages."""
