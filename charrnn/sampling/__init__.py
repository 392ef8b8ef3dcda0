"""Symbols from an engine, segments joined without seams, and where they are written or played."""
