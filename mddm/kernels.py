"""Triton kernels for a GPU: neighbour lists and pair forces of a batch of systems.

They write the oscillating pair potential a second time, because a kernel cannot call
`mddm.potential`; the tests hold both to the same forces.
"""

from __future__ import annotations

try:
    import triton
    import triton.language as tl
except ImportError:  # It comes with every PyTorch for GPUs.
    triton = None


def _jit(function):
    return function if triton is None else triton.jit(function)


@_jit
def _minimum_image(delta, box, inverse_box):
    # Adding and taking away 1.5 * 2**23 rounds to an integer, at four times the rate of floor.
    images = delta * inverse_box + 12582912.0
    return delta - box * (images - 12582912.0)


@_jit
def _cos_sin(turns):
    # Triton's own have a branch for huge arguments that halves the speed of the whole kernel.
    # Half the angle lies within a quarter turn, where the power series converge at once.
    half = 3.141592653589793 * (turns - ((turns + 12582912.0) - 12582912.0))
    h2 = half * half
    sin = 1 / 362880 - h2 * (1 / 39916800)
    sin = 1 - h2 * (1 / 6 - h2 * (1 / 120 - h2 * (1 / 5040 - h2 * sin)))
    cos = 1 / 40320 - h2 * (1 / 3628800 - h2 * (1 / 479001600))
    cos = 1 - h2 * (1 / 2 - h2 * (1 / 24 - h2 * (1 / 720 - h2 * cos)))
    sin *= half
    return 1 - 2 * sin * sin, 2 * sin * cos


@_jit
def list_pairs(
    x, reference, moved2, neighbors, counts, longest, width, box, inverse_box, reach2, limit2,
    n: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """List the pairs of the systems that have moved; one thread a particle."""
    system = tl.program_id(1).to(tl.int64)
    if tl.load(moved2 + system) > limit2:
        x += system * 3 * n
        reference += system * 3 * n
        i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        real = i < n
        # Rows past the last particle lie infinitely far from every other.
        xi = tl.load(x + i, mask=real, other=float("inf"))
        yi = tl.load(x + n + i, mask=real, other=0.0)
        zi = tl.load(x + 2 * n + i, mask=real, other=0.0)
        row = neighbors + system * n * width + i * width
        count = tl.zeros((ROWS,), tl.int32)
        for j in tl.range(0, n, loop_unroll_factor=4):
            dx = _minimum_image(tl.load(x + j) - xi, box, inverse_box)
            dy = _minimum_image(tl.load(x + n + j) - yi, box, inverse_box)
            dz = _minimum_image(tl.load(x + 2 * n + j) - zi, box, inverse_box)
            near = (dx * dx + dy * dy + dz * dz < reach2) & (i != j)
            tl.store(row + count, j, mask=near & (count < width))
            count += near.to(tl.int32)
        tl.store(counts + system * n + i, tl.minimum(count, width), mask=real)
        tl.atomic_max(longest + system, tl.max(count, 0))
        tl.store(reference + i, xi, mask=real)
        tl.store(reference + n + i, yi, mask=real)
        tl.store(reference + 2 * n + i, zi, mask=real)


@_jit
def sum_pairs(
    x, neighbors, counts, k_turns, phi_turns, forces, energies, virials, width, box, inverse_box,
    n: tl.constexpr, R_CORE: tl.constexpr, R_ON: tl.constexpr, R_CUT: tl.constexpr,
    MEASURE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sum forces, energy and virial over the listed neighbours of each particle."""
    system = tl.program_id(1).to(tl.int64)
    k, phi = tl.load(k_turns + system), tl.load(phi_turns + system)
    x += system * 3 * n
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = i < n
    count = tl.load(counts + system * n + i, mask=real, other=0)
    xi = tl.load(x + i, mask=real, other=0.0)[None, :]
    yi = tl.load(x + n + i, mask=real, other=0.0)[None, :]
    zi = tl.load(x + 2 * n + i, mask=real, other=0.0)[None, :]
    fx = tl.zeros((COLUMNS, ROWS), tl.float32)
    fy = tl.zeros((COLUMNS, ROWS), tl.float32)
    fz = tl.zeros((COLUMNS, ROWS), tl.float32)
    if MEASURE:
        bond_energy = tl.zeros((COLUMNS, ROWS), tl.float32)
        bond_virial = tl.zeros((COLUMNS, ROWS), tl.float32)
    column = tl.arange(0, COLUMNS)[:, None]
    listed = neighbors + system * n * width + i[None, :] * width + column
    for start in range(0, tl.max(count, 0), COLUMNS):
        bond = start + column < count[None, :]
        j = tl.load(listed + start, mask=bond, other=0).to(tl.int32)
        dx = _minimum_image(tl.load(x + j) - xi, box, inverse_box)
        dy = _minimum_image(tl.load(x + n + j) - yi, box, inverse_box)
        dz = _minimum_image(tl.load(x + 2 * n + j) - zi, box, inverse_box)
        r2 = tl.maximum(dx * dx + dy * dy + dz * dz, 1e-12)
        inverse = tl.rsqrt(r2)
        inside2 = tl.minimum(tl.maximum(r2, R_CORE * R_CORE), R_CUT * R_CUT)
        s = tl.rsqrt(inside2)
        r = inside2 * s
        cos, sin = _cos_sin(k * (r - 1.25) - phi)
        s3 = s * s * s
        s6 = s3 * s3
        s15 = s6 * s6 * s3
        wave = s3 * cos
        # k counts turns: the slope of the phase is 2 pi times it.
        slope = 6.283185307179586 * k * s3 * sin
        energy = s15 + wave
        force = s * (15 * s15 + 3 * wave) + slope
        y = tl.maximum(inside2, R_ON * R_ON)
        rest = (R_CUT * R_CUT - y) / (R_CUT * R_CUT - R_ON * R_ON)
        switch = rest * rest * (3 - 2 * rest)
        switch_slope = 12 * r * rest * (rest - 1) / (R_CUT * R_CUT - R_ON * R_ON)
        smoothed = tl.where(bond, force * switch - energy * switch_slope, 0.0)
        factor = smoothed * inverse
        fx -= factor * dx
        fy -= factor * dy
        fz -= factor * dz
        if MEASURE:
            core = force * tl.maximum(R_CORE - r2 * inverse, 0.0)
            bond_energy += tl.where(bond, energy * switch + core, 0.0)
            bond_virial += factor * r2
    forces += system * 3 * n
    tl.store(forces + i, tl.sum(fx, 0), mask=real)
    tl.store(forces + n + i, tl.sum(fy, 0), mask=real)
    tl.store(forces + 2 * n + i, tl.sum(fz, 0), mask=real)
    if MEASURE:
        tl.store(energies + system * n + i, tl.sum(bond_energy, 0) / 2, mask=real)
        tl.store(virials + system * n + i, tl.sum(bond_virial, 0) / 2, mask=real)
