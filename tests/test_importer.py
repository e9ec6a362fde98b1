"""Data sets of other programs' files, from the file to a model."""

import ase
import ase.io
import numpy as np
import pytest
import torch

import mddm
from mddm import __main__ as command
from mddm import check, checkpoint, condition, dataset, export, importer, presets, training
from mddm.configurations import Configurations
from mddm.family import Family
from mddm.formulas import LennardJones
from mddm.potential import Smoothed

BOX, N = 6.4, 216


def frames(n, seed, box=BOX):
    axis = np.arange(6) * box / 6
    points = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
    return points + np.random.default_rng(seed).normal(0, 0.03, (n, *points.shape))


@pytest.fixture
def files(tmp_path):
    export.write(tmp_path / "cold.gsd", frames(3, 0), BOX)
    export.write(tmp_path / "hot.extxyz", frames(2, 1), BOX)
    images = [ase.Atoms("Ar216", row, cell=[BOX] * 3, pbc=True) for row in frames(2, 2)]
    ase.io.write(tmp_path / "other.traj", images)
    return [tmp_path / name for name in ("cold.gsd", "hot.extxyz", "other.traj")]


def energy(points):
    delta = points[:, None] - points
    delta -= BOX * np.round(delta / BOX)
    r = torch.from_numpy(np.linalg.norm(delta, axis=-1)[np.triu_indices(N, 1)])
    return Smoothed(LennardJones()).energy(r).sum().item() / N


def test_frames_become_rows_with_their_energies(files):
    made = importer.read_files(files, Family("lennard-jones"), [0.2, 0.4, 0.4], "train")
    assert len(made) == 7 and made.positions.shape == (7, N, 3)
    assert made.temperature.tolist() == [0.2] * 3 + [0.4] * 4
    assert made.ranges == {"temperature": (0.2, 0.4)} and made.steps is None
    np.testing.assert_allclose(made.positions[3:5], frames(2, 1) % BOX, atol=1e-5)
    for row in (0, 4, 6):
        assert made.energy[row] == pytest.approx(energy(made.positions[row].astype(float)))
    assert all(result.passed for result in check.check(made))


def test_parameters_that_differ_are_part_of_the_condition(files, tmp_path):
    wells = [Family("morse", {"alpha": alpha, "epsilon": 2.0}) for alpha in (6.0, 8.0, 8.0)]
    made = importer.read_files(files, wells, 0.3, ["train", "train", "test"])
    assert made.ranges == {"alpha": (6.0, 8.0)} and made.family.parameters == {"epsilon": 2.0}
    assert made.alpha.tolist() == [6.0] * 3 + [8.0] * 4 and made.split.tolist()[-1] == "test"
    assert made.potential(0) == wells[0].at({}) and made.potential(4) == wells[1].at({})
    dataset.write(tmp_path / "mine.h5", made)
    again = dataset.read(tmp_path / "mine.h5")
    assert again.content_hash == made.content_hash and again.nearest(alpha=7.9) == 3
    assert again.family == made.family and again.ranges == made.ranges


def test_what_does_not_fit_is_refused(files, tmp_path):
    small = tmp_path / "small.gsd"
    export.write(small, frames(1, 0, box=6.3), 6.3)
    lj = Family("lennard-jones")
    for call, message in (
        (([*files, small], lj, 0.4), r"small.gsd: 216 particles in a box of 6.3"),
        ((files, [lj, lj], 0.4), "potential must be one for all or one for each of 3 files"),
        ((files, lj, [0.1, 0.2]), "temperature must be one for all"),
        ((files, lj, 0.0), "temperature must be"),
        ((files, lj, 0.4, "validation"), "split must be one of"),
        ((files, Family("opp"), 0.4), "needs k, phi"),
        ((files, Family("morse", r_cut=3.3), 0.4), r"r_cut must be .*half the box edge"),
        (([], lj, 0.4), "at least one file"),
    ):
        with pytest.raises(ValueError, match=message):
            importer.read_files(*call)


def test_from_files_to_a_model_that_answers(files, tmp_path, capsys):
    mine, trained = tmp_path / "mine.h5", tmp_path / "mine.safetensors"
    call = ["data", "import", *map(str, files[:2]), "--potential", "lennard-jones"]
    assert command.main([*call, "--temperature", "0.2", "0.4", "--out", str(mine)]) == 0
    assert "wrote 5 configurations of 216 particles" in capsys.readouterr().out
    assert command.main(["check", str(mine)]) == 0
    assert "ok     energies" in capsys.readouterr().out
    told = tmp_path / "told.extxyz"
    assert command.main(["export", str(mine), "--rows", "4", "--out", str(told)]) == 0
    told = told.read_text()
    assert "temperature=0.4 energy_per_particle=" in told and "pressure" not in told
    source = Configurations.of(dataset.read(mine).subset("train"))
    settings = presets.Settings(
        preset="transolver",
        architecture={"channels": 8, "n_layers": 1, "n_heads": 1, "n_slices": 2},
        n_steps=3,
        sigma_max=condition.sigma_max(source.box_length),
        ranges=source.ranges,
    )
    state = training.TrainingState(settings)
    assert len(list(training.train(state, source))) == 3
    checkpoint.save(trained, state)
    model = mddm.load(trained)
    assert model.card.ranges == {"temperature": (0.2, 0.4)}
    assert (model.card.n_particles, model.card.box_length) == (N, pytest.approx(BOX))
    found = model.sample(temperature=0.3, sampler="ancestral", n_levels=2, progress=False)
    assert found.positions.shape == (1, N, 3)
    assert found.potential == Smoothed(LennardJones()) and np.isfinite(found.energies).all()
    with pytest.raises(ValueError, match=r"temperature = 0.5 lies outside"):
        model.sample(temperature=0.5)


def test_a_failed_import_leaves_nothing(files, tmp_path, capsys):
    out = tmp_path / "mine.h5"
    call = ["data", "import", str(files[0]), "--potential", "lennard-jones", "--temperature", "-1"]
    assert command.main([*call, "--out", str(out)]) == 1
    assert capsys.readouterr().err.startswith("mddm: temperature must be") and not out.exists()
