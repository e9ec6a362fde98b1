"""The page that samples: its JavaScript against the package, on the same noise."""

import base64
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.interpolate import PchipInterpolator

from mddm import (
    condition,
    dataset,
    encoding,
    geometry,
    lammps,
    model,
    noise,
    samplers,
    sampling,
    structure,
    study,
    waves,
)
from mddm.potential import OscillatingPair, Smoothed, energy_scale, potential_energy
from mddm.study import tables

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "book"))

import live as made

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[dev]'")

pytestmark = pytest.mark.xdist_group("book")

LIVE = Path(__file__).resolve().parents[2] / "book" / "_assets" / "live"
CLOSE = {"rtol": 0, "atol": 1e-4}
CONDITION = (9.0, 0.75, 0.02)
POTENTIAL = Smoothed(OscillatingPair(*CONDITION[:2]))
PAIR = "live.smoothed(live.oscillating(...given.pair))"


@pytest.fixture(scope="module")
def run(browser):
    """Run JavaScript on `live`, the page's functions, `given` and `x`, its array of positions."""
    page = browser.new_page()
    for name in ("pair", "potentials", "sampler", "waves"):
        page.add_script_tag(path=LIVE / f"{name}.js")

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
        f"const system = new live.System({PAIR}, given.edge);"
        """
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


R = torch.linspace(0.5, 3.2, 200, dtype=torch.float64)
CURVE = """const found = [...x].map(%s);
return [found.map((pair) => pair.energy), found.map((pair) => pair.force)];"""


def test_energies_of_pairs(run):
    found = run(CURVE % PAIR, R, pair=CONDITION[:2])
    np.testing.assert_allclose(found, torch.stack([POTENTIAL.energy(R), POTENTIAL.force(R)]))


@pytest.mark.parametrize("name", made.POTENTIALS)
def test_potentials_to_begin_with_are_the_packages(run, name):
    found = run(CURVE % "live.smoothed(live.tabulated(live.potentials[given.name]))", R, name=name)
    potential = Smoothed(made.POTENTIALS[name])
    expected = torch.stack([potential.energy(R), potential.force(R)])
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-3)


def test_a_drawing_adds_what_lies_between_its_points(run):
    places, changes = [1.0, 1.2, 1.5, 1.7, 2.2], [0.3, -1.0, -1.0, 0.5, 0.1]
    energy, force = run(
        CURVE % "live.changed(() => ({ energy: 0, force: 0 }), given.places, given.changes)",
        R,
        places=places,
        changes=changes,
    )
    # A point of the same height beyond either end makes the slope there zero.
    ends = [0.4, *places, 3.0, 3.5], [changes[0], *changes, 0.0, 0.0]
    expected = PchipInterpolator(*ends)
    np.testing.assert_allclose(energy, expected(R), atol=1e-12)
    np.testing.assert_allclose(force, -expected.derivative()(R), atol=1e-12)


def test_what_the_network_is_told(run):
    found, scale = run(
        f"const pair = {PAIR}; return [[...live.encode(pair, 0.02)], live.energyScale(pair)];",
        [],
        pair=CONDITION[:2],
    )
    np.testing.assert_allclose(found, encoding.encode(POTENTIAL, 0.02), rtol=1e-5, atol=1e-5)
    assert scale == pytest.approx(energy_scale(POTENTIAL))


def crystal(side, sigma):
    """A simple cubic lattice in noise, as float32 has it."""
    axis = np.arange(0.5, side)
    lattice = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
    places = lattice + sigma * np.random.default_rng(0).normal(size=lattice.shape)
    return geometry.wrap_single(places, side), float(side)


@pytest.mark.parametrize("sigma", [0.1, 0.3])
def test_waves_and_sites(run, sigma):
    positions, box_length = crystal(6, sigma)
    vectors, strength, sites, way, certainty = run(
        """const waves = live.strongestWaves(x, given.edge, 64, 9.5);
        const sites = live.findSites(waves, given.sigma, x.length / 3, given.edge);
        const { way, certainty } = live.assign(x, sites, given.sigma, given.edge);
        return [waves.vectors, waves.strength, sites, way, certainty].map((one) => [...one]);""",
        positions,
        edge=box_length,
        sigma=sigma,
    )
    systems, level = torch.from_numpy(positions)[None], torch.tensor([sigma])
    known = waves.strongest_waves(systems, 64, waves.Q_LONG, 9.5, box_length, long=True)
    crests, is_site = waves.find_sites(known, level, len(positions), box_length)
    displacement, share = waves.assign(systems, crests, is_site, level, box_length)
    assert is_site.any() == (sigma == 0.1)
    np.testing.assert_allclose(np.sort(strength), known.strength[0].sort().values, rtol=1e-3)
    np.testing.assert_allclose(np.sort(vectors), known.vectors.flatten().sort().values, **CLOSE)
    expected = crests[is_site].numpy()
    apart = np.reshape(sites, (-1, 1, 3)) - expected
    apart = np.abs(apart - box_length * np.round(apart / box_length)).max(axis=-1)
    assert apart.shape == (len(expected), len(expected))
    np.testing.assert_allclose(apart.min(axis=0, initial=np.inf), 0, atol=1e-3)
    np.testing.assert_allclose(way, displacement.flatten(), **CLOSE)
    np.testing.assert_allclose(certainty, share.flatten(), **CLOSE)


def test_minimisation_ends_where_lammps_does(run):
    positions, box_length = gas(250)
    at_rest, expected, _ = lammps.minimize(positions, POTENTIAL, box_length)
    shaken = at_rest + 0.01 * np.random.default_rng(0).normal(size=at_rest.shape)
    energy = run(
        f"const system = new live.System({PAIR}, given.edge);"
        """
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
        f"const system = new live.System({PAIR}, given.edge);"
        """
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
    """A denoiser that is easily written twice: towards the neighbours, more at some levels."""

    def forward(self, x_t, sigma, told, box_length):
        _, displacement = geometry.nearest_neighbors(x_t, 8, box_length)
        return displacement.mean(dim=2) * sigma.log()[:, None, None]


MEAN = """
const estimate = async (x, sigma) => {
    const { displacements } = live.nearestNeighbors(x, 8, given.edge);
    return x.map((_, i) => {
        const [particle, axis] = [Math.floor(i / 3), i % 3];
        let sum = 0;
        for (let j = 0; j < 8; j++) sum += displacements[(particle * 8 + j) * 3 + axis];
        return Math.log(sigma) / 8 * sum;
    });
};
const draws = given.noise.map((draw) => Float64Array.from(draw));
const normal = () => draws.shift();
const shrink = (x, force) => [{ positions: x.map((one) => (1 - force / 1000) * one) }];
let last;
const tools = { estimate, normal, boxLength: given.edge };
for await (last of live.quick(tools, x, given.low, given.high, shrink));
return [[...last.positions], last.calls, live.QUICK_CALLS, draws.length];
"""


def test_a_sample_is_the_packages_on_the_same_noise(run, monkeypatch):
    drawn, normal = [], sampling.Walk.normal

    def record(walk, like):
        drawn.append(normal(walk, like))
        return drawn[-1]

    monkeypatch.setattr(sampling.Walk, "normal", record)
    positions, box_length = gas(125)
    low, high = condition.SIGMA_MIN, condition.SIGMA_MAX
    frames = samplers.SAMPLERS[made.SAMPLER](
        Mean(),
        torch.from_numpy(positions)[None],
        noise.make_schedule("log", 2, low, high),
        torch.Generator().manual_seed(0),
        None,
        box_length,
        relax=lambda places, tolerance: (1 - tolerance / 1000) * places,
    )
    expected = sampling.last(frames)
    found, calls, counted, unused = run(
        MEAN,
        positions,
        edge=box_length,
        low=low,
        high=high,
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


def test_the_page_says_what_the_scores_do(root):
    scores = tables.read_scores(root / "data" / "results" / "scores-told.csv")
    ours = (scores["split"] == "test") & (scores["sampler"] == made.SAMPLER)
    drawn = scores[ours & (scores["n_tries"] == 1) & ~scores["relaxed"]]
    means = drawn.groupby(list(made.START))["rdf_mse"].mean().sort_values()
    median = dict(zip(made.START, means.index[len(means) // 2], strict=True))
    assert pytest.approx(median, abs=0.05) == made.START
    of_crystals = drawn[drawn["md_crystallinity"] > structure.CRYSTAL]["crystallinity"]
    # More often than not.
    assert 0.5 < (of_crystals > structure.CRYSTAL).mean() < 0.7


# ---- the page --------------------------------------------------------------------------------

# A sample of two calls.
SHORT = """() => {
    mddmLive.quick = (given, x, low, high) => mddmLive.ancestral(given, x, [0, 0.2, high]);
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
    estimate = """async ([x, [k, phi, temperature], sigma, edge]) => {
        mddmLive.network.boxLength = edge;
        const pair = mddmLive.smoothed(mddmLive.oscillating(k, phi));
        const estimate = await mddmLive.denoiser(pair, temperature);
        return [...await estimate(Float64Array.from(x), sigma)];
    }"""
    page.add_script_tag(path=LIVE / "network.js")
    denoiser = model.load(made.MODEL).denoiser
    told = encoding.encode(POTENTIAL, CONDITION[2])[None]
    for (positions, box_length), sigma in ((gas(500), 1.0), (crystal(6, 0.1), 0.1)):
        given = [np.ravel(positions).tolist(), CONDITION, sigma, box_length]
        found = page.evaluate(estimate, given)
        places = torch.from_numpy(positions)[None].float()
        with torch.no_grad():
            expected = denoiser(places, torch.tensor([sigma]), told, box_length)
        np.testing.assert_allclose(found, expected.flatten(), **CLOSE)
    calls = page.evaluate("mddmLive.QUICK_CALLS")
    assert f"calls the network {calls} times" in page.locator("article").inner_text()
    assert page.complaints == []


def rows_of(page):
    return [row.split("\t") for row in page.locator(".mddm-try tbody tr").all_inner_texts()]


def test_a_sample_and_a_quench_are_made_and_reported(live):
    page = live(viewport={"width": 390, "height": 844}, color_scheme="dark")
    assert "runtime.js" not in page.loaded, "large files are loaded on demand"
    size = sum((LIVE / f"{name}.js").stat().st_size for name in ("runtime", "network", "md"))
    check_status(page, f"{size / 1e6:.1f} MB")
    page.get_by_role("slider", name="k, spatial").press("ArrowRight")
    k, phi, temperature = made.START.values()
    moved = f"k {k + 0.1:.1f}, φ {phi:.1f}, T {temperature:.3f}"
    sync_api.expect(page.locator(".mddm-try output").first).to_have_text(f"{k + 0.1:.1f}")
    page.evaluate(SHORT)
    press(page, "Step")
    check_status(page, "Waiting at call 1,")
    assert page.get_by_role("button", name="Quench by MD").is_disabled()
    press(page, "Continue")
    check_status(page, f"A sample at {moved}, after 2 calls")
    assert "runtime.js" in page.loaded
    sync_api.expect(page.locator("figure output")).to_contain_text("the result")
    sync_api.expect(page.locator(".mddm-bar")).to_contain_text("potential energy [ε]")
    press(page, "Quench by MD")
    check_status(page, f"A quench at {moved}, of")
    rows = rows_of(page)
    assert [row[0].split()[0] for row in rows] == ["MD", "sample", "quench"]
    for row in rows[1:]:
        assert all(np.isfinite(float(cell.replace("−", "-"))) for cell in row[1:])
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.complaints == []


def point(page, r):
    return page.get_by_role("slider", name=f"U at r = {r} σ", exact=True)


def height(page, r):
    return float(point(page, r).get_attribute("aria-valuenow"))


@pytest.mark.parametrize("by", ["mouse", "touch"])
def test_a_potential_is_drawn(live, by):
    page = live(viewport={"width": 390, "height": 844}, has_touch=by == "touch")
    page.get_by_label("Potential, to begin with").select_option("Morse")
    assert not page.get_by_role("slider", name="k, spatial").is_visible()
    expected = Smoothed(made.POTENTIALS["Morse"]).energy(torch.tensor([1.0, 1.45]))
    assert [height(page, r) for r in (1, 1.45)] == pytest.approx(expected.tolist(), abs=0.01)
    point(page, 1.45).scroll_into_view_if_needed()
    box = point(page, 1.45).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    if by == "mouse":
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x, y - 40, steps=4)
        page.mouse.up()
    else:
        session = page.context.new_cdp_session(page)
        for kind, at in (("touchStart", [y]), ("touchMove", [y - 40]), ("touchEnd", [])):
            points = [{"x": x, "y": place} for place in at]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    # The picture is 186 pixels high and shows 5.4 of energy.
    assert height(page, 1.45) == pytest.approx(expected[1].item() + 40 * 5.4 / 186, abs=0.05)
    before = height(page, 1.8)
    point(page, 1.8).press("ArrowDown")
    assert height(page, 1.8) == pytest.approx(before - 0.05, abs=0.011)
    point(page, 1).press("Home")
    assert height(page, 1) == pytest.approx(expected[0].item(), abs=0.01), "the core stays"
    press(page, "Undo drawing")
    assert height(page, 1.45) == pytest.approx(expected[1].item(), abs=0.01)
    assert page.complaints == []


