import freud
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from mddm import structure

BOX = 10.0


def ideal_gas(n_configurations=None, n_particles=1000, seed=0):
    shape = (n_particles, 3) if n_configurations is None else (n_configurations, n_particles, 3)
    return np.random.default_rng(seed).random(shape) * BOX


def lattice(basis, n_cells):
    cells = np.stack(np.meshgrid(*[np.arange(n_cells)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    return ((cells + np.asarray(basis)) * BOX / n_cells).reshape(-1, 3)


SIMPLE_CUBIC = [[0, 0, 0]]
FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
BCC = [[0, 0, 0], [0.5, 0.5, 0.5]]


def pair_distances(positions):
    delta = positions[:, None] - positions[None]
    delta -= BOX * np.round(delta / BOX)
    return np.sqrt((delta**2).sum(-1))[np.triu_indices(len(positions), k=1)]


def shell_volumes(bin_centers):
    half = bin_centers[0]
    return 4 / 3 * np.pi * ((bin_centers + half) ** 3 - (bin_centers - half) ** 3)


# --- radial distribution function --------------------------------------------------------------


def test_rdf_is_the_histogram_of_pair_distances():
    positions = ideal_gas(n_particles=400)
    bin_centers, rdf = structure.rdf(positions, BOX, n_bins=50, r_max=4.0)
    counts, edges = np.histogram(pair_distances(positions), bins=50, range=(0, 4))
    np.testing.assert_allclose(bin_centers, (edges[1:] + edges[:-1]) / 2, rtol=1e-5)
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    expected = 2 * counts / 400 / (shells * 400 / BOX**3)
    # A pair on an edge may fall on either side of it in float32.
    assert np.abs(rdf - expected).sum() < 1e-3 * expected.sum()


def test_rdf_equals_freud_given_the_neighbor_list():
    positions = ideal_gas(n_particles=500)
    bin_centers, rdf = structure.rdf(positions, BOX)
    box = freud.box.Box.cube(BOX)
    query = freud.locality.AABBQuery(box, box.wrap(positions))
    pairs = query.query(box.wrap(positions), {"r_max": 4.99, "exclude_ii": True}).toNeighborList()
    oracle = freud.density.RDF(bins=100, r_max=4.99)
    oracle.compute(query, neighbors=pairs)
    np.testing.assert_allclose(bin_centers, oracle.bin_centers)
    np.testing.assert_allclose(rdf, oracle.rdf, atol=0.02)
    assert np.abs(rdf - oracle.rdf).mean() < 1e-3


def test_the_convention_is_a_hundred_bins_to_4_99():
    bin_centers, rdf = structure.rdf(ideal_gas(), BOX)
    assert bin_centers.shape == rdf.shape == (100,)
    np.testing.assert_allclose(bin_centers, (np.arange(100) + 0.5) * 0.0499, rtol=1e-5)
    # In units of the box, for any box.
    twice, same = structure.rdf(2 * ideal_gas(), 2 * BOX)
    np.testing.assert_allclose(twice, 2 * bin_centers, rtol=1e-5)
    np.testing.assert_allclose(same, rdf, atol=0.05)


def test_an_ideal_gas_has_no_structure():
    bin_centers, rdf = structure.rdf(ideal_gas(n_configurations=20), BOX)
    pairs = 20 * 1000 * 999 / 2 * shell_volumes(bin_centers) / BOX**3
    deviation = (rdf - 999 / 1000) * np.sqrt(pairs)
    assert np.abs(deviation).max() < 4.5
    assert np.std(deviation) == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("n_particles", [2, 5])
def test_rdf_of_a_few_particles_lacks_each_of_them(n_particles):
    _, rdf = structure.rdf(ideal_gas(2000, n_particles), BOX, n_bins=1)
    pairs = 2000 * n_particles * (n_particles - 1) / 2 * 4 / 3 * np.pi * 0.499**3
    assert rdf[0] == pytest.approx(1 - 1 / n_particles, rel=4 / np.sqrt(pairs))


@pytest.mark.parametrize("positions", [ideal_gas(), lattice(SIMPLE_CUBIC, 10), lattice(FCC, 5)])
def test_the_integral_of_rdf_counts_the_neighbors(positions):
    bin_centers, rdf = structure.rdf(positions, BOX)
    density = len(positions) / BOX**3
    neighbors = (rdf * shell_volumes(bin_centers)).sum() * density
    expected = 2 * (pair_distances(positions) < 4.99).sum() / len(positions)
    assert neighbors == pytest.approx(expected, rel=1e-4)


def test_a_simple_cubic_lattice_has_its_shells():
    bin_centers, rdf = structure.rdf(lattice(SIMPLE_CUBIC, 10), BOX)
    neighbors = rdf * shell_volumes(bin_centers)
    shells = np.flatnonzero(neighbors)[:5]
    squared = np.array([1, 2, 3, 4, 5])
    assert np.abs(bin_centers[shells] - np.sqrt(squared)).max() < 0.0499 / 2 + 1e-5
    np.testing.assert_allclose(neighbors[shells], [6, 12, 8, 6, 24], rtol=1e-4)


def test_rdf_averages_over_configurations():
    several = ideal_gas(n_configurations=3, n_particles=200)
    _, together = structure.rdf(several, BOX)
    alone = [structure.rdf(positions, BOX)[1] for positions in several]
    np.testing.assert_allclose(together, np.mean(alone, axis=0), rtol=1e-5, atol=1e-6)
    _, again = structure.rdf(several[0], BOX)
    np.testing.assert_array_equal(again, alone[0])


def test_rdf_takes_any_image_and_any_origin():
    positions = lattice(FCC, 5) + np.random.default_rng(1).normal(scale=0.1, size=(500, 3))
    _, rdf = structure.rdf(positions, BOX)
    for moved in (positions + np.array([3.3, -27.1, 9.99]), positions + 20):
        _, other = structure.rdf(moved, BOX)
        # Float32 moves a few pairs across the edge of their bin.
        assert structure.rdf_mse(rdf, other) < 1e-3 * structure.rdf_mse(rdf, np.ones(100))


@pytest.mark.parametrize("r_max", [5.0, 5.2, 0.0, -1.0, float("nan")])
def test_rdf_refuses_half_a_box(r_max):
    with pytest.raises(ValueError, match=r"r_max must be .*below half the box edge \(5.0\), got"):
        structure.rdf(ideal_gas(n_particles=10), BOX, r_max=r_max)


# --- RDF-MSE -----------------------------------------------------------------------------------


def test_rdf_mse_is_the_mean_squared_difference():
    assert structure.rdf_mse([1, 2, 3], [1, 0, 6]) == pytest.approx((0 + 4 + 9) / 3)
    assert structure.rdf_mse(np.ones(100), np.ones(100)) == 0.0
    assert isinstance(structure.rdf_mse(np.ones(2), np.zeros(2)), float)


@pytest.mark.parametrize("reference", [np.ones(99), np.ones((100, 1)), 1.0])
def test_rdf_mse_refuses_curves_on_other_bins(reference):
    with pytest.raises(ValueError, match=r"same bins, got shapes \(100,\) and"):
        structure.rdf_mse(np.ones(100), reference)


# --- structure factor --------------------------------------------------------------------------


def test_structure_factor_is_the_squared_density_wave():
    positions = ideal_gas(n_particles=100)
    wave_numbers, values = structure.structure_factor(positions, BOX, k_max=4.0, n_bins=10)
    # Every wave vector, not an octant of them: a configuration and its mirror image differ there.
    indices = np.stack(np.meshgrid(*[np.arange(-7, 8)] * 3, indexing="ij"), -1).reshape(-1, 3)
    waves = 2 * np.pi / BOX * indices
    q = np.linalg.norm(waves, axis=1)
    power = np.abs(np.exp(1j * waves @ positions.T).sum(1)) ** 2 / 100
    width = wave_numbers[1] - wave_numbers[0]
    for center, value in zip(wave_numbers, values, strict=True):
        assert value == pytest.approx(power[np.abs(q - center) < width / 2].mean(), rel=1e-3)


def test_structure_factor_does_not_change_in_the_mirror():
    positions = ideal_gas(n_particles=200)
    _, values = structure.structure_factor(positions, BOX, k_max=4.0, n_bins=10)
    _, mirrored = structure.structure_factor(positions * [-1, 1, 1], BOX, k_max=4.0, n_bins=10)
    np.testing.assert_allclose(mirrored, values, rtol=1e-3)


def test_an_ideal_gas_has_a_flat_structure_factor():
    wave_numbers, values = structure.structure_factor(
        ideal_gas(n_configurations=3, n_particles=300), BOX, k_max=8.0, n_bins=20
    )
    assert wave_numbers.shape == values.shape == (20,)
    # Waves in a bin, of which half are independent; each |rho|^2 / N is exponential, spread 1.
    width = wave_numbers[1] - wave_numbers[0]
    waves = 3 * 4 * np.pi * wave_numbers**2 * width * BOX**3 / (2 * np.pi) ** 3 / 2
    assert np.abs((values - 1) * np.sqrt(waves))[2:].max() < 4.5


def test_a_cubic_lattice_has_bragg_peaks_only():
    wave_numbers, values = structure.structure_factor(
        lattice(SIMPLE_CUBIC, 10), BOX, k_max=9.5, n_bins=100
    )
    seen = np.flatnonzero(np.nan_to_num(values) > 1e-3)
    bragg = 2 * np.pi * np.sqrt([1, 2])
    assert len(seen) == 2
    assert np.abs(wave_numbers[seen] - bragg).max() < wave_numbers[1] - wave_numbers[0]


def test_structure_factor_is_nan_where_no_wave_falls():
    wave_numbers, values = structure.structure_factor(
        ideal_gas(n_particles=50), BOX, k_max=1.5, n_bins=200
    )
    assert 0 < np.isfinite(values).sum() < 10
    first = np.flatnonzero(np.isfinite(values))[0]
    assert wave_numbers[first] == pytest.approx(2 * np.pi / BOX, abs=0.01)


# --- bond order --------------------------------------------------------------------------------


@pytest.mark.parametrize("n_cells", [5, 1])
@pytest.mark.parametrize(
    ("basis", "n_neighbors", "degree", "expected"),
    [
        # Steinhardt, Nelson and Ronchetti 1983, figure 2.
        (FCC, 12, 6, 0.57452),
        (FCC, 12, 4, 0.19094),
        (BCC, 14, 6, 0.51069),
        (SIMPLE_CUBIC, 6, 4, 0.76376),
    ],
)
def test_perfect_lattices_have_their_known_bond_order(
    basis, n_neighbors, degree, expected, n_cells
):
    order = structure.bond_order(lattice(basis, n_cells), BOX, degree, n_neighbors)
    np.testing.assert_allclose(order, expected, atol=1e-4)


def test_bond_order_tells_a_crystal_from_a_gas():
    thermal = np.random.default_rng(2).normal(scale=0.05, size=(500, 3))
    crystal = structure.bond_order(lattice(FCC, 5) + thermal, BOX)
    gas = structure.bond_order(ideal_gas(), BOX)
    assert crystal.shape == (500,) and gas.shape == (1000,)
    assert crystal.min() > 2 * gas.mean() > gas.mean() > 0.05


@pytest.mark.parametrize(("basis", "n_cells"), [(FCC, 6), (BCC, 8)])
def test_crystals_are_solid_and_gases_are_not(basis, n_cells):
    points = lattice(basis, n_cells)
    crystal = points + np.random.default_rng(3).normal(scale=0.05, size=points.shape)
    assert structure.crystallinity(crystal, BOX) > 0.95
    assert structure.crystallinity(ideal_gas(), BOX) < 0.02


def test_grains_are_told_apart_by_where_their_bonds_point():
    one = lattice(FCC, 6)
    assert structure.grains(one, BOX).tolist() == [1.0]
    # A ball of the same crystal, turned about an axis that is none of its own.
    turn = Rotation.from_rotvec([0.3, 0.5, 0.2]).as_matrix()
    large = np.concatenate([one + BOX * np.array(at) for at in np.ndindex(2, 2, 2)])
    turned = (large - BOX) @ turn
    within = np.linalg.norm(turned, axis=1) < 0.4 * BOX
    around = np.linalg.norm(one - BOX / 2, axis=1) >= 0.4 * BOX
    both = np.concatenate([one[around] - BOX / 2, turned[within]])
    found = structure.grains(both, BOX)
    assert len(found) >= 2 and 0.1 < found[1] < found[0] < 0.8
    assert found.sum() == pytest.approx(structure.crystallinity(both, BOX))
    assert len(structure.grains(ideal_gas(n_particles=200), BOX)) == 0


@pytest.mark.parametrize("basis", [SIMPLE_CUBIC, BCC, FCC])
def test_bragg_peak_is_one_in_any_perfect_crystal_and_damped_by_vibrations(basis):
    points = lattice(basis, 5)
    assert structure.bragg_peak(points, BOX) == pytest.approx(1, abs=1e-4)
    shaken = points + np.random.default_rng(4).normal(scale=0.1, size=points.shape)
    lowest = 2 * np.pi / BOX * 5 * np.sqrt({1: 1, 2: 2, 4: 3}[len(basis)])
    # The Debye-Waller factor of the lowest reflection, which is the strongest.
    expected = np.exp(-((0.1 * lowest) ** 2))
    assert structure.bragg_peak(shaken, BOX) == pytest.approx(expected, rel=0.15)
    assert structure.bragg_peak(ideal_gas(), BOX) < 0.02


@pytest.mark.parametrize(("basis", "n_cells"), [(FCC, 1), (FCC, 2), (BCC, 2)])
def test_a_cell_smaller_than_a_neighborhood_stands_for_its_crystal(basis, n_cells):
    assert structure.crystallinity(lattice(basis, n_cells), BOX) == 1.0


def hexagonal():
    """Close-packed layers in turn, squeezed by 7 % across them to fit the cube."""
    basis = np.array([[0, 0, 0], [1 / 2, 1 / 2, 0], [1 / 2, 1 / 6, 1 / 2], [0, 2 / 3, 1 / 2]])
    counts = np.array([7, 4, 4])
    cells = np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), -1).reshape(-1, 1, 3)
    return ((cells + basis) / counts * BOX).reshape(-1, 3)


@pytest.mark.parametrize(
    ("name", "points"),
    [("fcc", lattice(FCC, 6)), ("bcc", lattice(BCC, 8)), ("hcp", hexagonal()), ("", ideal_gas())],
)
def test_fcc_hcp_and_bcc_are_told_apart(name, points):
    thermal = points + np.random.default_rng(6).normal(scale=0.03, size=points.shape)
    found = structure.structure_types(thermal, BOX)
    assert list(found) == ["fcc", "hcp", "bcc"]
    for each, share in found.items():
        assert share == pytest.approx(float(each == name), abs=0.02)


def test_the_twelve_neighbors_of_a_vacancy_are_of_no_type():
    assert structure.structure_types(lattice(FCC, 6)[1:], BOX)["fcc"] == (863 - 12) / 863


def test_neighbors_that_a_cell_cannot_have_are_refused():
    with pytest.raises(ValueError, match="got 500 for 4 particles"):
        structure.bond_order(lattice(FCC, 1), BOX, n_neighbors=500)


# --- bad input ---------------------------------------------------------------------------------

FUNCTIONS = [
    structure.rdf,
    structure.structure_factor,
    structure.bond_order,
    structure.bragg_peak,
    structure.crystallinity,
    structure.grains,
    structure.structure_types,
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_any_image_of_a_particle_will_do(function):
    rng = np.random.default_rng(5)
    points = lattice(FCC, 3) + rng.normal(scale=0.2, size=(108, 3))
    # One that rounds to the edge, and one at it; the others to either side of the boundary.
    points[0], points[1] = 0, [BOX - 1e-9, BOX, -1e-12]
    inside = np.where(points % BOX > BOX - 1e-6, 0, points % BOX)
    waves = {structure.structure_factor, structure.bragg_peak}
    options = {"k_max": 6.0} if function in waves else {}

    def measure(positions, box_length):
        found = function(positions, box_length, **options)
        return list(found.values()) if isinstance(found, dict) else found

    expected = measure(inside, BOX)
    for images in (points, points + BOX * rng.integers(-3, 4, points.shape)):
        np.testing.assert_allclose(measure(images, BOX), expected, rtol=1e-3, atol=1e-3)
    tensor = torch.tensor(inside, requires_grad=True)
    np.testing.assert_array_equal(measure(tensor, BOX), expected)
    np.testing.assert_array_equal(measure(inside.tolist(), np.float32(BOX)), expected)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("box", [-BOX, 0, np.nan, [BOX, BOX, BOX], 1e30, 1e-30])
def test_boxes_that_are_no_cube_of_some_size_are_refused(function, box):
    with pytest.raises(ValueError, match="box_length must be"):
        function(ideal_gas(n_particles=30), box)


def test_arguments_that_cannot_be_computed_are_refused():
    points = ideal_gas(n_particles=30)
    with pytest.raises(ValueError, match=r"k_max must be a finite number of at least 0\.62"):
        structure.bragg_peak(points, BOX, k_max=0.1)
    with pytest.raises(ValueError, match="take a smaller one"):
        structure.structure_factor(points, BOX, k_max=1e4)
    with pytest.raises(ValueError, match="n_bins must be"):
        structure.rdf(points, BOX, n_bins=0)
    with pytest.raises(ValueError, match="degree must be"):
        structure.bond_order(points, BOX, degree=-1)
    with pytest.raises(ValueError, match="must hold 23 particles or more, got 22"):
        structure.structure_types(points[:22], BOX)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shape", [(10, 2), (10,), (0, 3), (1, 2, 10, 3)])
def test_positions_of_another_shape_are_refused(function, shape):
    with pytest.raises(ValueError, match=r"\(n_particles, 3\)"):
        function(np.zeros(shape), BOX)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_positions_that_are_not_finite_are_refused(function, value):
    positions = ideal_gas(n_particles=30)
    positions[3, 1] = value
    with pytest.raises(ValueError, match="finite"):
        function(positions, BOX)


def test_bond_order_of_several_configurations_is_refused_in_words():
    with pytest.raises(ValueError, match="positions must"):
        structure.bond_order(ideal_gas(n_configurations=2, n_particles=50), BOX)
