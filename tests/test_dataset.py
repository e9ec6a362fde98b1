import errno
import fcntl
import os
import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from mddm import __main__ as command
from mddm import check, dataset, files
from mddm.condition import RANGES
from mddm.family import Family
from mddm.potential import CONVENTION, OscillatingPair, Smoothed
from mddm.study import plan, tasks

SHIPPED = Path(__file__).parents[1] / "data" / "opp-small.h5"
BOX = 6.4


def _lattice(seed):
    axis = np.arange(6) * BOX / 6
    points = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
    shaken = points + np.random.default_rng(seed).normal(0, 0.02, points.shape)
    return np.mod(shaken, BOX).astype(np.float32)


def _energy_and_pressure(positions, k, phi, temperature):
    # Work against the pressure, as the box is scaled.
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    scaled, potential = scale * torch.from_numpy(positions).double(), OscillatingPair(k, phi)
    delta = scaled[:, None] - scaled
    delta = delta - scale * BOX * torch.round(delta.detach() / BOX)
    r = delta[tuple(np.triu_indices(len(positions), 1))].norm(dim=1)
    energy = Smoothed(potential).energy(r).sum()
    (slope,) = torch.autograd.grad(energy, scale)
    kinetic = (len(positions) - 1) * temperature
    return energy.item() / len(positions), (kinetic - slope.item() / 3) / BOX**3


@pytest.fixture
def data():
    # A grid of 2 x 2 x 1, a test row, and a replica of each kind.
    conditions = [(k, phi, 0.02) for k in (3.8, 8.0) for phi in (0.6, 2.4)]
    conditions += [(5.0, 1.0, 0.03), (3.8, 0.6, 0.02), (5.0, 1.0, 0.03)]
    k, phi, temperature = np.array(conditions).T
    positions = np.stack([_lattice(seed) for seed in range(7)])
    found = [
        _energy_and_pressure(row, *condition)
        for row, condition in zip(positions, conditions, strict=True)
    ]
    energy, pressure = np.array(found).T
    return dataset.Dataset(
        positions=positions,
        parameters={"k": k, "phi": phi},
        temperature=temperature,
        seed=np.arange(7),
        split=["train"] * 4 + ["test"] + ["replica"] * 2,
        energy=energy,
        kinetic_temperature=temperature * 1.01,
        pressure=pressure + 0.1,
        drift=temperature * 0.1,
        steps=np.full(7, 20_000),
        attributes={
            "box_length": BOX,
            "r_core": 0.7,
            "r_on": 2.5,
            "r_cut": 3.0,
            "time_step": 0.01,
            "n_steps": 20_000,
            "thermostat": "Langevin",
            "engine": "none",
            "convention": CONVENTION,
            "command": "none",
        },
    )


def _failed(data):
    return {result.name for result in check.check(data) if not result.passed}


def _with(data, name, column):
    if name in data.parameters:
        return replace(data, parameters={**data.parameters, name: column})
    return replace(data, **{name: column})


def _changed(data, name, row, value):
    column = getattr(data, name).copy()
    column[row] = value
    return _with(data, name, column)


def test_what_is_written_is_read(data, tmp_path):
    dataset.write(tmp_path / "x.h5", data)
    found = dataset.read(tmp_path / "x.h5")
    for name in ("positions", "k", "phi", "temperature", "seed", "energy", "pressure", "steps"):
        np.testing.assert_array_equal(getattr(found, name), getattr(data, name))
        assert getattr(found, name).dtype == getattr(data, name).dtype
    assert found.split.tolist() == data.split.tolist()
    assert found.attributes == data.attributes
    assert found.content_hash == data.content_hash
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]


def test_hash_depends_on_the_content_alone(data):
    assert data.take(slice(None)).content_hash == data.content_hash
    assert _changed(data, "positions", (2, 3, 1), 0.5).content_hash != data.content_hash
    assert _changed(data, "split", 0, "test").content_hash != data.content_hash


