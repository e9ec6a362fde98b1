import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import mddm
from mddm import __main__ as command
from mddm import checkpoint, export, lammps, model, presets, study, training, trust
from mddm.budget import Candidate
from mddm.condition import RANGES, sigma_max
from mddm.encoding import SCALED_TEMPERATURES
from mddm.family import Family
from mddm.formulas import LennardJones
from mddm.potential import OscillatingPair, Smoothed, Tabulated
from mddm.samplers import BEST, BEST_TOLD, SAMPLERS
from mddm.sampling import Ancestral, Frame, last

ASKED = {"k": 9.0, "phi": 0.75, "temperature": 0.02}
FAST = {"n_levels": 2, "progress": False}
SMALL = str(Path(__file__).parents[1] / "data" / "opp-small.h5")
BOX = 6.4  # the smallest that holds two cut-offs, nearly


@pytest.fixture(scope="module", autouse=True)
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    for task in ("conditional", "unconditional", "potential", "sphere"):
        sizes = {"channels": 8, "n_layers": 1, "hidden_channels": 4, "head_channels": 4}
        box_length = None if task == "sphere" else BOX
        told = "potential" if task == "potential" else "numbers"
        ranges = {"conditional": RANGES, "potential": {"temperature": SCALED_TEMPERATURES}}
        settings = presets.Settings(
            architecture=sizes,
            sigma_max=sigma_max(box_length),
            ranges=ranges.get(task, {}),
            told=told,
        )
        potential = {"conditional": Family("opp"), "sphere": None, "potential": None}
        seen = {
            "n_particles": 1000 if task == "sphere" else 262,
            "box_length": box_length,
            "potential": potential.get(task, Family("opp", {"k": 6.6, "phi": 4.2})),
        }
        state = training.TrainingState(settings, **seen)
        path = folder / f"{task}-mddm.safetensors"
        checkpoint.save(path, state, {"task": task})
    patch = pytest.MonkeyPatch()
    patch.setattr(model, "TRAINED", folder)
    yield folder
    patch.undo()


def test_models_are_listed_with_what_they_know():
    cards = {card.name: card for card in mddm.models()}
    tasks = ("conditional", "potential", "sphere", "unconditional")
    assert list(cards) == [f"{task}-mddm" for task in tasks]
    assert cards["potential-mddm"].told == "potential"
    assert cards["conditional-mddm"].ranges == RANGES
    assert cards["conditional-mddm"].box_length == pytest.approx(BOX)
    assert cards["conditional-mddm"].n_particles == 262
    assert cards["unconditional-mddm"].ranges == {}
    assert cards["sphere-mddm"].box_length is None


def test_a_model_is_loaded_by_name_or_path(trained):
    for name in ("mddm", "conditional-mddm", trained / "conditional-mddm.safetensors"):
        assert mddm.load(name).card.name == "conditional-mddm"
    with pytest.raises(ValueError, match="did you mean 'mddm'"):
        mddm.load("mdm")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        mddm.load("nowhere.safetensors")


@pytest.mark.filterwarnings("ignore:.*forces")
def test_the_best_sampler_answers_any_condition():
    found = mddm.load("mddm").sample(**ASKED, **FAST)
    assert found.positions.shape == (1, 262, 3) and found.positions.dtype == np.float32
    assert found.positions.min() >= 0 and found.positions.max() < BOX
    # Polished: less energy than what it began with.
    before = mddm.load("mddm").sample(**ASKED, sampler="cooled", **FAST)
    assert found.calls > before.calls
    relaxed = before.relax()
    assert relaxed.energies[0] < min(before.energies[0], found.energies[0])
    r, g = found.rdf()
    assert r.shape == g.shape


