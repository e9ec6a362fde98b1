import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from mddm import geometry

BOX = 10.0
METHODS = ["matrix", "tree"]
# 10.1 and 0.7 have no exact binary form: multiples of them are rounded.
BOXES = [10.0, 10.1, 0.7, 3]


def brute_force_distances(positions, box_length, targets=None):
    """Distances from each position to the nearest of 27 images of each target, in float64."""
    positions = np.asarray(positions, dtype=np.float64)
    targets = positions if targets is None else np.asarray(targets, dtype=np.float64)
    delta = targets[None, :, :] - positions[:, None, :]
    if box_length is None:
        return np.linalg.norm(delta, axis=-1)
    # The images of the primary cell only reach every point if both ends lie in it.
    delta = (targets % box_length)[None, :, :] - (positions % box_length)[:, None, :]
    steps = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
    images = delta[None] + box_length * steps[:, None, None, :]
    return np.linalg.norm(images, axis=-1).min(axis=0)


def sorted_neighbor_distances(positions, box_length):
    distances = brute_force_distances(positions, box_length)
    np.fill_diagonal(distances, np.inf)
    return np.sort(distances, axis=1)[:, :-1]


def assert_neighbors_are_nearest(positions, n_neighbors, box_length, method):
    neighbors, displacement = geometry.nearest_neighbors(
        positions, n_neighbors, box_length, method=method
    )
    batch, n_particles, _ = positions.shape
    assert neighbors.shape == (batch, n_particles, n_neighbors)
    assert neighbors.dtype == torch.int64
    assert displacement.shape == (batch, n_particles, n_neighbors, 3)
    assert displacement.dtype == positions.dtype
    scale = box_length or float(positions.abs().max())
    tolerance = (1e-12 if positions.dtype == torch.float64 else 2e-6) * scale
    for system in range(batch):
        ours = displacement[system].double().norm(dim=-1).numpy()
        expected = sorted_neighbor_distances(positions[system], box_length)[:, :n_neighbors]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance)
        # The vectors belong to the particles named, and nobody is named twice or names itself.
        found = neighbors[system].numpy()
        all_distances = brute_force_distances(positions[system], box_length)
        named = np.take_along_axis(all_distances, found, axis=1)
        np.testing.assert_allclose(named, ours, rtol=0, atol=tolerance)
        assert (found != np.arange(n_particles)[:, None]).all()
        # They are r_j - r_i, up to whole boxes.
        here = positions[system].double().numpy()
        gap = displacement[system].double().numpy() - (here[found] - here[:, None])
        if box_length is not None:
            gap -= box_length * np.round(gap / box_length)
        np.testing.assert_allclose(gap, 0, rtol=0, atol=tolerance)


# --- wrapping ----------------------------------------------------------------------------------


