"""One system in LAMMPS: particles in a periodic cube, under the table of a pair potential."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from mddm import arguments, lammps_process
from mddm.geometry import wrap
from mddm.potential import Smoothed, energy_unit, tabulate

# Spacing 1.5e-4 in r squared keeps the linear interpolation of the steepest potential of the
# paper's grid within 1e-4 of its force, down to r = 0.85, nearer than particles come.
_TABLE_POINTS = 60_000
# No two of a thousand random particles come closer than this, by odds of a million to one.
_TABLE_INNER = 1e-3
# Fastest of 0.2, 0.3, 0.4 and 0.5 at 1000 particles, for ramps as a whole.
_SKIN = 0.3


@contextmanager
def build(
    positions,
    potential: Smoothed,
    box_length: float,
    *,
    velocities=None,
    time_step: float = 0.01,
    moves: bool = False,
    hottest: float = 0.0,
) -> Iterator[tuple[Any, float]]:
    """Give a LAMMPS with a system in it alone, and the unit in which it has energies [energy].

    That is 1 where they are of order 1.  Lengths and the mass, 1, are as they are; all else in
    LAMMPS is in that unit.

    Args:
        positions: (n_particles, 3) array or tensor [length]; any image of a particle will do.
        potential: a smoothed pair potential.
        box_length: edge of the periodic cube [length], above twice the cut-off.
        velocities: (n_particles, 3) array [length / time]; at rest by default.
        time_step: of the integrator, as LAMMPS has time.
        moves: whether particles will, for which they must repel at contact.
        hottest: temperature that they will have at most [energy].

    Raises:
        TypeError, ValueError: positions of another shape, not finite or with two particles in one
            place, a box below twice the cut-off, or a potential that is not finite, whose force is
            not the slope of its energy, or that attracts at contact where particles move.
        ImportError, FloatingPointError, RuntimeError: as from `lammps_process.instance`.
    """
    positions = arguments.positions(positions, ("n_particles", 3)).detach().cpu().double()
    arguments.instance("potential", potential, Smoothed, "wrap it: Smoothed(potential)")
    box_length = _fitting(box_length, potential)
    positions, n_particles = wrap(positions, box_length), len(positions)
    _refuse_overlap(positions, box_length)
    rows, unit = _table(potential, moves), energy_unit(potential, hottest)
    rows[:, 2:] /= unit
    if velocities is not None:
        velocities = (np.asarray(velocities, dtype=float) / unit**0.5).ravel().tolist()
    # To read a table takes LAMMPS as long as a hundred steps.
    told = rows.tobytes() + np.array([box_length, potential.r_cut]).tobytes()
    with lammps_process.instance(hashlib.sha256(told).digest()) as system:
        if system.is_fresh:
            _set_up(system, rows, potential.r_cut, box_length)
        system.command(f"timestep {time_step!r}")
        system.create_atoms(
            n_particles,
            list(range(1, n_particles + 1)),
            [1] * n_particles,
            positions.flatten().tolist(),
            velocities,
        )
        yield system, unit
        system.command("delete_atoms group all")
        system.command("reset_timestep 0")


def _set_up(system, rows: np.ndarray, r_cut: float, box_length: float) -> None:
    pair_style = "table/omp" if system.has_style("pair", "table/omp") else "table"
    # The threaded kernel is the faster one even with a single thread.
    if pair_style == "table/omp":
        system.command("package omp 1")
    system.commands_string(f"""
        units lj
        atom_style atomic
        atom_modify map array
        boundary p p p
        region box block 0 {box_length!r} 0 {box_length!r} 0 {box_length!r}
        create_box 1 box
        mass 1 1.0
        neighbor {_SKIN} bin
        neigh_modify delay 0 every 1 check yes
        pair_style {pair_style} linear {_TABLE_POINTS}
        thermo_style custom step temp pe press
        thermo_modify norm yes
        thermo 0
    """)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "pair.table"
        header = f"U\nN {len(rows)} RSQ {_TABLE_INNER!r} {r_cut!r}\n\n"
        # In half the time of numpy.savetxt.
        lines = len(rows) * "%d %.17g %.17g %.17g\n" % tuple(rows.flatten().tolist())
        table.write_text(header + lines)
        system.command(f'pair_coeff 1 1 "{table}" U {r_cut!r}')


def check(potential: Smoothed, box_length: float) -> float:
    """Return the edge of a box in which particles can move, as a number; raise as `build`."""
    arguments.instance("potential", potential, Smoothed, "wrap it: Smoothed(potential)")
    _table(potential, moves=True)
    return _fitting(box_length, potential)


def _fitting(box_length: float, potential: Smoothed) -> float:
    box_length = arguments.box(box_length)
    if not box_length > 2 * potential.r_cut:
        raise ValueError(
            f"box_length must be above twice the cut-off ({2 * potential.r_cut}), got "
            f"{box_length:.6g}; take more particles"
        )
    return box_length


def _refuse_overlap(positions: Tensor, box_length: float) -> None:
    tree = cKDTree(positions.numpy(), boxsize=box_length)
    pairs = tree.query_pairs(_TABLE_INNER, output_type="ndarray")
    if len(pairs):
        i, j = min(pairs.tolist())
        distance, _ = tree.query(positions[i].numpy(), 2)
        raise ValueError(
            f"positions have {len(pairs)} pairs of particles nearer than {_TABLE_INNER}, where the "
            f"table of the potential begins, such as {i} and {j}, which are {distance[1]:.2g} "
            "apart: move one of each"
        )


def _table(potential: Smoothed, moves: bool) -> np.ndarray:
    # Points evenly spaced in r squared, as many as LAMMPS keeps: it then takes them as they are.
    squares = torch.linspace(
        _TABLE_INNER**2, potential.r_cut**2, _TABLE_POINTS, dtype=torch.float64
    )
    r = squares.sqrt()
    energy, force = tabulate(potential, r)
    if moves and force[0] <= 0:
        raise ValueError(
            "potential must repel at contact, or particles fall into each other: its force is "
            f"{force[0].item():.4g} at r = {_TABLE_INNER}; begin its table, or the core that "
            "Smoothed gives it, where it repels"
        )
    return torch.stack([torch.arange(1, len(r) + 1), r, energy, force], dim=1).numpy()


def gather(system, name: str) -> np.ndarray:
    """Return the (n_particles, 3) positions "x", velocities "v" or forces "f" of a system."""
    return system.gather_atoms(name, 1, 3).reshape(-1, 3)


def rounded(system, unit: float, box_length: float) -> tuple[np.ndarray, float]:
    """Round a system's positions to float32 in [0, box_length).

    Returns:
        The positions, (n_particles, 3), and the energy per particle of exactly these [energy].
    """
    positions = wrap(torch.from_numpy(gather(system, "x")).float(), box_length)
    system.scatter_atoms("x", 1, 3, positions.double().flatten().numpy())
    system.command("run 0 post no")
    return positions.numpy(), unit * system.get_thermo("pe")