def test_a_seeded_sample_begins_at_a_lattice_of_the_potential(monkeypatch):
    sites = np.random.default_rng(0).uniform(0, BOX, (262, 3)).astype(np.float32)
    asked = []
    chosen = SimpleNamespace(positions=sites)
    monkeypatch.setattr(model.seeded, "choose", lambda *of, **by: asked.append((of, by)) or chosen)
    monkeypatch.setattr(
        model.seeded, "denoise", lambda _, start, *__: iter([Frame(0, 0.0, start, 5)])
    )
    mine = Smoothed(OscillatingPair(5.0, 1.0))
    network = mddm.load("mddm")
    found = network.sample(**ASKED, sampler="seeded", potential=mine, seed=3, **FAST)
    (((potential,), by),) = asked
    assert potential is mine and by["n_particles"] == 262 and by["box_length"] == found.box_length
    assert by["temperature"] == 0.02 and by["seed"] == 3
    assert np.array_equal(found.positions[0], sites) and found.calls == 5
    assert "seeded" not in mddm.load("unconditional-mddm").samplers


def test_every_sample_has_a_seed_of_its_own_whatever_it_is_drawn_with():
    network = mddm.load("mddm")
    three = network.sample(**ASKED, sampler="ancestral", n_samples=3, seed=5, **FAST)
    one = network.sample(**ASKED, sampler="ancestral", seed=7, **FAST)
    assert np.array_equal(three.positions[2], one.positions[0])
    assert not np.array_equal(three.positions[0], three.positions[1])


def test_samplers_are_named_the_best_first_or_given_with_settings_of_ones_own():
    network, cloud = mddm.load("mddm"), mddm.load("sphere-mddm")
    assert network.samplers[0] == BEST["mddm"] and set(network.samplers) == {*SAMPLERS, "seeded"}
    assert cloud.samplers[0] == "corrected" and "polished" not in cloud.samplers
    shipped = study.project_root() / "data" / "checkpoints"
    assert mddm.load(shipped / "conditional-bragg.safetensors").samplers[0] == "held"
    one = mddm.load("unconditional-mddm")
    assert "held" not in one.samplers
    with pytest.raises(ValueError, match="knows no temperature, at which to hold a sample"):
        one.sample(sampler=SAMPLERS["held"])
    named = network.sample(**ASKED, sampler="paper", **FAST)
    given = network.sample(**ASKED, sampler=Ancestral(variance="paper"), **FAST)
    assert np.array_equal(named.positions, given.positions)


def test_an_unfinished_training_beside_the_models_is_none_of_them(tmp_path, monkeypatch):
    (tmp_path / "sphere-mddm.safetensors").symlink_to(model.TRAINED / "sphere-mddm.safetensors")
    (tmp_path / "torus-mddm.state.safetensors").write_bytes(b"half of it")
    monkeypatch.setattr(model, "TRAINED", tmp_path)
    assert [card.name for card in mddm.models()] == ["sphere-mddm"]


def test_whole_turns_of_the_phase_change_nothing():
    network = mddm.load("mddm")
    turned = ASKED | {"phi": ASKED["phi"] + 2 * np.pi}
    first, second = (
        network.sample(**asked, sampler="ancestral", **FAST) for asked in (ASKED, turned)
    )
    assert second.condition["phi"] == pytest.approx(ASKED["phi"])
    np.testing.assert_allclose(first.positions, second.positions, atol=1e-4)


def test_other_sizes_work_and_say_how_far_they_are_from_training():
    network, fast = mddm.load("mddm"), FAST | {"sampler": "ancestral"}
    with pytest.warns(UserWarning, match=r"300 in a box of 6\.69.* are 1\.15 times as many"):
        found = network.sample(**ASKED, n_particles=300, **fast)
    assert found.box_length == pytest.approx((300 / (262 / BOX**3)) ** (1 / 3))
    with pytest.warns(UserWarning, match="times as many: they are drawn as a whole"):
        found = network.sample(**ASKED, box_length=7.0, **fast)
    assert found.positions.shape[1] == round(262 * (7 / BOX) ** 3)
    # Eight boxes are drawn as one, and then together.
    with pytest.warns(UserWarning, match="8 copies of a smaller sample"):
        eight = network.sample(**ASKED, n_particles=8 * 262, **fast)
    assert eight.positions.shape == (1, 8 * 262, 3) and eight.calls == 2 * found.calls
    # A sampler of one's own draws as it is, and that is what is said.
    fast["sampler"] = SAMPLERS["ancestral"]
    with pytest.warns(UserWarning, match="8 times as many: they are drawn as a whole"):
        whole = network.sample(**ASKED, n_particles=8 * 262, **fast)
    assert whole.calls == found.calls


