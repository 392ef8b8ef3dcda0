"""Engines, which run a trained network one symbol at a time.

What an engine samples depends only on weights, state, temperature and uniform numbers u. In fp32 all engines sample the
same symbols, except for rounding at a border between two symbols.
"""

from charrnn.engines.base import NO_SYMBOL, Engine, EngineState
from charrnn.engines.factory import ENGINES, arrays, engine

__all__ = ["ENGINES", "NO_SYMBOL", "Engine", "EngineState", "arrays", "engine"]
