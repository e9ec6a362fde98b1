"""The page that samples: its JavaScript against the package, on the same noise."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mddm import (
    condition,
    dataset,
    geometry,
    lammps,
    model,
    noise,
    samplers,
    sampling,
    structure,
    study,
)
from mddm.potential import OscillatingPair, Smoothed, potential_energy

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[dev]'")

pytestmark = pytest.mark.xdist_group("book")

LIVE = Path(__file__).resolve().parents[2] / "book" / "_assets" / "live"
CLOSE = {"rtol": 0, "atol": 1e-4}
CONDITION = (9.0, 0.75, 0.02)
POTENTIAL = Smoothed(OscillatingPair(*CONDITION[:2]))


@pytest.fixture(scope="module")
def run(browser):
    """Run JavaScript on `live`, the page's functions, `given` and `x`, its array of positions."""
    page = browser.new_page()
    page.add_script_tag(path=LIVE / "sampler.js")

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
    energy, energies, forces = run(
        """const system = new live.System(...given.pair, given.edge);
        return [system.evaluate(x), [...system.energies], [...system.forces]];""",
        positions,
        edge=box_length,
        pair=CONDITION[:2],
    )
    places = torch.from_numpy(positions).requires_grad_()
    expected = potential_energy(places, POTENTIAL, box_length)
    expected.sum().backward()
    assert energy == pytest.approx(expected.mean().item(), rel=1e-4)
    np.testing.assert_allclose(energies, expected.detach(), rtol=1e-4, atol=1e-4)
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


def test_the_reference_is_md_of_the_data(root):
    _, _, text = (LIVE / "md.js").read_text().partition(" = ")
    kept = json.loads(text.removesuffix(";\n"))
    curves = np.frombuffer(base64.b64decode(kept["curves"]), "<u2").reshape(-1, kept["nBins"])
    md = dataset.read(root / study.DATA)
    row = md.nearest(*CONDITION)
    place = kept["conditions"].index(md.conditions[row].round(4).tolist())
    _, expected = structure.rdf(md.positions[row], md.box_length, r_max=kept["rMax"])
    np.testing.assert_allclose(curves[place] / 100, expected, atol=0.006)
    assert kept["energies"][place] == pytest.approx(md.energy[row], abs=1e-4)
    assert len(curves) == (md.split != "replica").sum()


# ---- the page --------------------------------------------------------------------------------

# A sample of few calls, and without the time that its relaxation takes.
SHORT = """async () => {
    const { relax } = mddmLive;
    mddmLive.relax = (system, x, limits) => relax(system, x, { ...limits, nMost: 20 });
    mddmLive.network.nLevels = 4;
}"""


@pytest.fixture
def live(built, new_page):
    """Open the page from disk; `page.loaded` are the scripts that it asks for."""

    def open_page(**options):
        page = new_page(**options)
        page.loaded = []
        page.on("request", lambda request: page.loaded.append(request.url.rpartition("/")[2]))
        page.goto((built / "live.html").as_uri())
        return page

    return open_page


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def check_status(page, expected):
    sync_api.expect(page.locator(".mddm-try [role=status]")).to_contain_text(expected)


def test_the_network_in_the_page_is_the_packages(live):
    page = live()
    positions, box_length = gas(500)
    estimate = """async ([x, condition, sigma]) => {
        const estimate = await mddmLive.denoiser(condition);
        return [...await estimate(Float64Array.from(x), sigma)];
    }"""
    found = page.evaluate(estimate, [positions.ravel().tolist(), CONDITION, 0.1])
    denoiser = model.load("mddm").denoiser
    places, told = torch.from_numpy(positions)[None].float(), torch.tensor([CONDITION])
    with torch.no_grad():
        expected = denoiser(places, torch.tensor([0.1]), told, box_length)
    np.testing.assert_allclose(found, expected.flatten(), **CLOSE)
    calls = page.evaluate("mddmLive.countCalls(mddmLive.logLevels(40, 0.005, 5))")
    assert f"calls the network {calls} times" in page.locator("article").inner_text()
    assert page.complaints == []


def test_a_sample_and_a_quench_are_made_and_reported(live):
    page = live(viewport={"width": 390, "height": 844}, color_scheme="dark")
    assert "runtime.js" not in page.loaded, "large files are loaded on demand"
    size = sum((LIVE / f"{name}.js").stat().st_size for name in ("runtime", "network", "md"))
    check_status(page, f"{size / 1e6:.1f} MB")
    page.get_by_role("slider", name="k, spatial").press("ArrowRight")
    sync_api.expect(page.locator(".mddm-try output").first).to_have_text("9.4")
    page.add_script_tag(path=LIVE / "network.js")
    page.evaluate(SHORT)
    press(page, "Step")
    check_status(page, "Waiting at call 1,")
    press(page, "Step")
    check_status(page, "Waiting at call 2,")
    assert page.get_by_role("button", name="Quench by MD").is_disabled()
    press(page, "Continue")
    calls = page.evaluate("mddmLive.countCalls(mddmLive.logLevels(4, 0.005, 5))")
    check_status(page, f"A sample at k 9.4, φ 4.3, T 0.040, after {calls} calls")
    assert "runtime.js" in page.loaded
    sync_api.expect(page.locator("figure output")).to_contain_text("the result")
    sync_api.expect(page.locator(".mddm-bar")).to_contain_text("potential energy [ε]")
    press(page, "Quench by MD")
    check_status(page, "A quench at k 9.4, φ 4.3, T 0.040, of")
    rows = [row.split("\t") for row in page.locator(".mddm-try tbody tr").all_inner_texts()]
    assert [row[0].split()[0] for row in rows] == ["MD", "sample", "quench"]
    for row in rows[1:]:
        assert all(float(cell.replace("−", "-")) > 0 for cell in row[1:])
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.complaints == []


def test_a_run_can_be_stopped_by_keyboard(live):
    page = live()
    button = page.get_by_role("button", name="Quench by MD")
    button.focus()
    page.keyboard.press("Enter")
    stop = page.get_by_role("button", name="Stop")
    sync_api.expect(stop).to_be_focused()
    check_status(page, "MD at k 9.3")
    page.keyboard.press("Enter")
    check_status(page, "Stopped.")
    assert "runtime.js" not in page.loaded
    assert page.complaints == []


def test_without_webassembly_the_recorded_run_stays(live):
    page = live()
    page.evaluate("delete window.WebAssembly")
    press(page, "Sample")
    check_status(page, "cannot run the network")
    assert page.get_by_role("button", name="Sample").is_disabled()
    assert page.get_by_role("button", name="Quench by MD").is_enabled()
    press(page, "Play")
    sync_api.expect(page.get_by_role("button", name="Pause")).to_be_visible()


def test_without_scripts_a_picture_is_shown(live):
    page = live(java_script_enabled=False)
    assert page.locator(".mddm-still").is_visible()
    assert page.locator(".mddm-try").inner_text() == ""


def test_no_other_page_loads_what_it_takes(built):
    for path in built.rglob("*.html"):
        loads = "_static/live/" in path.read_text()
        assert loads == (path.name == "live.html"), path