def test_a_model_of_one_structure_and_one_of_a_surface_take_no_condition():
    found = mddm.load("unconditional-mddm").sample(sampler="ancestral", **FAST)
    assert found.condition == {} and np.isfinite(found.energies).all()
    cloud = mddm.load("sphere-mddm").sample(n_particles=50, **FAST)
    assert cloud.positions.shape == (1, 50, 3)


def test_energies_are_of_the_potential_that_is_given():
    other = Smoothed(OscillatingPair(5.0, 1.0))
    network = mddm.load("mddm")
    asked = ASKED | FAST | {"sampler": "ancestral"}
    mine, theirs = network.sample(**asked, potential=other), network.sample(**asked)
    assert np.array_equal(mine.positions, theirs.positions)
    assert mine.energies[0] != theirs.energies[0]


FALLING = Smoothed(Tabulated([0.5, 1, 2, 3], [-3.0, -2.0, -1.0, 0.0]))
WRONG = [
    ({}, "k, phi, temperature not given"),
    (ASKED | {"k": 500}, r"k = 500 lies outside of \[1, 15\].*extrapolate=True"),
    (ASKED | {"n_samples": 0}, "n_samples must be a whole number of at least 1"),
    (ASKED | {"n_samples": 1.5}, "n_samples must be a whole number"),
    (ASKED | {"seed": -1}, "seed must be"),
    (ASKED | {"n_particles": 500, "box_length": 10.0}, "knows the number density"),
    (ASKED | {"sampler": "polish"}, "did you mean 'polished'"),
    (ASKED | {"n_levels": 1}, "n_levels must be a whole number of at least 2"),
    (
        ASKED | {"sampler": "quick", "n_levels": 9},
        "has noise levels of its own; leave out n_levels",
    ),
    (ASKED | {"potential": "opp"}, "potential must be a Smoothed"),
    # What MD will refuse is refused before a sample is drawn for it.
    (ASKED | {"n_particles": 200, "sampler": "held"}, "above twice the cut-off .*more particles"),
    (ASKED | {"potential": FALLING, "sampler": "held"}, "must repel at contact"),
]


@pytest.mark.parametrize(("asked", "message"), WRONG)
def test_wrong_calls_are_refused_where_they_enter(asked, message):
    with pytest.raises((ValueError, TypeError), match=message):
        mddm.load("mddm").sample(**({"progress": False} | asked))


def test_an_answer_within_a_budget_is_the_first_of_its_candidates(monkeypatch):
    asked, given = ASKED | FAST | {"sampler": "ancestral"}, []

    def within(seconds, draw, potential, temperature, **size):
        given.append((seconds, potential, temperature, size))
        points = [last(draw(number)).positions[0].numpy() for number in range(2)]
        return [Candidate(name, points[i], i, 0.0, 1.0) for i, name in enumerate("ab")]

    monkeypatch.setattr(model, "within", within)
    found = mddm.load("mddm").sample(**asked, budget=9.0, seed=4)
    assert [each.name for each in found.candidates] == ["a", "b"]
    assert np.array_equal(found.positions[0], found.candidates[0].positions)
    for candidate, seed in zip(found.candidates, (4, 5), strict=True):
        alone = mddm.load("mddm").sample(**asked, seed=seed)
        assert np.array_equal(candidate.positions, alone.positions[0])
    ((seconds, potential, temperature, size),) = given
    assert (seconds, temperature) == (9.0, 0.02) and potential is found.potential
    size_and_how = {"n_particles": 262, "box_length": BOX, "seed": 4, "held_on": 0, "stable": False}
    assert size == size_and_how
    with pytest.raises(ValueError, match="a budget is for one structure"):
        mddm.load("mddm").sample(**asked, budget=9.0, n_samples=2)
    with pytest.raises(ValueError, match="needs a temperature"):
        mddm.load("unconditional-mddm").sample(budget=9.0)


