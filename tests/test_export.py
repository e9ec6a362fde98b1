from pathlib import Path

import ase.io
import gsd.hoomd
import numpy as np
import pytest

from mddm import __main__ as command
from mddm import dataset, export

SHIPPED = Path(__file__).parents[1] / "data" / "opp-small.h5"
FRAMES = np.random.default_rng(0).uniform(0, 7, (3, 20, 3)).astype(np.float32)
ENERGIES = np.array([-1.0, -2.5, 0.25])


def test_gsd_is_read_by_its_own_library(tmp_path):
    export.write(tmp_path / "x.gsd", FRAMES, 7.0, {"energy_per_particle": ENERGIES})
    with gsd.hoomd.open(tmp_path / "x.gsd") as file:
        assert len(file) == 3
        for frame, points, energy in zip(file, FRAMES, ENERGIES, strict=True):
            assert frame.configuration.box.tolist() == [7, 7, 7, 0, 0, 0]
            np.testing.assert_allclose(frame.particles.position + 3.5, points, atol=1e-6)
            assert frame.log["energy_per_particle"] == energy


@pytest.mark.parametrize("ending", [".xyz", ".extxyz"])
def test_extended_xyz_is_read_by_ase(tmp_path, ending):
    export.write(tmp_path / f"x{ending}", FRAMES, 7.0, {"energy_per_particle": ENERGIES})
    images = ase.io.read(tmp_path / f"x{ending}", index=":", format="extxyz")
    assert len(images) == 3
    for atoms, points, energy in zip(images, FRAMES, ENERGIES, strict=True):
        assert atoms.pbc.all()
        np.testing.assert_array_equal(atoms.cell.lengths(), [7, 7, 7])
        np.testing.assert_allclose(atoms.positions, points, atol=1e-6)
        assert atoms.info["energy_per_particle"] == energy


@pytest.mark.parametrize("box", [7.0, 10.1])
def test_any_image_of_a_particle_is_written_inside_the_box(tmp_path, box):
    inside = np.array([[0.0, 1.0, 2.0], [0.0, 0.0, 0.0], [3.0, 0.5, 4.0]])
    # The second rounds to the edge, where it is at 0; and the third is centred on the origin.
    images = np.array([[0, 1 + 3 * box, 2 - box], [box - 1e-9, -1e-12, box], [3 - box, 0.5, 4]])
    for name in ("x.gsd", "x.xyz"):
        export.write(tmp_path / name, images, box)
    with gsd.hoomd.open(tmp_path / "x.gsd") as file:
        (frame,) = file
    half = frame.configuration.box[0] / 2
    assert (-half <= frame.particles.position).all() and (frame.particles.position < half).all()
    written = ase.io.read(tmp_path / "x.xyz", format="extxyz")
    assert (written.positions >= 0).all() and (written.positions < box).all()
    for found in (frame.particles.position + half, written.positions):
        np.testing.assert_allclose(found, inside, atol=2e-6)


def test_rows_of_a_data_set_are_exported(tmp_path, capsys):
    output = tmp_path / "tests.gsd"
    assert command.main(["export", str(SHIPPED), "--split", "test", "--out", str(output)]) == 0
    tests = dataset.read(SHIPPED).subset("test")
    assert f"wrote {len(tests)} configurations" in capsys.readouterr().out
    with gsd.hoomd.open(output) as file:
        assert [frame.log["k"].item() for frame in file] == tests.k.tolist()


def test_one_configuration_is_one_frame(tmp_path):
    export.write(tmp_path / "x.xyz", FRAMES[0], 7.0)
    assert len(ase.io.read(tmp_path / "x.xyz", index=":", format="extxyz")) == 1


@pytest.mark.parametrize("ending", ["gsd", "xyz", "data"])
def test_what_was_written_is_read_back_in_its_place(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    export.write(path, FRAMES[0], 7.0)
    positions, box_length = export.read(path)
    assert box_length == 7.0
    np.testing.assert_allclose(positions[0], FRAMES[0] % 7.0, atol=1e-5)


def test_wrong_arguments_are_named_and_leave_no_file(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"path must end in one of \.gsd"):
        export.write(tmp_path / "x.pdb", FRAMES, 7.0)
    with pytest.raises(ValueError, match=r"u, one number a frame, .*\(3,\), got \(1,\)"):
        export.write(tmp_path / "x.gsd", FRAMES, 7.0, {"u": [1.0]})
    # ASE takes it for the energy of all particles together.
    for name in ("energy", "Lattice", "stress", "a b", "a=b", ""):
        with pytest.raises(ValueError, match="such as 'energy_per_particle'"):
            export.write(tmp_path / "x.xyz", FRAMES, 7.0, {name: ENERGIES})
    for box in (-7.0, [7.0, 7.0, 7.0], np.nan):
        with pytest.raises(ValueError, match="box_length must be"):
            export.write(tmp_path / "x.xyz", FRAMES, box)
    with pytest.raises(ValueError, match="positions must be finite"):
        export.write(tmp_path / "x.gsd", np.full((5, 3), np.nan), 7.0)
    with pytest.raises(ValueError, match="positions must have the shape"):
        export.write(tmp_path / "x.gsd", FRAMES[..., :2], 7.0)
    with pytest.raises(OSError, match="/proc/none"):
        export.write("/proc/none/x.gsd", FRAMES, 7.0)
    call = ["export", str(SHIPPED), "--out", str(tmp_path / "x.gsd")]
    for more, message in (
        (["--rows", "10000"], "rows must lie in [0, 30)"),
        (["--split", "trian"], "did you mean 'train'"),
        (["--split", "train", "--rows", "29"], "no row of"),
    ):
        assert command.main([*call, *more]) == 1
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
