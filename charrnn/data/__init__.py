"""Recordings and texts as symbols: vocabulary, corpus on disk, batches, and what other coders need for them."""
