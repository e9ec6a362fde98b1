"""Diffusion models that turn uniform noise in a periodic box into self-assembled particles."""

__version__ = "0.1.0"
