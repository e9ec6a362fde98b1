import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import kstest

from mddm import shapes
from mddm.shapes import MAJOR_RADIUS, MINOR_RADIUS, Surface, sinkhorn_loss


def draw(name, n_points, batch_size=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    points, condition = Surface(name, n_points).draw(batch_size, generator)
    assert condition is None
    return points


def rotation(angle, axis):
    i, j = [other for other in range(3) if other != axis]
    matrix = np.eye(3)
    matrix[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    return torch.from_numpy(matrix).float()


def assert_mean(values, expected):
    """The mean of independent values is the expected one within five standard errors."""
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - expected) < 5 * error


# --- surfaces ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shapes.SURFACES)
def test_clouds_have_the_shape_that_training_expects(name):
    assert draw(name, 7, batch_size=3).shape == (3, 7, 3)
    assert draw(name, 7).dtype == torch.float32
    assert Surface(name, 7).box_length is None


def test_points_lie_on_the_sphere():
    radius = draw("sphere", 20_000).double().norm(dim=-1)
    torch.testing.assert_close(radius, torch.ones_like(radius), rtol=0, atol=1e-6)


def test_points_lie_on_the_torus():
    # The implicit equation of a torus, (sqrt(x^2 + y^2) - R)^2 + z^2 = r^2.
    x, y, z = draw("torus", 20_000).double().unbind(-1)
    tube = ((x**2 + y**2).sqrt() - MAJOR_RADIUS) ** 2 + z**2
    torch.testing.assert_close(tube.sqrt(), torch.full_like(tube, MINOR_RADIUS), rtol=0, atol=1e-6)


def test_the_sphere_is_uniform_in_area():
    points = draw("sphere", 100_000)[0].double()
    for axis in range(3):
        # Archimedes: equal slices of a sphere have equal areas.
        assert kstest(points[:, axis].numpy(), "uniform", (-1, 2)).pvalue > 1e-3
        assert_mean(points[:, axis].square(), 1 / 3)
        assert_mean(points[:, axis] * points[:, axis - 1], 0)
    longitude = torch.atan2(points[:, 1], points[:, 0]).numpy()
    assert kstest(longitude, "uniform", (-math.pi, 2 * math.pi)).pvalue > 1e-3


def test_the_torus_is_uniform_in_area():
    x, y, z = draw("torus", 100_000)[0].double().unbind(-1)
    from_axis = torch.hypot(x, y)
    # Integrals over the area element r (R + r cos theta) d theta d phi, divided by 4 pi^2 R r;
    # points uniform in both angles would have 1, 1.08 and 0 for the first three.
    assert_mean(from_axis, MAJOR_RADIUS + MINOR_RADIUS**2 / (2 * MAJOR_RADIUS))
    assert_mean(from_axis**2, MAJOR_RADIUS**2 + 3 * MINOR_RADIUS**2 / 2)
    assert_mean((from_axis - MAJOR_RADIUS) / MINOR_RADIUS, MINOR_RADIUS / (2 * MAJOR_RADIUS))
    assert_mean(z**2, MINOR_RADIUS**2 / 2)
    for value in (x, y, z, x * y, x * z, y * z):
        assert_mean(value, 0)


def test_both_angles_of_the_torus_have_their_density():
    x, y, z = draw("torus", 100_000, seed=1)[0].double().unbind(-1)
    latitude = torch.atan2(z, torch.hypot(x, y) - MAJOR_RADIUS).numpy()

    def cumulative(angle):
        area = angle + math.pi + MINOR_RADIUS / MAJOR_RADIUS * np.sin(angle)
        return area / (2 * math.pi)

    assert kstest(latitude, cumulative).pvalue > 1e-3
    longitude = torch.atan2(y, x).numpy()
    assert kstest(longitude, "uniform", (-math.pi, 2 * math.pi)).pvalue > 1e-3
    assert abs(np.corrcoef(np.cos(latitude), np.cos(longitude))[0, 1]) < 0.02


@pytest.mark.parametrize("name", shapes.SURFACES)
def test_draws_follow_the_generator(name):
    assert torch.equal(draw(name, 50, seed=3), draw(name, 50, seed=3))
    assert not torch.equal(draw(name, 50, seed=3), draw(name, 50, seed=4))
    generator = torch.Generator().manual_seed(3)
    surface = Surface(name, 50)
    first, second = (surface.draw(1, generator)[0] for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draw(name, 50)
    assert torch.equal(before, torch.get_rng_state())


def test_clouds_of_a_batch_differ():
    a, b = draw("torus", 50, batch_size=2)
    assert not torch.isclose(a, b).any()


def test_distance_from_the_sphere():
    points = torch.tensor([[0.0, 0, 0], [0, 0, 3], [0, -0.5, 0], [0.6, 0.8, 0]])
    expected = torch.tensor([1.0, 2, 0.5, 0])
    torch.testing.assert_close(Surface("sphere", 1).distance(points), expected)


def test_distance_from_the_torus():
    top, outer = MINOR_RADIUS, MAJOR_RADIUS + MINOR_RADIUS
    points = torch.tensor([[0.0, 0, 0], [MAJOR_RADIUS, 0, 0], [0, outer + 2, 0], [-1, 0, top]])
    expected = torch.tensor([MAJOR_RADIUS - MINOR_RADIUS, MINOR_RADIUS, 2, 0])
    torch.testing.assert_close(Surface("torus", 1).distance(points), expected)


@pytest.mark.parametrize("name", shapes.SURFACES)
def test_distance_is_that_of_the_nearest_point_of_the_surface(name):
    anywhere = 2 * torch.rand(2, 10, 3, generator=torch.Generator().manual_seed(1)) - 1
    nearest = torch.cdist(anywhere, draw(name, 200_000).expand(2, -1, -1)).min(dim=-1).values
    distance = Surface(name, 1).distance(anywhere)
    assert distance.shape == (2, 10)
    torch.testing.assert_close(distance, nearest, rtol=0, atol=0.02)


def test_distance_of_drawn_points_is_zero():
    for name in shapes.SURFACES:
        assert Surface(name, 1).distance(draw(name, 1000)).max() < 1e-6


# --- the ideal denoiser ------------------------------------------------------------------------


def mean_noise_by_brute_force(name, x_t, sigma):
    """E[eps | x_t] as the mean over very many true points, weighted by their likelihood."""
    truth = draw(name, 400_000, seed=5)[0].double()
    distance2 = torch.cdist(x_t.double(), truth[None]).square()
    weight = (-distance2 / (2 * sigma**2)).softmax(dim=-1)
    return (x_t - weight @ truth) / sigma


@pytest.mark.parametrize("name", shapes.SURFACES)
@pytest.mark.parametrize("sigma", [0.2, 0.5, 2.0])
def test_ideal_denoiser_is_the_mean_over_the_surface(name, sigma):
    x_0 = draw(name, 8)
    x_t = x_0 + sigma * torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
    eps = Surface(name, 8).ideal_denoiser(x_t, torch.tensor([sigma]))
    expected = mean_noise_by_brute_force(name, x_t, sigma).float()
    torch.testing.assert_close(eps, expected, rtol=0, atol=0.04)


@pytest.mark.parametrize("name", shapes.SURFACES)
def test_little_noise_is_projected_onto_the_surface(name):
    surface = Surface(name, 500)
    x_t = draw(name, 500) + 0.005 * torch.randn(1, 500, 3)
    mean = x_t - 0.005 * surface.ideal_denoiser(x_t, torch.tensor([0.005]))
    assert surface.distance(mean).max() < 1e-3 < surface.distance(x_t).mean()


@pytest.mark.parametrize("name", shapes.SURFACES)
def test_ideal_denoiser_keeps_dtype_and_takes_the_centre(name):
    x_t = torch.zeros(2, 1, 3)
    eps = Surface(name, 1).ideal_denoiser(x_t, torch.tensor([0.005, 3.0]))
    assert eps.dtype == torch.float32
    torch.testing.assert_close(eps, torch.zeros(2, 1, 3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", shapes.SURFACES)
def test_each_cloud_of_a_batch_has_its_own_noise(name):
    x_t, sigma = draw(name, 5, batch_size=2) * 1.3, torch.tensor([0.1, 1.0])
    surface = Surface(name, 5)
    both = surface.ideal_denoiser(x_t, sigma)
    for i in range(2):
        torch.testing.assert_close(both[[i]], surface.ideal_denoiser(x_t[[i]], sigma[[i]]))


# --- refusals ----------------------------------------------------------------------------------


def test_unknown_surface_is_answered():
    with pytest.raises(ValueError, match="'sphere', 'torus', got 'shpere'; did you mean 'sphere'"):
        Surface("shpere", 10)


@pytest.mark.parametrize("n_points", [0, -3, 2.5])
def test_a_cloud_needs_points(n_points):
    with pytest.raises(ValueError, match=f"at least 1, got {n_points}"):
        Surface("sphere", n_points)


# --- Sinkhorn loss -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", shapes.SURFACES)
def test_equal_clouds_score_zero_in_any_order(name):
    cloud = draw(name, 100)[0]
    assert sinkhorn_loss(cloud, cloud).abs() < 1e-6
    assert sinkhorn_loss(cloud, cloud.flip(0)).abs() < 1e-5


def test_other_clouds_score_above_zero():
    sphere, other = draw("sphere", 100)[0], draw("sphere", 100, seed=1)[0]
    torus = draw("torus", 100)[0]
    assert 1e-3 < sinkhorn_loss(sphere, other) < sinkhorn_loss(sphere, torus)


def test_the_loss_is_symmetric_also_between_clouds_of_two_sizes():
    a, b = draw("sphere", 100)[0], draw("torus", 150)[0]
    torch.testing.assert_close(sinkhorn_loss(a, b), sinkhorn_loss(b, a))


def test_a_shift_costs_half_its_square():
    cloud, shift = draw("torus", 100)[0], torch.tensor([0.3, -0.4, 1.2])
    loss = sinkhorn_loss(cloud, cloud + shift)
    torch.testing.assert_close(loss, shift.square().sum() / 2, rtol=1e-3, atol=0)


@pytest.mark.parametrize("distance", [0.0, 1e-30, 1e-3, 5.0])
def test_single_points_score_half_their_squared_distance(distance):
    points = torch.zeros(2, 1, 3)
    loss = sinkhorn_loss(points, points + torch.tensor([distance, 0, 0]))
    torch.testing.assert_close(loss, torch.full((2,), distance**2 / 2), rtol=1e-4, atol=1e-12)


def test_fully_converged_it_is_the_best_assignment_of_one_cloud_to_the_other(monkeypatch):
    # Points much farther apart than the blur: optimal transport, solved exactly.
    monkeypatch.setattr(shapes, "SINKHORN_SCALING", 0.99)
    a, b = 20 * torch.rand(2, 12, 3, generator=torch.Generator().manual_seed(0))
    cost = torch.cdist(a, b).square() / 2
    best = cost[linear_sum_assignment(cost.numpy())].mean()
    torch.testing.assert_close(sinkhorn_loss(a, b), best, rtol=1e-3, atol=0)


def test_clouds_of_a_surface_score_nearly_as_fully_converged(monkeypatch):
    a, b = draw("sphere", 128)[0], draw("sphere", 128, seed=1)[0]
    loss = sinkhorn_loss(a, b)
    monkeypatch.setattr(shapes, "SINKHORN_SCALING", 0.99)
    torch.testing.assert_close(loss, sinkhorn_loss(a, b), rtol=0.1, atol=0)


def test_the_loss_does_not_depend_on_where_the_pair_stands():
    a, b = draw("sphere", 80)[0], draw("sphere", 80, seed=1)[0]
    turned = rotation(0.7, 0) @ rotation(1.1, 2)
    moved = [cloud @ turned.T + torch.tensor([1.0, 2.0, -1.0]) for cloud in (a, b)]
    torch.testing.assert_close(sinkhorn_loss(*moved), sinkhorn_loss(a, b), rtol=1e-2, atol=1e-4)


def test_more_points_of_the_same_surface_score_less():
    scores = [
        sinkhorn_loss(draw("sphere", n, 4), draw("sphere", n, 4, seed=1)).mean()
        for n in (32, 128, 512)
    ]
    assert all(few > many for few, many in itertools.pairwise(scores))


def test_a_batch_scores_as_its_clouds():
    a, b = draw("torus", 60, batch_size=3), draw("sphere", 60, batch_size=3)
    singles = torch.stack([sinkhorn_loss(x, y) for x, y in zip(a, b, strict=True)])
    assert sinkhorn_loss(a, b).shape == (3,)
    # geomloss anneals from the size of the whole batch.
    torch.testing.assert_close(sinkhorn_loss(a, b), singles, rtol=1e-2, atol=1e-4)


def test_clouds_far_apart_score_finite():
    cloud = draw("sphere", 50)[0]
    loss = sinkhorn_loss(1e3 * cloud, cloud)
    assert torch.isfinite(loss) and loss > 1e4


@pytest.mark.parametrize(
    ("points", "reference", "message"),
    [
        (torch.zeros(5, 2), torch.zeros(5, 3), r"points must have the shape .* got \(5, 2\)"),
        (torch.zeros(5, 3), torch.zeros(0, 3), r"reference must have the shape .* got \(0, 3\)"),
        (torch.zeros(5, 3), torch.zeros(2, 5, 3), "two clouds or two batches of one size"),
        (torch.zeros(3, 5, 3), torch.zeros(2, 5, 3), "two clouds or two batches of one size"),
        (torch.full((5, 3), torch.nan), torch.zeros(5, 3), "points must be finite"),
        (torch.zeros(5, 3), torch.full((5, 3), torch.inf), "reference must be finite"),
    ],
)
def test_clouds_that_cannot_be_compared_are_refused(points, reference, message):
    with pytest.raises(ValueError, match=message):
        sinkhorn_loss(points, reference)


def test_what_would_end_in_nan_or_without_memory_is_refused():
    generator = torch.Generator()
    with pytest.raises(ValueError, match="two points at least"):
        shapes.normal_cloud(torch.zeros(1, 3), generator)
    surface = Surface("torus", 1000)
    with pytest.raises(ValueError, match="sigma must be larger"):
        surface.ideal_denoiser(torch.ones(1, 1000, 3), torch.tensor([1e-9]))
    with pytest.raises(ValueError, match="sigma must be numbers above 0"):
        surface.ideal_denoiser(torch.ones(1, 1000, 3), torch.tensor([0.0]))
    with pytest.raises(ValueError, match="batch_size must be a whole number"):
        surface.draw(0, generator)


def test_normal_cloud_has_the_extent_of_a_surface_and_nothing_of_its_shape():
    true = draw("torus", 4000, batch_size=2)
    cloud = shapes.normal_cloud(true, torch.Generator().manual_seed(1))
    assert cloud.shape == true.shape and not torch.equal(cloud[0], cloud[1])
    extent = [clouds.flatten(0, 1).std(dim=0).numpy() for clouds in (cloud, true)]
    assert extent[0] == pytest.approx(extent[1], rel=0.05)
    assert Surface("torus", 4000).distance(cloud).mean() > 0.1
