"""Arguments of public functions: one place where they are normalised, or refused with words.

Numbers may be Python's, NumPy's or tensors of no dimension; arrays may be tensors, NumPy's or
lists.  Each function takes the argument's name and its value, and returns the value as the rest
of the package knows it: int, float, `torch.device` or a tensor of floating-point numbers.  In a
program that PyTorch compiles numbers are taken as they come.
"""

import math
import os
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mddm.spelling import did_you_mean


def number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> float:
    """Take one real number.

    Args:
        name: the argument's.
        value: what came.
        above, at_least, below, at_most: where it must lie.  It must be finite too, unless it
            equals an infinite `at_most`.

    Raises:
        TypeError: no number.
        ValueError: several numbers, or one that lies elsewhere.
    """
    if torch.compiler.is_compiling():
        return value
    found = float(_scalar(name, value))
    infinite = at_most is not None and math.isinf(at_most)
    fits = found < math.inf or (infinite and found == at_most)
    if not (fits and found > -math.inf and _lies(found, above, at_least, below, at_most)):
        kind = "a number" if infinite else "a finite number"
        _refuse(name, kind + _where(above, at_least, below, at_most), value)
    return found


def whole(name: str, value: Any, *, at_least: int | None = None, at_most: int | None = None) -> int:
    """Take one whole number, which may be written as a float.

    Args:
        name: the argument's.
        value: what came.
        at_least, at_most: where it must lie.

    Raises:
        TypeError: no number.
        ValueError: several numbers, a fraction, or one that lies elsewhere.
    """
    if torch.compiler.is_compiling():
        return value
    found = _scalar(name, value)
    is_whole = isinstance(found, int) or found.is_integer()
    if not (is_whole and _lies(found, None, at_least, None, at_most)):
        _refuse(name, "a whole number" + _where(None, at_least, None, at_most), value)
    return int(found)


def sizes(**values: Any) -> list[int]:
    """Take whole numbers above 0, by their names: of channels, layers and other parts.

    Raises:
        TypeError: no number.
        ValueError: several numbers, a fraction, or one below 1.
    """
    return [whole(name, value, at_least=1) for name, value in values.items()]


def seed(value: Any, name: str = "seed", *, bits: int = 63) -> int:
    """Take a seed.

    Args:
        value: what came.
        name: the argument's.
        bits: of the generator that it is for.

    Raises:
        TypeError: no number.
        ValueError: several numbers, a fraction, or one outside of [0, 2**bits).
    """
    found = whole(name, value, at_least=0)
    if found >= 2**bits:
        raise ValueError(f"{name} must be below 2**{bits}, got {found}")
    return found


def box(value: Any, name: str = "box_length", *, free: bool = False) -> float | None:
    """Take the edge of a periodic cube [length].

    Args:
        value: what came.
        name: the argument's.
        free: whether None, for free space, will do.

    Raises:
        TypeError: no number.
        ValueError: several edges, or one that is not positive and finite.
    """
    return None if free and value is None else number(name, value, above=0)


def cutoff(name: str, value: Any, box_length: float) -> float:
    """Take a distance up to which pairs count, below half the box edge [length].

    Raises:
        TypeError: no number.
        ValueError: several numbers, one that is not positive, or one that reaches half the box
            edge, beyond which minimum images are ambiguous.
    """
    found = float(_scalar(name, value))
    if not 0 < found < box_length / 2:
        _refuse(name, f"above 0 and below half the box edge ({box_length / 2})", value)
    return found


def device(value: Any, name: str = "device") -> torch.device:
    """Take a device that is there.

    Raises:
        TypeError: neither a `torch.device` nor its name.
        ValueError: an unknown device, or one that this machine lacks.
    """
    if not isinstance(value, str | torch.device):
        raise TypeError(f"{name} must be 'cpu', 'cuda' or a torch.device, got {_shown(value)}")
    try:
        found = torch.device(value)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"{name} must be one that this machine has, such as 'cpu', got {str(value)!r}"
        ) from error
    return found


def choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """Take one of several words.

    Raises:
        ValueError: none of them; the message says which one is near.
    """
    choices = list(choices)
    if not (isinstance(value, str) and value in choices):
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, choices))}, got {_shown(value)}"
            f"{did_you_mean(value, choices)}"
        )
    return str(value)


def instance(name: str, value: Any, kind: type | tuple[type, ...], remedy: str = "") -> Any:
    """Take an object of a class.

    Args:
        name: the argument's.
        value: what came.
        kind: the class, or several.
        remedy: what to do, where it is not plain.

    Raises:
        TypeError: another object.
    """
    if not isinstance(value, kind):
        end = f"; {remedy}" if remedy else ""
        raise TypeError(f"{name} must be a {_named(kind)}, got {_shown(value)}{end}")
    return value


