"""Sampling from a network, joining segments, and writing or playing the result."""
