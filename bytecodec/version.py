"""Version of the project, which setup.cfg reads without importing anything."""

__version__ = "0.1.0"
