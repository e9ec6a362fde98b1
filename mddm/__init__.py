"""Diffusion models that turn uniform noise in a periodic box into self-assembled particles."""

__version__ = "0.1.0"
__all__ = ["load", "models"]


def __getattr__(name: str):
    # PyTorch is loaded by those who draw, not by all who ask for the version.
    if name in __all__:
        from mddm import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