@pytest.mark.parametrize("box_length", BOXES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wrap_stays_in_the_half_open_box_at_every_edge(box_length, dtype):
    edges = torch.arange(-200, 201, dtype=dtype) * box_length
    tiny = torch.finfo(dtype).smallest_normal
    near = [edges, torch.tensor([-1e-30, -1e-9, -1e-7, -tiny, tiny, 0.0, -0.0], dtype=dtype)]
    below, above = edges, edges
    for _ in range(4):
        below = torch.nextafter(below, torch.full_like(below, -torch.inf))
        above = torch.nextafter(above, torch.full_like(above, torch.inf))
        near += [below, above]
    wrapped = geometry.wrap(torch.cat(near), box_length)
    assert wrapped.dtype == dtype
    assert wrapped.min() >= 0
    assert wrapped.max() < box_length


@pytest.mark.parametrize("box_length", BOXES)
def test_wrap_moves_by_whole_boxes_only(box_length):
    torch.manual_seed(0)
    positions = (torch.rand(5, 7, 3, dtype=torch.float64) - 0.5) * 20 * box_length
    wrapped = geometry.wrap(positions, box_length)
    boxes = (positions - wrapped) / box_length
    torch.testing.assert_close(boxes, boxes.round(), rtol=0, atol=1e-12)
    assert boxes.abs().max() > 3
    torch.testing.assert_close(geometry.wrap(wrapped, box_length), wrapped, rtol=0, atol=0)


def test_wrap_leaves_positions_in_the_box_bitwise_alone():
    torch.manual_seed(0)
    positions = torch.rand(1000, 3) * BOX
    assert torch.equal(geometry.wrap(positions, BOX), positions)


def test_wrap_does_not_hide_numbers_that_are_not_finite():
    # A sampler or a training run that blows up must be seen, not folded to the origin.
    wrapped = geometry.wrap(torch.tensor([torch.nan, torch.inf, -torch.inf, 1.0]), BOX)
    assert not torch.isfinite(wrapped[:3]).any()
    assert wrapped[3] == 1.0


def test_wrap_passes_gradients_through():
    positions = torch.tensor([-0.3, 4.0, 23.0], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    (geometry.wrap(positions, BOX) * weights).sum().backward()
    torch.testing.assert_close(positions.grad, weights)


def test_minimum_image_is_the_shortest_image():
    torch.manual_seed(1)
    displacement = (torch.rand(400, 3, dtype=torch.float64) - 0.5) * 6 * BOX
    shortest = geometry.minimum_image(displacement, BOX)
    assert shortest.abs().max() <= BOX / 2
    expected = brute_force_distances(np.zeros((1, 3)), BOX, targets=displacement)[0]
    np.testing.assert_allclose(shortest.norm(dim=-1), expected, atol=1e-12)
    boxes = (displacement - shortest) / BOX
    torch.testing.assert_close(boxes, boxes.round(), rtol=0, atol=1e-12)


def test_minimum_image_is_odd_and_keeps_half_a_box():
    displacement = torch.tensor([4.999, 5.0, 5.001, 14.0, 15.0, 15.1])
    shortest = geometry.minimum_image(displacement, BOX)
    torch.testing.assert_close(shortest.abs(), torch.tensor([4.999, 5.0, 4.999, 4.0, 5.0, 4.9]))
    assert torch.equal(geometry.minimum_image(-displacement, BOX), -shortest)


def test_free_space_has_no_images():
    positions = torch.tensor([-30.0, 0.0, 1e9])
    assert geometry.wrap(positions, None) is positions
    assert geometry.minimum_image(positions, None) is positions


def test_gather_particles_looks_up_each_system_by_itself():
    features = torch.arange(2 * 4 * 5).reshape(2, 4, 5)
    neighbors = torch.tensor([[[1, 2], [3, 0], [0, 0], [2, 1]], [[3, 3], [2, 0], [1, 3], [0, 1]]])
    gathered = geometry.gather_particles(features, neighbors)
    assert gathered.shape == (2, 4, 2, 5)
    for system in range(2):
        for particle in range(4):
            for rank in range(2):
                expected = features[system, neighbors[system, particle, rank]]
                assert torch.equal(gathered[system, particle, rank], expected)


# --- nearest neighbours ------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("box_length", [BOX, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neighbors_equal_brute_force_over_images(method, box_length, dtype):
    torch.manual_seed(2)
    positions = torch.rand(3, 60, 3, dtype=dtype) * BOX
    for n_neighbors in (1, 20, 59):
        assert_neighbors_are_nearest(positions, n_neighbors, box_length, method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("box_length", [BOX, None])
@pytest.mark.parametrize("n_particles", [2, 3, 4, 5])
def test_neighbors_of_a_handful_of_particles(method, box_length, n_particles):
    torch.manual_seed(3)
    positions = torch.rand(4, n_particles, 3) * BOX
    for n_neighbors in range(1, n_particles):
        assert_neighbors_are_nearest(positions, n_neighbors, box_length, method)


@pytest.mark.parametrize("method", METHODS)
def test_neighbors_across_faces_edges_and_corners(method):
    near, far = 0.01, BOX - 0.01
    corners = torch.cartesian_prod(*[torch.tensor([near, far])] * 3)
    middle = torch.full((1, 3), BOX / 2)
    positions = torch.cat([corners, middle])[None]
    _, displacement = geometry.nearest_neighbors(positions, 7, BOX, method=method)
    # All eight corners are one cluster of edge 0.02 around the corner of the box.
    assert displacement[0, :8].norm(dim=-1).max() < 0.02 * 3**0.5 + 1e-5
    assert_neighbors_are_nearest(positions, 8, BOX, method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_neighbors", [1, 3, 7, 11])
def test_coincident_particles_are_neighbors_of_each_other(method, n_neighbors):
    torch.manual_seed(4)
    positions = torch.rand(2, 12, 3) * BOX
    positions[:, 3:8] = positions[:, 3:4]
    positions[1] = positions[1, :1]
    assert_neighbors_are_nearest(positions, n_neighbors, BOX, method)


@pytest.mark.parametrize("method", METHODS)
def test_particles_on_the_boundary(method):
    below = float(np.nextafter(np.float32(BOX), np.float32(0)))
    values = torch.tensor([0.0, -0.0, BOX, below, -1e-9, BOX / 2])
    torch.manual_seed(5)
    positions = values[torch.randint(len(values), (2, 30, 3))]
    for n_neighbors in (1, 10, 29):
        assert_neighbors_are_nearest(positions, n_neighbors, BOX, method)


@pytest.mark.parametrize("method", METHODS)
def test_ties_on_a_lattice_are_broken_somehow_but_the_shells_are_right(method):
    grid = torch.cartesian_prod(*[torch.arange(5) * 2.0] * 3)[None]
    _, displacement = geometry.nearest_neighbors(grid, 26, BOX, method=method)
    shells = displacement.square().sum(-1) / 4
    expected = torch.tensor([1.0] * 6 + [2.0] * 12 + [3.0] * 8).expand(1, 125, 26)
    torch.testing.assert_close(shells, expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("box_length", [10.0, 10.1])
def test_any_image_of_a_particle_will_do(method, box_length):
    torch.manual_seed(6)
    inside = torch.rand(1, 40, 3, dtype=torch.float64) * box_length
    outside = inside + box_length * torch.randint(-3, 4, inside.shape).double()
    _, expected = geometry.nearest_neighbors(inside, 12, box_length, method=method)
    _, displacement = geometry.nearest_neighbors(outside, 12, box_length, method=method)
    torch.testing.assert_close(displacement, expected, rtol=0, atol=1e-12)
    # The same in float32, where a multiple of the box edge may be rounded either way.
    edges = torch.arange(-40, 41)[:, None] * torch.tensor([box_length, -box_length, box_length])
    lower = torch.nextafter(edges, torch.full_like(edges, -torch.inf))
    geometry.nearest_neighbors(lower[None], 3, box_length, method=method)


@pytest.mark.parametrize("method", METHODS)
def test_double_precision_tells_near_ties_apart(method):
    torch.manual_seed(13)
    distances = 1 + 1e-9 * torch.randperm(40).double()
    directions = torch.nn.functional.normalize(torch.randn(40, 3, dtype=torch.float64), dim=-1)
    positions = torch.cat([torch.zeros(1, 3).double(), distances[:, None] * directions])[None]
    neighbors, _ = geometry.nearest_neighbors(positions, 39, BOX, method=method)
    assert torch.equal(neighbors[0, 0] - 1, distances.argsort()[:39])


def test_matrix_and_tree_agree_on_a_random_box():
    torch.manual_seed(7)
    positions = torch.rand(2, 300, 3) * BOX
    by_matrix, _ = geometry.nearest_neighbors(positions, 20, BOX, method="matrix")
    by_tree, _ = geometry.nearest_neighbors(positions, 20, BOX, method="tree")
    # Distances that agree to seven digits may change places.
    assert (by_matrix == by_tree).float().mean() > 0.999


def test_the_matrix_is_cut_into_chunks_of_rows(monkeypatch):
    torch.manual_seed(8)
    positions = torch.rand(2, 50, 3, dtype=torch.float64) * BOX
    whole, _ = geometry.nearest_neighbors(positions, 9, BOX, method="matrix")
    monkeypatch.setattr(geometry, "_MATRIX_ENTRIES", 700)
    chunked, _ = geometry.nearest_neighbors(positions, 9, BOX, method="matrix")
    assert torch.equal(whole, chunked)


def test_thousands_of_particles_by_the_default_method():
    torch.manual_seed(9)
    box_length = 20.0
    positions = torch.rand(1, 6000, 3) * box_length
    _, displacement = geometry.nearest_neighbors(positions, 12, box_length)
    some = np.arange(0, 6000, 300)
    distances = brute_force_distances(positions[0, some], box_length, targets=positions[0])
    expected = np.sort(distances, axis=1)[:, 1:13]
    np.testing.assert_allclose(displacement[0, some].norm(dim=-1), expected, atol=1e-4)


@pytest.mark.parametrize("box_length", [BOX, None])
@pytest.mark.parametrize("n_points", [12, 300])
def test_nearest_points_are_those_that_are_there(box_length, n_points):
    generator = torch.Generator().manual_seed(5)
    draw = {"generator": generator, "dtype": torch.float64}
    positions, points = BOX * torch.rand(2, 40, 3, **draw), BOX * torch.rand(2, n_points, 3, **draw)
    there = torch.rand(2, n_points, generator=generator) < 0.6
    found = geometry.nearest_points(positions, points, there, 5, box_length)
    for system in range(2):
        distances = geometry.minimum_image(
            positions[system][:, None] - points[system], box_length
        ).norm(dim=-1)
        nearest = distances.masked_fill(~there[system], torch.inf).sort(dim=1).values[:, :5]
        torch.testing.assert_close(distances.gather(1, found[system]).sort(dim=1).values, nearest)
    # Where too few are there, all of them are found.
    there[0, 3:] = there[1] = False
    found = geometry.nearest_points(positions, points, there, 5, box_length)
    for row in found[0].tolist():
        assert set(there[0].nonzero()[:, 0].tolist()) <= set(row)
    assert found.min() >= 0 and found.max() < n_points


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("box_length", [BOX, None])
def test_displacement_is_differentiable(method, box_length):
    torch.manual_seed(10)
    positions = (torch.rand(1, 6, 3, dtype=torch.float64) * BOX).requires_grad_()
    coefficients = torch.randn(1, 6, 3, 3, dtype=torch.float64)

    def energy(positions):
        _, displacement = geometry.nearest_neighbors(positions, 3, box_length, method=method)
        return (displacement.square() * coefficients).sum()

    assert torch.autograd.gradcheck(energy, positions)
    (gradient,) = torch.autograd.grad(energy(positions), positions)
    torch.testing.assert_close(gradient.sum(1), torch.zeros(1, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("shape", "n_neighbors", "message"),
    [
        ((10, 3), 2, r"\(batch, n_particles, 3\), got \(10, 3\)"),
        ((1, 10, 2), 2, r"got \(1, 10, 2\)"),
        ((1, 10, 3), 0, "n_neighbors must be a whole number of at least 1, got 0"),
        ((1, 10, 3), 10, r"below the number of particles \(10\), got 10"),
        ((1, 1, 3), 1, "n_neighbors"),
    ],
)
def test_nearest_neighbors_refuses_bad_arguments(shape, n_neighbors, message):
    with pytest.raises(ValueError, match=message):
        geometry.nearest_neighbors(torch.rand(shape), n_neighbors, BOX)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("box_length", [BOX, None])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nearest_neighbors_refuses_positions_that_are_not_finite(method, box_length, value):
    positions = torch.rand(2, 20, 3)
    positions[1, 7, 2] = value
    with pytest.raises(ValueError, match="finite"):
        geometry.nearest_neighbors(positions, 4, box_length, method=method)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("box_length", [BOX, None])
def test_neighbors_are_found_without_waiting_for_the_gpu(box_length):
    positions = torch.rand(2, 300, 3) * BOX
    neighbors, expected = geometry.nearest_neighbors(positions, 9, box_length)
    on_gpu = positions.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found, displacement = geometry.nearest_neighbors(on_gpu, 9, box_length)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found.cpu(), neighbors)
    torch.testing.assert_close(displacement.cpu(), expected)
    on_gpu[1, 7, 2] = torch.nan
    _, displacement = geometry.nearest_neighbors(on_gpu, 9, box_length)
    assert torch.isnan(displacement[1, 7, :, 2]).all()


def test_nearest_neighbors_refuses_an_unknown_method():
    with pytest.raises(ValueError, match="'auto', 'matrix', 'tree', got 'cell'"):
        geometry.nearest_neighbors(torch.rand(1, 5, 3), 2, BOX, method="cell")


# --- compiled programs -------------------------------------------------------------------------


@pytest.mark.parametrize("function", [geometry.wrap, geometry.minimum_image])
def test_a_compiled_program_answers_for_any_box(function):
    x = 40 * torch.rand(4, 5, 3, generator=torch.Generator().manual_seed(0)) - 20
    torch.compiler.reset()
    program = torch.compile(function, backend="aot_eager")
    for index, box_length in enumerate((10.0, 10.5, 10.2, 9.7)):
        # For the second box PyTorch makes the number one that may change.  If it still is a
        # constant of the third program, the cache may answer with the second's in its place.
        with torch.compiler.set_stance("fail_on_recompile" if index > 1 else "default"):
            assert torch.equal(program(x, box_length), function(x, box_length))


def test_arrays_and_numbers_of_any_type_will_do():
    x = 5 * np.random.default_rng(0).random((1, 20, 3))
    expected = geometry.nearest_neighbors(torch.from_numpy(x), 4, 5.0)
    for given in (x, x.tolist()):
        found = geometry.nearest_neighbors(given, np.int64(4), np.float64(5.0))
        assert all(map(torch.equal, found, expected))
    pairs = geometry.neighbor_pairs(x[0].astype(">f8"), torch.tensor(2.0), np.int64(5))
    assert torch.equal(pairs, geometry.neighbor_pairs(torch.from_numpy(x[0]), 2.0, 5.0))


# --- pairs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, -37.0])
def test_neighbor_pairs_equal_brute_force(shift):
    torch.manual_seed(11)
    positions = torch.rand(150, 3, dtype=torch.float64) * BOX + shift
    pairs = geometry.neighbor_pairs(positions, 3.0, BOX)
    assert pairs.dtype == torch.int64
    found = {frozenset(pair) for pair in pairs.tolist()}
    assert len(found) == len(pairs)
    close = np.triu(brute_force_distances(positions, BOX) < 3.0, k=1)
    assert found == {frozenset(pair) for pair in np.argwhere(close).tolist()}


def test_neighbor_pairs_may_be_none_or_all():
    positions = torch.tensor([[0.0, 0.0, 0.0], [3.0, 3.0, 3.0]])
    assert geometry.neighbor_pairs(positions, 1.0, BOX).shape == (0, 2)
    coincident = torch.zeros(4, 3)
    assert len(geometry.neighbor_pairs(coincident, 1.0, BOX)) == 6


def test_neighbor_pairs_count_a_dense_box_like_a_tree():
    torch.manual_seed(12)
    positions = torch.rand(1000, 3) * BOX
    tree = cKDTree(positions.double().numpy(), boxsize=BOX)
    expected = (tree.count_neighbors(tree, 3.0) - 1000) // 2
    assert len(geometry.neighbor_pairs(positions, 3.0, BOX)) == expected


@pytest.mark.parametrize("r_cut", [0.0, -1.0, 5.0, 7.0, float("nan")])
def test_neighbor_pairs_refuse_an_ambiguous_cut_off(r_cut):
    with pytest.raises(ValueError, match=r"below half the box edge \(5.0\), got"):
        geometry.neighbor_pairs(torch.rand(5, 3) * BOX, r_cut, BOX)


def test_neighbor_pairs_refuse_positions_that_are_not_finite():
    positions = torch.rand(5, 3) * BOX
    positions[2, 0] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        geometry.neighbor_pairs(positions, 2.0, BOX)
