"""Mofang, the cube: one platform that matches, runs and keeps alive training on mixed AI compute."""

__version__ = "0.1.0"

__all__ = ["__version__"]
