"""Engines, which run a trained network one symbol at a time.

Every engine is a function of (weights, state, u): given the same uniform numbers, all of them sample the same symbols,
except for rounding at a border between two symbols.
"""

from charrnn.engines.base import NO_SYMBOL, Engine, EngineState
from charrnn.engines.factory import ENGINES, arrays, engine

__all__ = ["ENGINES", "NO_SYMBOL", "Engine", "EngineState", "arrays", "engine"]
