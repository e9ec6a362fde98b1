import ase.io
import numpy as np
import pytest

from mddm.potential import OscillatingPair, Smoothed
from mddm.structures import Structures

BOX = 6.4
FOUND = Structures(
    np.random.default_rng(0).uniform(0, BOX, (1, 262, 3)).astype(np.float32),
    BOX,
    {"k": 9.0},
    Smoothed(OscillatingPair(9.0, 0.75)),
)


def test_structures_are_written_and_handed_to_ase(tmp_path):
    (atoms,) = FOUND.to_ase()
    assert atoms.cell.lengths() == pytest.approx([BOX] * 3)
    assert atoms.info["k"] == 9.0
    assert atoms.info["energy_per_particle"] == pytest.approx(FOUND.energies[0])
    np.testing.assert_allclose(atoms.positions, FOUND.positions[0])
    for name in ("found.gsd", "found.extxyz", "found.data"):
        FOUND.write(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
    read = ase.io.read(tmp_path / "found.data", format="lammps-data", atom_style="atomic")
    np.testing.assert_allclose(read.positions, FOUND.positions[0], atol=1e-4)


def test_points_in_free_space_have_neither_energy_nor_file():
    cloud = Structures(FOUND.positions, None)
    with pytest.raises(ValueError, match="potential is not known"):
        _ = cloud.energies
    for call in (lambda: cloud.write("cloud.gsd"), cloud.rdf, cloud.crystallinity):
        with pytest.raises(ValueError, match="free space"):
            call()