def several(name: str, values: Any, kind: type | tuple[type, ...], remedy: str = "") -> list[Any]:
    """Take objects of a class, in any sequence.

    Args:
        name: the argument's.
        values: what came.
        kind, remedy: as for `instance`.

    Raises:
        TypeError: no sequence, or another object in it.
    """
    if not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence of {_named(kind)}, got {_shown(values)}")
    return [instance(f"each of {name}", value, kind, remedy) for value in values]


def path(value: Any, name: str = "path") -> Path:
    """Take the path of a file, which need not be there.

    Args:
        value: what came.
        name: the argument's.

    Raises:
        TypeError: no path.
        ValueError: an empty one.
    """
    found = instance(name, value, (str, os.PathLike))
    if not str(found):
        raise ValueError(f"{name} must name a file, got {found!r}")
    return Path(found)


def generator(value: Any, name: str = "generator") -> torch.Generator:
    """Take a source of randomness.

    Raises:
        TypeError: another object.
    """
    return instance(
        name, value, torch.Generator, "make one by torch.Generator(device).manual_seed(seed)"
    )


def tensor(
    name: str,
    value: Any,
    *shapes: tuple[int | str, ...],
    dtype: torch.dtype | None = None,
    finite: bool = True,
    above: float | None = None,
    at_least: float | None = None,
) -> Tensor:
    """Take an array of real numbers.

    Args:
        name: the argument's.
        value: a tensor, which keeps its device and its gradient, or what NumPy makes an array of.
        shapes: of which it must have one; a name stands for any length of at least 1, an
            ellipsis in front for any dimensions.  Any shape will do where none is given.
        dtype: what to return; by default what came, whole numbers becoming floats.
        finite: whether nan and infinity are refused.
        above, at_least: where all numbers must lie.  Neither this nor what is not finite is looked
            for on a GPU, which would have to be waited for, and in a compiled program.

    Raises:
        TypeError: no real numbers.
        ValueError: another shape, or numbers that are not finite or lie elsewhere.
    """
    found = value if isinstance(value, Tensor) else _from_array(name, value)
    if found.dtype == torch.bool or found.is_complex():
        raise TypeError(f"{name} must hold real numbers, got {found.dtype}")
    if dtype is not None or not found.is_floating_point():
        found = found.to(dtype or torch.get_default_dtype())
    _check_shape(name, found, shapes)
    if found.device.type == "cpu" and found.numel() and not torch.compiler.is_compiling():
        # One fast pass, whose results are nan where any number is.
        low, high = (end.item() for end in torch.aminmax(found.detach()))
        if finite and not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"{name} must be finite; some are nan or infinite")
        if (above is not None and low <= above) or (at_least is not None and low < at_least):
            bound = _where(above, at_least, None, None)
            raise ValueError(f"{name} must be numbers{bound}, got {low:.4g}")
    return found


def array(name: str, value: Any, *shapes: tuple[int | str, ...], **limits: Any) -> np.ndarray:
    """Take an array of real numbers as NumPy has it, in double precision.

    Args:
        name, value, shapes: as for `tensor`.
        limits: `finite`, `above` and `at_least`, as for `tensor`.

    Raises:
        TypeError, ValueError: as `tensor`.
    """
    return tensor(name, _plain(value), *shapes, dtype=torch.float64, **limits).numpy()


def typed(name: str, value: Any, dtype: torch.dtype, *shapes: tuple[int | str, ...]) -> Tensor:
    """Take a tensor of other entries than real numbers: indices, or what is true and what is not.

    Raises:
        TypeError: other entries, or no tensor.
        ValueError: another shape.
    """
    if not (isinstance(value, Tensor) and value.dtype == dtype):
        raise TypeError(f"{name} must be a tensor of {dtype}, got {_shown(value)}")
    _check_shape(name, value, shapes)
    return value


def broadcast(**tensors: Tensor) -> None:
    """Refuse tensors whose shapes do not broadcast against each other, by their names.

    Raises:
        ValueError: they do not.
    """
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    try:
        torch.broadcast_shapes(*shapes.values())
    except RuntimeError as error:
        shown = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"shapes must broadcast against each other, got {shown}") from error