def test_rows_are_found_by_split_and_condition(data):
    assert data.subset("train").seed.tolist() == [0, 1, 2, 3]
    assert data.subset("replica").seed.tolist() == [5, 6]
    assert data.nearest(8.3, 2.2, 0.02) == 3
    assert data.nearest(5.1, 1.1, 0.03) == 4
    assert data.partners(0).tolist() == [5]
    assert data.partners(1).tolist() == []
    with pytest.raises(ValueError, match="split must be one of"):
        data.subset("validation")


def test_files_of_before_are_of_the_studys_ranges_and_potential(data, path):
    def edit(file):
        for name in ("potential", "ranges"):
            del file.attrs[name]

    change(path, edit)
    found = dataset.read(path)
    assert found.ranges == RANGES and found.family == data.family == Family("opp")
    assert found.content_hash == data.content_hash
    # A phase of HOOMD-blue's convention is another potential.
    change(path, lambda file: file.attrs.update(convention="U(r) = r^-15 + r^-3 cos(k r - phi)"))
    r = torch.tensor([1.2])
    other = OscillatingPair(data.k[0], data.phi[0] - 1.25 * data.k[0])
    assert dataset.read(path).potential(0).energy(r) == Smoothed(other).energy(r)
    assert {each.name for each in check.check(dataset.read(path)) if not each.passed} == {
        "energies",
        "pressures",
    }