def test_a_drawing_is_sampled_and_held_against_a_quench(live):
    page = live()
    page.evaluate(SHORT)
    page.get_by_label("Potential, to begin with").select_option("Lennard-Jones")
    for r in (1.3, 1.45):
        point(page, r).press("End")
    page.get_by_role("slider", name="T, temperature").press("Home")
    press(page, "Sample")
    check_status(page, "A sample at a drawing over Lennard-Jones, T 0.010, after 2 calls")
    check_status(page, "For so deep a potential the network was trained from T 0.0")
    [[name, _, error, _]] = rows_of(page)
    assert (name, error) == ("sample", ""), "there is nothing to hold it against yet"
    press(page, "Quench by MD")
    check_status(page, "A quench at a drawing over")
    rows = rows_of(page)
    assert [row[0] for row in rows] == ["sample", "quench"]
    assert float(rows[0][2]) > 0 and rows[1][2] == ""
    table = page.locator(".mddm-try table")
    sync_api.expect(table).to_contain_text("has no MD of this potential")
    curve = page.locator(".mddm-curve").first
    curve.scroll_into_view_if_needed()
    sync_api.expect(curve).to_have_attribute("aria-label", re.compile(r"against sample, .* of MD"))
    assert page.complaints == []


def test_a_run_can_be_stopped_by_keyboard(live):
    page = live()
    button = page.get_by_role("button", name="Quench by MD")
    button.focus()
    page.keyboard.press("Enter")
    stop = page.get_by_role("button", name="Stop")
    sync_api.expect(stop).to_be_focused()
    check_status(page, f"MD at k {made.START['k']:.1f}")
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
