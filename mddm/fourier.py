"""Sums of exp(i q r) over the particles of a periodic box, and over waves that fit into it.

Added up one by one they take time as the number of particles times that of waves, which is the
square of the volume.  A non-uniform FFT takes time as the volume, and FINUFFT has one; it is used
for large systems where it is installed.
"""

import math
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mddm import arguments
from mddm.geometry import wrap

try:
    import finufft
except ModuleNotFoundError:
    finufft = None

# From so many particles on, and so many waves, the non-uniform FFT is the faster.
N_PARTICLES, _N_WAVES = 3000, 1000
# Its tolerance, and how much finer than the waves' its grid is: at a million particles one twice as
# fine would take 2 GiB.
_TOLERANCE, _FINER = 1e-4, 1.25
# Numbers that a sum holds at once.
_AT_ONCE = 2**19


def of_particles(positions: Tensor, n: int, box_length: float) -> Tensor:
    """Compute sum_j exp(i q r_j) for waves q = (x, y, z) 2 pi / L of whole numbers x, y and z.

    Args:
        positions: (batch, n_particles, 3) [length].
        n: the largest whole number.
        box_length: edge L of the periodic cube [length].

    Returns:
        (batch, 2 n + 1, 2 n + 1, n + 1) complex: x and y from -n to n, z from 0 to n.  With a
        non-uniform FFT the error is below a thousandth of sqrt(n_particles).

    Raises:
        TypeError, ValueError: an argument of another kind or shape, or out of its range.

    Source: Barnett, Magland and af Klinteberg 2019 (FINUFFT).
    """
    positions, box_length = arguments.positions(positions), arguments.box(box_length)
    n = arguments.whole("n", n, at_least=0)
    if _prefers_fft(positions):
        sums = []
        for angles, how in _prepared(positions, box_length):
            ones = np.ones_like(angles[0], np.result_type(angles, np.complex64))
            sums.append(finufft.nufft3d1(*angles, ones, (2 * n + 1,) * 3, isign=1, **how)[..., n:])
        return torch.from_numpy(np.stack(sums)).to(positions.device)
    # Cosines and sines along each axis, of which both signs of x and y are made at the end.
    order = torch.arange(n + 1).to(positions)[:, None]
    size = 4 * (n + 1) ** 2
    sums = positions.new_zeros(len(positions), size, 2 * (n + 1))
    for some in positions.transpose(1, 2).split(max(1, _AT_ONCE // size), dim=2):
        angles = (2 * math.pi / box_length) * some[:, :, None] * order
        x, y, z = torch.cat([angles.cos(), angles.sin()], dim=2).unbind(dim=1)
        sums.baddbmm_((x[:, :, None] * y[:, None]).flatten(1, 2), z.transpose(1, 2))
    sums = sums.view(-1, *(2, n + 1) * 3)
    return _both_signs(_both_signs(torch.complex(*sums.unbind(dim=5)), 3), 1)


def _both_signs(parts: Tensor, dim: int) -> Tensor:
    """Make waves of negative and positive orders, at dim, of (cosines, sines) and orders from 0."""
    cosines, sines = parts.unbind(dim)
    negative = (cosines - 1j * sines).narrow(dim, 1, cosines.shape[dim] - 1)
    return torch.cat([negative.flip(dim), cosines + 1j * sines], dim=dim)


def of_waves(
    positions: Tensor,
    vectors: Tensor,
    phase: Tensor,
    cosines: Tensor,
    sines: Tensor,
    box_length: float,
) -> Tensor:
    """Add up waves at every particle.

    Args:
        positions: (batch, n_particles, 3) [length].
        vectors: (batch, n_waves, 3) wave vectors q that fit into the box [1 / length].
        phase: (batch, n_waves) phases p [rad].
        cosines: (batch, n_waves, n) amplitudes of cos(q r - p) in each of n fields.
        sines: (batch, n_waves, m) amplitudes of sin(q r - p) in each of m more fields.
        box_length: edge L of the periodic cube [length].

    Returns:
        (batch, n_particles, n + m) fields, differentiable unless they are many waves at many
        particles and no gradients are asked for.  Then the error is below a thousandth of the root
        of the sum of squared amplitudes.

    Raises:
        TypeError, ValueError: an argument of another kind or shape, or out of its range.
    """
    positions, box_length = arguments.positions(positions), arguments.box(box_length)
    vectors = arguments.tensor("vectors", vectors, (len(positions), "n_waves", 3))
    phase = arguments.tensor("phase", phase, tuple(vectors.shape[:2]))
    cosines = arguments.tensor("cosines", cosines, (*phase.shape, "n"))
    sines = arguments.tensor("sines", sines, (*phase.shape, "m"))
    many = phase.shape[1] > _N_WAVES and not torch.is_grad_enabled()
    if many and _prefers_fft(positions):
        return _of_waves_by_fft(positions, vectors, phase, cosines, sines, box_length)
    fields = []
    for some in positions.split(max(1, _AT_ONCE // phase.shape[1]), dim=1):
        angle = _angle(some, vectors, phase)
        fields.append(torch.cat([angle.cos() @ cosines, angle.sin() @ sines], dim=-1))
    return fields[0] if len(fields) == 1 else torch.cat(fields, dim=1)


def _angle(positions: Tensor, vectors: Tensor, phase: Tensor) -> Tensor:
    # In half precision a phase of a hundred radians would be lost.
    with torch.autocast(positions.device.type, enabled=False):
        return torch.baddbmm(-phase[:, None], positions, vectors.transpose(1, 2))


def _of_waves_by_fft(positions, vectors, phase, cosines, sines, box_length):
    whole = (vectors * (box_length / (2 * math.pi))).round().long()
    n, n_fields = int(whole.abs().max()), cosines.shape[-1] + sines.shape[-1]
    # sin x is the real part of -i exp(i x), and a real field the half of q and of -q.
    unit = torch.polar(torch.full_like(phase, 0.5), -phase)
    amplitudes = torch.cat([cosines + 0j, -1j * sines], dim=-1) * unit[..., None]
    # Two real fields make a complex one.
    first, second = functional.pad(amplitudes, (0, n_fields % 2)).unflatten(-1, (-1, 2)).unbind(-1)
    amplitudes = torch.cat([first + 1j * second, first.conj() + 1j * second.conj()], dim=1)
    x, y, z = (torch.cat([whole, -whole], dim=1) + n).unbind(dim=-1)
    place = (x * (2 * n + 1) + y) * (2 * n + 1) + z
    fields = []
    prepared = _prepared(positions, box_length)
    for where, amplitude, (angles, how) in zip(place, amplitudes, prepared, strict=True):
        modes = amplitude.new_zeros(amplitude.shape[1], (2 * n + 1) ** 3)
        modes = modes.index_add_(1, where, amplitude.T).view(-1, *(2 * n + 1,) * 3)
        found = finufft.nufft3d2(*angles, modes.cpu().numpy(), isign=1, **how)
        fields.append(torch.view_as_real(torch.from_numpy(found)).movedim(1, 0).flatten(1))
    return torch.stack(fields)[..., :n_fields].to(positions)


def _prefers_fft(positions: Tensor) -> bool:
    if positions.shape[1] < N_PARTICLES:
        return False
    if finufft is None:
        warnings.warn(
            f"the time for {positions.shape[1]} particles grows as the square of their number; "
            "run `pip install finufft` to have it grow as the number",
            stacklevel=4,
        )
    return finufft is not None


def _prepared(positions: Tensor, box_length: float) -> Iterator[tuple[np.ndarray, dict]]:
    """Give what FINUFFT is told of each system: (3, n_particles) angles, and how exact to be."""
    how = {"eps": _TOLERANCE, "upsampfac": _FINER, "nthreads": torch.get_num_threads()}
    for system in (2 * math.pi / box_length) * wrap(positions.detach(), box_length):
        yield system.T.contiguous().cpu().numpy(), how