def test_each_row_may_have_a_potential_of_its_own(data, tmp_path):
    kinds = [Family("lennard-jones"), Family("morse", {"alpha": 8.0}), Family("lennard-jones")]
    told = {"parameters": {}, "ranges": None, "attributes": {"box_length": BOX}}
    mixed = replace(data.take([0, 1, 5]), family=kinds, **told)
    dataset.write(tmp_path / "x.h5", mixed)
    found = dataset.read(tmp_path / "x.h5")
    assert found.family == tuple(kinds) and found.content_hash == mixed.content_hash
    same_t = replace(found, temperature=np.full(3, 0.1), ranges=None)
    assert same_t.partners(0).tolist() == [2] and same_t.partners(1).tolist() == []
    r = torch.tensor([1.2])
    assert found.potential(1).energy(r) == Family("morse", {"alpha": 8.0}).at({}).energy(r)
    others = replace(mixed, family=[*kinds[::-1][:2], Family("yukawa")], **told)
    assert others.content_hash != mixed.content_hash
    # Of one formula, what differs is a parameter.
    alphas = [Family("morse", {"alpha": alpha}) for alpha in (8.0, 9.0, 8.0)]
    morse = replace(mixed, family=alphas, **told)
    assert morse.family == Family("morse") and morse.alpha.tolist() == [8.0, 9.0, 8.0]
    # In whatever order they are given.
    both = [Family("morse", {"r_0": 1 + alpha / 80, "alpha": alpha}) for alpha in (8.0, 9.0, 8.0)]
    dataset.write(tmp_path / "y.h5", replace(mixed, family=both, **told))
    assert dataset.read(tmp_path / "y.h5").r_0.tolist() == pytest.approx([1.1, 1.1125, 1.1])
    assert found.take([1]).family == kinds[1] and found.take([]).split.size == 0
    for wrong, message in (
        ({"family": kinds[:2]}, "one for each of 3 rows"),
        ({"family": []}, "family must be one, or one for each of 3 rows"),
        ({"family": [*kinds[:2], Family("opp")]}, "needs k, phi"),
        ({"family": kinds, "parameters": {"alpha": [1, 2, 3]}}, "parameters must be left out"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(mixed, **told | wrong)


def test_what_a_set_does_not_say_is_neither_kept_nor_judged(data, tmp_path):
    unknown = dict.fromkeys(("seed", "kinetic_temperature", "pressure", "drift", "steps"))
    single = data.take([0])
    little = replace(
        data.take([0, 5]),
        family=data.family.fix({"k": 3.8, "phi": 0.6}),
        parameters={},
        ranges=None,
        attributes={"box_length": BOX},
        **unknown,
    )
    dataset.write(tmp_path / "x.h5", little)
    found = dataset.read(tmp_path / "x.h5")
    assert found.family == little.family and found.ranges == {} and found.steps is None
    assert found.conditions.shape == (2, 0) and found.attributes == {"box_length": BOX}
    assert found.partners(0).tolist() == [1]
    r = torch.tensor([1.2])
    assert found.potential(0).energy(r) == single.potential(0).energy(r)
    judged = {result.name: result.passed for result in check.check(found)}
    assert judged == dict.fromkeys(
        ("conditions", "replicas", "duplicates", "energies", "distances"), True
    )
    with pytest.raises(AttributeError, match="no k"):
        _ = found.k


def test_a_sound_set_passes_every_check(data):
    assert _failed(data) == set()


def test_any_image_of_a_particle_is_kept_inside_the_box(data):
    images = BOX * np.random.default_rng(0).integers(-2, 3, data.positions.shape)
    found = replace(data, positions=data.positions.astype(float) + images)
    np.testing.assert_allclose(found.positions, data.positions, atol=1e-6)
    assert _failed(found) == set()
    edges = data.positions.astype(float)
    # In single precision they are the edge itself.
    edges[0, 0], edges[0, 1] = BOX - 1e-9, -1e-12
    assert (replace(data, positions=edges).positions[0, :2] == 0).all()
    assert (replace(data, positions=edges).positions < BOX).all()


@pytest.mark.parametrize("name", ["positions", "k", "energy", "pressure", "drift", "seed"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(data, name, value):
    column = getattr(data, name).astype(float)
    column.flat[0] = value
    with pytest.raises(ValueError, match=f"{name} must be finite"):
        _with(data, name, column)


def test_columns_of_another_kind_are_refused(data):
    with pytest.raises(ValueError, match="seed must be whole numbers"):
        replace(data, seed=data.seed + 0.5)
    with pytest.raises(ValueError, match="k must be an array of float64, got <U3"):
        _with(data, "k", ["7.0"] * 7)
    with pytest.raises(ValueError, match="k must be a finite number"):
        data.nearest(np.nan, 1.0, 0.02)


@pytest.mark.parametrize("box", [-BOX, 0.0, np.nan, np.array([BOX, BOX, BOX])])
def test_a_box_that_is_no_cube_is_refused(data, box):
    with pytest.raises(ValueError, match="box_length must be"):
        replace(data, attributes={**data.attributes, "box_length": box})


def test_checks_see_what_is_wrong(data):
    assert _failed(_changed(data, "energy", 2, data.energy[2] + 0.001)) == {"energies"}
    assert _failed(_changed(data, "k", 2, 9.0)) == {
        "conditions",
        "training grid",
        "energies",
        "pressures",
    }
    assert _failed(data.take([0, 1, 2, 4, 5, 6])) == {"training grid"}
    assert _failed(data.take([0, 1, 2, 3, 5, 6])) == {"replicas"}
    # Those of another set's conditions have their originals there, and drawn ones make no grid.
    assert _failed(data.take([5])) == set()
    assert _failed(data.take([0, 1, 2, 3, 4, 5, 6, 6])) == {"duplicates"}
    hot = _changed(data, "kinetic_temperature", 0, 0.03)
    assert _failed(hot) == {"temperatures"}
    # A quench has no time to settle, and is not blamed for it; but it was promised more steps.
    assert _failed(_changed(hot, "steps", 0, 1000)) == {"steps"}
    wrong = _changed(data, "pressure", 0, data.pressure[0] + 2)
    assert _failed(wrong) == {"pressures"}
    # A structure that changed during the hold had another pressure on average.
    assert _failed(_changed(wrong, "drift", 0, -2 * data.temperature[0])) == set()
    assert _failed(replace(data, drift=-data.temperature)) == {"drift"}
    assert _failed(_changed(data, "steps", 0, 10)) == {"steps"}
    touching = data.positions[0, 1] + np.float32([0.5, 0, 0])
    assert "distances" in _failed(_changed(data, "positions", (0, 0), touching))
    assert _failed(data.take([])) == {"rows"}


def test_floor_compares_rows_with_their_replicas(data):
    entries = check.floor(_changed(data, "positions", 5, data.positions[0]))
    assert [(entry["row"], entry["replica"]) for entry in entries] == [(0, 5), (4, 6)]
    same, other = entries
    assert same["rdf_mse"] == 0 < other["rdf_mse"] < other["ideal_gas"]
    assert other["energy_gap"] == pytest.approx(data.energy[6] - data.energy[4])
    assert not check.bimodal(same)
    assert check.bimodal(same | {"crystallinity": 0.9})


@pytest.fixture
def path(data, tmp_path):
    """A data set of a user's own."""
    dataset.write(tmp_path / "mine.h5", data)
    return tmp_path / "mine.h5"


def refusal(path):
    with pytest.raises((OSError, ValueError)) as info:
        dataset.read(path)
    assert str(path) in str(info.value)
    return info.value


def change(path, edit):
    with h5py.File(path, "a") as file:
        edit(file)


def test_bad_files_are_named_with_a_remedy_that_touches_no_file(path):
    found = [refusal(path.with_name("none.h5"))]
    assert isinstance(found[0], FileNotFoundError) and "does not exist" in str(found[0])
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"k,phi\n1,2\n"):
        path.write_bytes(content)
        found.append(refusal(path))
        assert "is damaged or no HDF5 file" in str(found[-1])
    edits = {
        r"lacks the columns energy, or": lambda file: file.pop("energy"),
        r"another schema: .*r_cut": lambda file: (
            file.attrs.pop("potential"),
            file.attrs.pop("r_cut"),
        ),
        r"another schema: .*did you mean 'opp'": lambda file: file.attrs.update(
            potential='{"name": "op"}'
        ),
        r"another schema: convention must be .*r\^-3 cos": lambda file: file.attrs.update(
            convention="U(r) = 4 (r^-12 - r^-6)"
        ),
        r"another schema: k must have the shape": lambda file: (
            file.pop("k"),
            file.create_dataset("k", data=[1.0]),
        ),
        r"lacks the columns k, ": lambda file: (file.pop("k"), file.create_group("k")),
        r"lacks the columns split, ": lambda file: (
            file.pop("split"),
            file.create_dataset("split", data=range(7)),
        ),
        r"another schema: .*box_length": lambda file: file.attrs.update(box_length=[BOX] * 3),
        r"another schema: .*box_length.*'six'": lambda file: file.attrs.update(box_length="six"),
    }
    for message, edit in edits.items():
        path.write_bytes(whole)
        change(path, edit)
        found.append(refusal(path))
        assert re.search(message, str(found[-1])), found[-1]
        assert "data/README.md lists" in str(found[-1])
    for error in found:
        assert not re.search(r"mddm\.study|--output|remove|delete", str(error)), error


def test_a_folder_is_no_data_set_and_needs_no_remedy(tmp_path):
    error = refusal(tmp_path)
    assert isinstance(error, IsADirectoryError) and "is a folder; name a file" in str(error)
    assert "git" not in str(error)


def test_a_file_that_the_system_withholds_is_not_called_damaged(path, monkeypatch):
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        error = refusal(path)
    assert isinstance(error, BlockingIOError) and "damaged" not in str(error)
    assert os.strerror(errno.EAGAIN) in str(error) and "HDF5_USE_FILE_LOCKING=FALSE" in str(error)
    assert len(dataset.read(path)) == 7

    def denied(*_):
        raise PermissionError(errno.EACCES, "Unable to open file (errno = 13)")

    monkeypatch.setattr(h5py, "File", denied)
    error = refusal(path)
    assert isinstance(error, PermissionError) and "(Permission denied)" in str(error)
    assert "damaged" not in str(error) and "LOCKING" not in str(error)


def test_attributes_and_text_of_other_programs_are_read(data, path):
    def edit(file):
        file.attrs["box_length"] = np.array([BOX])
        file.attrs["n_steps"] = np.array([[20_000]])
        file.attrs["convention"] = np.bytes_(CONVENTION)
        file.attrs["engine"] = np.array(["none"], dtype=h5py.string_dtype())
        del file["split"]
        file.create_dataset("split", data=data.split.tolist(), dtype=h5py.string_dtype())

    change(path, edit)
    found = dataset.read(path)
    assert found.attributes == data.attributes
    assert found.split.tolist() == data.split.tolist()


def test_columns_that_are_not_as_they_were_written_are_refused(data, path):
    def edit(file):
        file["energy"][2] += 1e-12

    change(path, edit)
    error = refusal(path)
    assert f"content hash {_changed(data, 'energy', 2, data.energy[2] + 1e-12).content_hash}" in (
        str(error)
    )
    assert f"was {data.content_hash}" in str(error)
    # On purpose; and files of before had no hash.
    change(path, lambda file: file.attrs.pop("content_hash"))
    assert dataset.read(path).energy[2] == data.energy[2] + 1e-12


def test_no_flipped_bit_changes_a_number_without_a_word(data, path):
    whole, refused = path.read_bytes(), 0
    for place in range(7, len(whole), len(whole) // 80):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            found = dataset.read(path)
        except ValueError:
            refused += 1
        else:
            assert found.attributes == data.attributes
            assert found.content_hash == data.content_hash
    assert refused > 20


def test_a_full_disk_leaves_the_old_file(data, path, small_disk):
    with small_disk(2000), pytest.raises(OSError, match=rf"'{path}'"):
        dataset.write(path, data.subset("test"))
    assert len(dataset.read(path)) == len(data)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_columns_must_fit_each_other(data):
    with pytest.raises(ValueError, match=r"k must have the shape \(7,\), got \(3,\)"):
        _with(data, "k", [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="split must be one of"):
        _changed(data, "split", 0, "dev")


def test_command_line_says_whether_a_file_is_sound(data, tmp_path, capsys):
    dataset.write(tmp_path / "good.h5", data)
    dataset.write(tmp_path / "bad.h5", _changed(data, "energy", 0, 0.0))
    told = []
    for name, code in (("good.h5", 0), ("bad.h5", 1), ("none.h5", 1)):
        assert command.main(["check", str(tmp_path / name)]) == code
        told.append("".join(capsys.readouterr()))
    good, bad, missing = told
    assert "4 train, 1 test, 2 replica" in good and "between seeds" in good
    assert "FAILED" not in good and "FAILED energies" in bad
    assert missing.startswith("mddm: data set") and "none.h5 does not exist" in missing


def test_shipped_set_is_complete_and_sound():
    shipped = dataset.read(SHIPPED)
    assert _failed(shipped) == set()
    assert shipped.positions.shape[1:] == (1000, 3)
    assert len(shipped.subset("train")) >= 18
    assert len(shipped.subset("test")) >= 4
    assert shipped.attributes["n_steps"] >= 5000
    for row in np.flatnonzero(shipped.split == "test"):
        assert shipped.split[shipped.partners(row)].tolist() == ["replica"]


def test_shipped_grid_is_whole_and_slowly_cooled():
    shipped = dataset.read(SHIPPED.with_name("opp.h5"))
    assert _failed(shipped) == set()
    train, tests = shipped.subset("train"), shipped.subset("test")
    grid = product(plan.K_GRID, plan.PHI_GRID, plan.TEMPERATURE_GRID)
    assert sorted(map(tuple, train.conditions.round(3).tolist())) == sorted(grid)
    assert sorted(map(tuple, tests.conditions.round(4).tolist())) == sorted(plan.test_conditions())
    again = [len(shipped.partners(row)) for row in np.flatnonzero(shipped.split != "replica")]
    assert (sum(again), max(again)) == (125, 1)
    assert all(len(shipped.partners(row)) for row in np.flatnonzero(shipped.split == "test"))
    assert shipped.steps.min() >= 300_000
    assert shipped.positions.shape == (1150, 1000, 3)


def test_shipped_lengths_are_sound():
    lengths = dataset.read(SHIPPED.with_name("opp-lengths.h5"))
    assert _failed(lengths) == set()
    found = {}
    for k, phi, steps in zip(lengths.k, lengths.phi, lengths.steps, strict=True):
        found.setdefault((k, phi), set()).add(steps)
    assert len(found) >= 20
    assert all(steps >= {3_000, 10_000, 30_000, 100_000} for steps in found.values())


def test_shipped_lattices_are_of_the_training_potentials_and_sound():
    held = dataset.read(SHIPPED.with_name("opp-stable.h5"))
    assert _failed(held) == set() and held.attributes["start"] == "lattice"
    whole = dataset.read(SHIPPED.with_name("opp.h5")).subset("train")
    assert set(zip(held.k, held.phi, strict=True)) == set(zip(whole.k, whole.phi, strict=True))
    assert (held.encoded[:, 2] == 1).all()


def test_shipped_random_potentials_are_as_planned_and_none_is_learned_and_judged_by():
    names = "any.h5", "any-stable.h5", "any-stable-rest.h5"
    drawn, held, rest = (dataset.read(SHIPPED.with_name(name)) for name in names)
    assert _failed(drawn.take(slice(None, None, 20))) == set()

    def named(family):
        return frozenset((name, round(value, 4)) for name, value in family.parameters.items())

    planned = plan.any_runs()
    known = {named(run.family): number for number, run in enumerate(planned)}

    def numbers(data):
        return {known[named(data.family_of(row))] for row in range(len(data))}

    assert numbers(drawn) == set(range(len(planned))) and len(drawn) == 3 * len(planned)
    assert numbers(drawn.subset("test")) == set(range(16))
    assert min(numbers(drawn.subset("train"))) >= 16
    assert set(held.split) == set(rest.split) == {"train"}
    assert not numbers(held) & numbers(rest)
    assert numbers(held) | numbers(rest) == set(range(16, 300))
    assert _failed(rest.take(slice(None, None, 20))) == set()
    assert held.attributes["start"] == "lattice" and len(held) == 3 * len(numbers(held))


def test_shipped_named_potentials_are_for_tests_alone_and_have_replicas():
    named = dataset.read(SHIPPED.with_name("named.h5"))
    assert _failed(named) == set()
    tests = np.flatnonzero(named.split == "test").tolist()
    assert {str(named.family_of(row)) for row in tests} == set(map(str, plan.NAMED.values()))
    assert set(named.split) == {"test", "replica"} and all(
        len(named.partners(row)) for row in tests
    )


def test_shipped_drawn_potentials_are_as_planned_and_no_test_condition_is_among_them():
    drawn = dataset.read(SHIPPED.with_name("opp-drawn.h5"))
    assert _failed(drawn.take(slice(None, None, 20))) == set()
    learned = set(zip(drawn.k.tolist(), drawn.phi.tolist(), strict=True))
    assert learned == {(run.k, run.phi) for run in plan.drawn_runs()}
    assert set(drawn.split) == {"train"}
    assert not learned & {(k, phi) for k, phi, _ in plan.test_conditions(100)}


def test_shipped_further_tests_and_replicas_are_as_planned():
    tests, again = (
        dataset.read(SHIPPED.with_name(name)) for name in ("opp-tests.h5", "opp-again.h5")
    )
    assert _failed(tests.take(slice(None, 20))) == _failed(again.take(slice(None, 20))) == set()
    asked = plan.test_conditions(100)
    rows = tests.subset("test").conditions.tolist()
    assert sorted(map(tuple, rows)) == sorted(asked[25:])
    assert all(len(tests.partners(row)) == 1 for row in np.flatnonzero(tests.split == "test"))
    found = list(map(tuple, again.conditions.tolist()))
    assert {condition: found.count(condition) for condition in found} == {
        asked[i]: 8 for i in plan.CRYSTALS
    }


def test_shipped_replica_is_of_the_one_configuration():
    whole = dataset.read(SHIPPED.with_name("opp.h5"))
    replica = dataset.read(SHIPPED.with_name("opp-replica.h5"))
    assert _failed(replica) == set()
    row = tasks.unconditional_row(whole)
    assert tasks.replicas(whole, row, replica).tolist() == [0] and len(replica) == 1
    assert replica.energy[0] == pytest.approx(whole.energy[row], abs=0.01)


@pytest.mark.parametrize("name", [path.name for path in SHIPPED.parent.glob("*.h5")])
def test_datasheet_names_the_shipped_sets_by_their_hashes(name):
    shipped = SHIPPED.with_name(name)
    datasheet = SHIPPED.with_name("README.md").read_text()
    (row,) = [line for line in datasheet.splitlines() if line.startswith(f"| `{name}`")]
    assert files.file_hash(shipped) in row
    assert dataset.read(shipped).content_hash in row
    with h5py.File(shipped) as file:
        assert file.attrs["content_hash"].decode() in row
