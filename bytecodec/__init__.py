"""Sound and bytes to text and back."""

__version__ = "0.1.0"
