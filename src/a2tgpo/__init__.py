"""A²TGPO: turn-level credit and adaptive turn-level clipping for language agents."""

__version__ = "0.1.0"
