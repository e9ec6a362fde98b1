"""The page that samples: its JavaScript against the package, on the same noise."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mddm import condition, geometry, lammps, noise, samplers, sampling, structure
from mddm.potential import OscillatingPair, Smoothed, potential_energy

pytestmark = pytest.mark.xdist_group("book")

SAMPLER = Path(__file__).resolve().parents[2] / "book" / "_assets" / "live" / "sampler.js"
CLOSE = {"rtol": 0, "atol": 1e-4}
CONDITION = (9.0, 0.75, 0.02)
POTENTIAL = Smoothed(OscillatingPair(*CONDITION[:2]))


@pytest.fixture(scope="module")
def run(browser):
    """Run JavaScript on `live`, the page's functions, `given` and `x`, its array of positions."""
    page = browser.new_page()
    page.add_script_tag(path=SAMPLER)

    def run(script, positions, **given):
        given["x"] = np.ravel(positions).tolist()
        body = "const live = mddmLive, x = Float64Array.from(given.x);"
        return page.evaluate(f"async given => {{ {body} {script} }}", given)

    yield run
    page.close()


def gas(n_particles, seed=0):
    box_length = n_particles ** (1 / 3)
    return np.random.default_rng(seed).uniform(0, box_length, (n_particles, 3)), box_length


@pytest.mark.parametrize("n_particles", [30, 500])
def test_neighbors(run, n_particles):
    positions, box_length = gas(n_particles)
    neighbors, displacements = run(
        """const found = live.nearestNeighbors(x, 8, given.edge);
        return [[...found.neighbors].map(Number), [...found.displacements]];""",
        positions,
        edge=box_length,
    )
    expected = geometry.nearest_neighbors(torch.from_numpy(positions)[None], 8, box_length)
    np.testing.assert_array_equal(neighbors, expected[0].flatten())
    np.testing.assert_allclose(displacements, expected[1].flatten(), **CLOSE)


def test_rdf(run):
    positions, box_length = gas(100)
    r_max = structure.RDF_RANGE * box_length
    found = run(
        "return [...live.rdf(x, given.edge, 100, given.end)]",
        positions,
        edge=box_length,
        end=r_max,
    )
    _, expected = structure.rdf(positions, box_length)
    np.testing.assert_allclose(found, expected, **CLOSE)


def test_energy_and_forces(run):
    positions, box_length = gas(300)
    energy, forces = run(
        """const system = new live.System(...given.pair, given.edge);
        return [system.evaluate(x), [...system.forces]];""",
        positions,
        edge=box_length,
        pair=CONDITION[:2],
    )
    places = torch.from_numpy(positions).requires_grad_()
    expected = potential_energy(places, POTENTIAL, box_length).sum()
    expected.backward()
    assert energy == pytest.approx(expected.item() / 300, rel=1e-4)
    np.testing.assert_allclose(forces, -places.grad.flatten(), rtol=1e-4, atol=1e-2)


def test_energies_of_pairs(run):
    r = torch.linspace(0.5, 3.2, 200, dtype=torch.float64)
    found = run(
        """const pairs = [...x].map((r) => live.smoothedPair(...given.pair, r));
        return [pairs.map((pair) => pair.energy), pairs.map((pair) => pair.force)];""",
        r,
        pair=CONDITION[:2],
    )
    np.testing.assert_allclose(found, torch.stack([POTENTIAL.energy(r), POTENTIAL.force(r)]))


def test_minimisation_ends_where_lammps_does(run):
    positions, box_length = gas(250)
    at_rest, expected, _ = lammps.minimize(positions, POTENTIAL, box_length)
    shaken = at_rest + 0.01 * np.random.default_rng(0).normal(size=at_rest.shape)
    energy = run(
        """const system = new live.System(...given.pair, given.edge);
        let last;
        for (last of live.relax(system, live.wrap(x, given.edge)));
        return last.energy;""",
        shaken,
        edge=box_length,
        pair=CONDITION[:2],
    )
    assert energy == pytest.approx(expected, abs=1e-4)


def test_a_quench_is_that_of_lammps(run):
    """`lammps.anneal`, with as many steps, has these means over eight seeds."""
    positions, box_length = gas(250)
    last = run(
        """const system = new live.System(...given.pair, given.edge);
        const normal = live.normalNumbers(live.uniformNumbers(0));
        let last;
        for (last of live.quench(system, x, 0.02, normal, (step) => step / 600));
        return { ...last, positions: null };""",
        positions,
        edge=box_length,
        pair=CONDITION[:2],
    )
    assert last["nSteps"] == 600
    # So short a run lags behind its thermostat.
    assert last["kineticTemperature"] == pytest.approx(0.0425, rel=0.2)
    assert last["energy"] == pytest.approx(-1.034, abs=0.1)


class Mean(torch.nn.Module):
    """A denoiser that is easily written twice: towards the neighbours, if it is told the level."""

    conditioning = condition.Conditioning()

    def forward(self, x_t, sigma, told, box_length):
        _, displacement = geometry.nearest_neighbors(x_t, 8, box_length)
        return displacement.mean(dim=2) * self.conditioning(told, sigma).sum(dim=1)[:, None, None]


MEAN = """
const { ranges, sigmaMin, sigmaMax } = given;
const estimate = async (x, sigma) => {
    const { displacements } = live.nearestNeighbors(x, 8, given.edge);
    const told = live.globalsOf(given.condition, sigma, { ranges, sigmaMin, sigmaMax });
    const weight = told.reduce((sum, one) => sum + one) / 8;
    return x.map((_, i) => {
        const [particle, axis] = [Math.floor(i / 3), i % 3];
        let sum = 0;
        for (let j = 0; j < 8; j++) sum += displacements[(particle * 8 + j) * 3 + axis];
        return weight * sum;
    });
};
const draws = given.noise.map((draw) => Float64Array.from(draw));
const normal = () => draws.shift();
const levels = live.logLevels(given.nLevels, sigmaMin, sigmaMax);
const shrink = (x) => [{ positions: x.map((one) => 0.99 * one) }];
let last;
const tools = { estimate, normal, boxLength: given.edge };
for await (last of live.thermalised(tools, x, levels, shrink));
return [[...last.positions], last.calls, live.countCalls(levels), draws.length];
"""


def test_a_sample_is_the_packages_on_the_same_noise(run, monkeypatch):
    drawn, normal = [], sampling.Walk.normal

    def record(walk, like):
        drawn.append(normal(walk, like))
        return drawn[-1]

    monkeypatch.setattr(sampling.Walk, "normal", record)
    positions, box_length = gas(125)
    n_levels, (low, high) = 14, (condition.SIGMA_MIN, condition.SIGMA_MAX)
    sampler = samplers.SAMPLERS["thermalised"]
    # The page has none, and there is no lattice here.
    assert sampler.start.hops
    frames = sampler(
        Mean(),
        torch.from_numpy(positions)[None],
        noise.make_schedule("log", n_levels, low, high),
        torch.Generator().manual_seed(0),
        torch.tensor([CONDITION]).double(),
        box_length,
        relax=lambda places: 0.99 * places,
    )
    expected = sampling.last(frames)
    found, calls, counted, unused = run(
        MEAN,
        positions,
        edge=box_length,
        condition=CONDITION,
        ranges=list(condition.RANGES.values()),
        sigmaMin=low,
        sigmaMax=high,
        nLevels=n_levels,
        noise=[draw.flatten().tolist() for draw in drawn],
    )
    assert calls == counted == expected.calls
    assert unused == 0
    np.testing.assert_allclose(found, expected.positions.flatten(), **CLOSE)