def test_a_model_that_is_told_potentials_takes_any():
    network = mddm.load("potential-mddm")
    asked = {"temperature": 0.02, "sampler": "ancestral", **FAST}
    mine = Smoothed(LennardJones())
    found = network.sample(potential=mine, **asked)
    assert found.potential is mine and found.condition == {"temperature": 0.02}
    other = network.sample(potential=Smoothed(OscillatingPair(5.0, 1.0)), **asked)
    assert not np.array_equal(found.positions, other.positions)
    # Twice the energy and twice the temperature are the same system.
    double = asked | {"temperature": 0.04}
    same = network.sample(potential=Smoothed(LennardJones(epsilon=2.0)), **double)
    np.testing.assert_allclose(same.positions, found.positions, atol=1e-4)
    stable = network.sample(potential=mine, what="stable", **asked)
    assert not np.array_equal(found.positions, stable.positions)
    with pytest.raises(ValueError, match="knows anneals of the study alone; leave out what"):
        mddm.load("mddm").sample(**ASKED, what="stable")
    for wrong, message in (
        ({"potential": mine, "what": "crystal"}, "what must be one of"),
        ({}, "has to be told a potential; give it"),
        ({"potential": mine, "k": 9.0}, "knows temperature and a potential alone; leave out k"),
        ({"potential": mine, "temperature": 0.2}, r"temperature = 0.2 lies outside of"),
        ({"potential": LennardJones()}, "potential must be a Smoothed"),
        ({"potential": Smoothed(LennardJones(epsilon=0.0))}, "potential must vary where"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            network.sample(**asked | wrong)


def test_the_answer_of_samples_and_a_quench_says_how_far_to_believe_it(monkeypatch, tmp_path):
    network, numbers = mddm.load("potential-mddm"), mddm.load("mddm")
    mine = Smoothed(LennardJones())
    assert network.samplers[0] == BEST_TOLD
    asked = {"potential": mine, "temperature": 0.02, "sampler": "ancestral", **FAST}
    found = network.sample(**asked, n_samples=3)
    slopes = {"crystalline": 1.0, "spread": 0.0, "sampled": 1.0}
    source = trust.source_of(network.card.source, "ancestral")
    trust.Calibration(-1.0, slopes, 3.0, 9, 9, source).write(tmp_path / trust.FILE)
    monkeypatch.setattr(model, "TRAINED", tmp_path)
    chosen, difference = network.answer(found, seed=3, n_steps=10)
    quench = lammps.anneal(mine, 0.02, 10, 3, n_particles=262, box_length=BOX).positions
    rivals = replace(found, positions=np.concatenate([found.positions, quench[None]]))
    # Noise has no crystals.
    np.testing.assert_array_equal(chosen.positions[0], quench)
    expected = 1.0 if rivals.relax().energies.argmin() < 3 else 0.1
    assert (difference.expected, difference.at_most) == pytest.approx((expected, 3 * expected))
    # What is stable is not what MD comes to, and no other samples are those of the calibration.
    assert network.sample(**asked, what="stable").source == ""
    others = replace(found, source=network.sample(**asked | {"sampler": "paper"}).source)
    assert others.source and np.isnan(network.answer(others, n_steps=10)[1].at_most)
    with pytest.raises(ValueError, match="at least 3 samples, got 1 and 1"):
        network.answer(replace(found, positions=found.positions[:1]))
    with pytest.raises(ValueError, match="this is for models that are told potentials"):
        numbers.answer(found)


# --- the command line --------------------------------------------------------------------------


def test_a_session_at_the_command_line(tmp_path, capsys):
    out, options = tmp_path / "found.gsd", []
    for name, value in ASKED.items():
        options += [f"--{name}", str(value)]
    options = [f"--number=k={ASKED['k']}", *options[2:]]
    options += ["--model", "mddm", "--sampler", "ancestral", "--n-levels", "2"]
    assert command.main(["sample", *options, "--n-samples", "2", "--out", str(out)]) == 0
    assert "wrote 2 to" in capsys.readouterr().out
    potential = ["--potential", "opp:k=9,phi=0.75"]
    assert command.main(["score", str(out), "--against", str(out), *potential]) == 0
    told = capsys.readouterr().out
    assert f"2 frames of 262 particles in a box of {BOX}" in told and "RDF-MSE" in told
    assert "energy distance of the g(r) of both files: -" in told and "AUC" in told
    told = ["--model", "potential-mddm", "--temperature", "0.02", *options[-4:], *potential]
    assert command.main(["sample", *told, "--out", str(out)]) == 0
    assert "sample 0: seed 0, energy" in capsys.readouterr().out
    table = tmp_path / "mine.table"
    r = np.linspace(0.6, 3.2, 200)
    energies = OscillatingPair(9.0, 0.75).energy(torch.from_numpy(r)).numpy()
    np.savetxt(table, np.stack([r, energies], axis=1))
    relaxed = tmp_path / "relaxed.extxyz"
    assert command.main(["relax", str(out), "--potential", str(table), "--out", str(relaxed)]) == 0
    assert relaxed.is_file()
    anneal = ["anneal", "--temperature", "0.3", "--n-steps", "20", "--n-particles", "300"]
    anneal += ["--potential", "lennard-jones", "--out", str(tmp_path / "md.data")]
    assert command.main(anneal) == 0
    assert command.main(["models"]) == 0
    listed = capsys.readouterr().out
    assert (
        "k 1 to 15" in listed
        and "temperature 0.005 to 0.1, in units of how much U varies, any" in listed
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (["sample", "--model", "mddm", "--k", "9", "--out", "x.gsd"], "phi, temperature not given"),
        (["sample", "--model", "mddm", "--number", "k", "--out", "x.gsd"], "NAME=VALUE"),
        (["sample", "--model", "mddm", "--number", "alfa=6", "--out", "x.gsd"], "k, phi, temp"),
        (["sample", "--model", "brag", "--out", "x.gsd"], "name must be one of"),
        (["sample", "--model", "sphere-mddm", "--out", "x.gsd"], "draws points in free space"),
        (["sample", "--n-samples", "0", "--out", "x.gsd"], "n_samples must be a whole number"),
        (["sample", "--n-samples", "2", "--out", "x.data"], "holds one configuration, got 2"),
        (["lattices", "--potential", "morse", "--box-length", "0"], "box_length must be"),
        (["lattices", "--potential", "morse", "--n-particles", "-8"], "n_particles must be"),
        (["sample", "--model", "mddm", "--out", "x.pdb"], "path must end in one of"),
        (["score", "nowhere.gsd"], "there is no file nowhere.gsd"),
        (["relax", "x.gsd", "--potential", "nowhere.table", "--out", "y.gsd"], "no file nowhere"),
        (["relax", "x.gsd", "--potential", "morse:alfa=2", "--out", "y.gsd"], "did you mean"),
        (
            ["anneal", "--potential", "morse:alfa=2", "--temperature", "1", "--out", "x.gsd"],
            "did you mean 'alpha'",
        ),
        (
            ["anneal", "--potential", "morse:2", "--temperature", "1", "--out", "x.gsd"],
            "not a name and parameters",
        ),
        (
            ["anneal", "--potential", "morse", "--temperature", "-1", "--out", "x.gsd"],
            "temperature must be",
        ),
        (["anneal", "--potential", "morse", "--temperature", "1", "--out", "x.pdb"], ".pdb"),
        (["train", "--out", "x.safetensors"], "name it with --data"),
        (["train", "--task", "torus", "--model", "brag", "--out", "x.safetensors"], "'bragg'"),
        (["train", "--task", "torus", "--data", "x.h5", "--out", "x.safetensors"], "no data set"),
        (["train", "--data", "nowhere.h5", "--out", "x.safetensors"], "nowhere.h5 does not exist"),
        (["train", "--data", SMALL, SMALL, "--out", "x.safetensors"], "about one data set, got 2"),
        (["train", "--task", "torus", "--out", "x.gsd"], "must end in .safetensors"),
        (["data", "make", "smal"], "did you mean 'small'"),
        (["data", "make", "small", "--out", "x.gsd"], "--out must end in .h5, got 'x.gsd'"),
        (["data", "make", "any", "--device", "gpu"], "device must be one that this machine has"),
        (["data", "make", "any", "--device", "cpu", "--workers", "2"], "runs all by itself"),
    ],
)
def test_failures_are_one_line_and_leave_nothing(call, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main([*call, "--n-steps", "10"] if call[0] == "anneal" else call) == 1
    told = capsys.readouterr().err
    assert told.startswith("mddm: ") and message in told and told.count("\n") == 1
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def parsers(parser):
    """The parsers of all commands below one."""
    for action in parser._subparsers._group_actions if parser._subparsers else ():
        for below in action.choices.values():
            yield below
            yield from parsers(below)


def test_every_command_has_an_example_that_it_takes():
    found = list(parsers(command._parser()))
    assert {each.prog for each in found} >= {"mddm sample", "mddm train", "mddm data make"}
    for each in found:
        example = each.epilog.removeprefix("example: ")
        assert example.startswith(each.prog)
        assert callable(command._parser().parse_args(example.split()[1:]).run)


def test_files_of_other_densities_are_compared_with_a_word(tmp_path, capsys):
    points = np.random.default_rng(0).uniform(0, 4, (64, 3))
    for name, box_length in (("dense", 4.0), ("thin", 5.0)):
        export.write(tmp_path / f"{name}.xyz", points, box_length)
    dense, thin = str(tmp_path / "dense.xyz"), str(tmp_path / "thin.xyz")
    assert command.main(["score", dense, "--against", dense]) == 0
    assert not capsys.readouterr().err
    assert command.main(["score", dense, "--against", thin]) == 0
    told = f"mddm: {dense} is of number density 1, and {thin} of 0.512: their g(r) need not agree"
    assert capsys.readouterr().err.strip() == told


def test_help_tells_the_defaults(capsys):
    with pytest.raises(SystemExit):
        command.main(["anneal", "--help"])
    told = capsys.readouterr().out
    assert "default: 100000" in told and "None" not in told


def test_a_warning_is_a_line(tmp_path, capsys, monkeypatch):
    table = tmp_path / "far.table"
    r = np.linspace(0.6, 4.0, 200)
    np.savetxt(table, np.stack([r, r**-12.0], axis=1))

    def shown(*warning):
        print(warnings.formatwarning(*warning[:4]), end="", file=sys.stderr)

    # pytest keeps warnings for itself.
    monkeypatch.setattr(warnings, "showwarning", shown)
    assert command.main(["lattices", "--potential", str(table), "-n", "0"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"mddm: {table}: what lies beyond r = 3 is left out; lengths are in")
    assert second.startswith("mddm: n_best must be a whole number")
    assert "UserWarning" in warnings.formatwarning("x", UserWarning, "y.py", 1)


@pytest.mark.parametrize("words", ["", "kept in x"])
def test_ctrl_c_is_told_in_a_line(words, capsys, monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt(*filter(None, [words]))

    monkeypatch.setattr(command, "_models", interrupted)
    assert command.main(["models"]) == 130
    assert capsys.readouterr().err == f"mddm: {words or 'stopped; no file is half-written'}\n"


def test_usage_errors_are_usual():
    with pytest.raises(SystemExit) as stop:
        command.main(["sample"])
    assert stop.value.code == 2


def test_the_package_is_imported_without_pytorch():
    code = "import sys, mddm; assert mddm.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