def positions(
    value: Any,
    *shapes: tuple[int | str, ...],
    name: str = "positions",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Take positions [length]: any image of a particle will do, none is moved.

    Args:
        value: as for `tensor`.
        shapes: as for `tensor`; by default (batch, n_particles, 3).
        name: the argument's.
        dtype: what to return.

    Raises:
        TypeError, ValueError: as `tensor`.
    """
    return tensor(name, value, *(shapes or (("batch", "n_particles", 3),)), dtype=dtype)


def distances(value: Any, name: str = "r") -> Tensor:
    """Take distances of any shape [length]; those that are not numbers remain so.

    Raises:
        TypeError: no real numbers.
        ValueError: some are negative.
    """
    return tensor(name, value, finite=False, at_least=0)


def conditions(
    value: Any,
    batch: int | str = "batch",
    name: str = "conditions",
    n_numbers: int | str = "n_numbers",
) -> Tensor:
    """Take a batch of conditions.

    Args:
        value: as for `tensor`.
        batch: how many there must be.
        name: the argument's.
        n_numbers: how many numbers each must have.

    Raises:
        TypeError, ValueError: as `tensor`.
    """
    return tensor(name, value, (batch, n_numbers))


def sigma(value: Any, *shapes: tuple[int | str, ...], name: str = "sigma") -> Tensor:
    """Take noise levels above zero [length].

    Args:
        value: as for `tensor`.
        shapes: as for `tensor`.
        name: the argument's.

    Raises:
        TypeError, ValueError: as `tensor`; level 0 of a schedule is the data itself.
    """
    return tensor(name, value, *shapes, above=0)


def network(
    x_t: Any, sigmas: Any, box_length: Any, weight: Tensor
) -> tuple[Tensor, Tensor, float | None]:
    """Take what every denoiser is given besides a condition, in the precision of its weights.

    Args:
        x_t: (batch, n_particles, 3) noised positions [length].
        sigmas: (batch,) noise levels [length].
        box_length: edge of the periodic cube [length], or None for free space.
        weight: any weight of the network.

    Raises:
        TypeError, ValueError: an argument of another kind or shape, or out of its range.
    """
    x_t = positions(x_t, name="x_t", dtype=weight.dtype)
    sigmas = sigma(sigmas, (len(x_t),)).to(x_t)
    return x_t, sigmas, box(box_length, free=True)


def _scalar(name: str, value: Any) -> int | float:
    if type(value) is float or type(value) is int:
        return value
    try:
        found = np.asarray(_plain(value))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a number, got {_shown(value)}") from error
    if found.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be a number, got {_shown(value)}")
    if found.ndim:
        raise ValueError(f"{name} must be one number, got {_shown(value)}")
    return found.item()


def _from_array(name: str, value: Any) -> Tensor:
    try:
        found = np.asarray(_plain(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be an array of numbers, got {_shown(value)}") from error
    if found.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be an array of real numbers, got {_shown(value)}")
    kind = found.dtype if found.dtype in (np.float16, np.float32) else np.float64
    return torch.from_numpy(np.require(found, kind, ["C", "W"]))


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value


def _lies(found, above, at_least, below, at_most) -> bool:
    return (
        (above is None or found > above)
        and (at_least is None or found >= at_least)
        and (below is None or found < below)
        and (at_most is None or found <= at_most)
    )


def _where(above, at_least, below, at_most) -> str:
    bounds = {"above": above, "of at least": at_least, "below": below, "at most": at_most}
    said = [f"{word} {bound}" for word, bound in bounds.items() if bound not in (None, math.inf)]
    return f" {' and '.join(said)}" if said else ""


def _refuse(name: str, expected: str, value: Any) -> None:
    raise ValueError(f"{name} must be {expected}, got {_shown(value)}")


def _named(kind: type | tuple[type, ...]) -> str:
    return " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))


def _shown(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray) and value.ndim:
        return f"an array of shape {tuple(value.shape)}"
    if isinstance(value, Tensor | np.generic | np.ndarray):
        return repr(value.item())
    return reprlib.repr(value)


def _check_shape(name: str, found: Tensor, shapes: tuple) -> None:
    if shapes and not any(_fits(found.shape, shape) for shape in shapes):
        expected = " or ".join(map(_written, shapes))
        raise ValueError(f"{name} must have the shape {expected}, got {tuple(found.shape)}")


def _fits(found: tuple[int, ...], shape: tuple) -> bool:
    if shape[:1] == (...,):
        found, shape = found[len(found) - len(shape) + 1 :], shape[1:]
    return len(found) == len(shape) and all(
        length == wanted or (isinstance(wanted, str) and length > 0)
        for length, wanted in zip(found, shape, strict=True)
    )


def _written(shape: tuple) -> str:
    ends = "," if len(shape) == 1 else ""
    return f"({', '.join('...' if part is ... else str(part) for part in shape)}{ends})"
