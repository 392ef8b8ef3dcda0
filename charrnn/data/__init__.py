"""Recordings and texts as symbols: vocabulary, corpus on disk, batches, and the bits of other coders."""
