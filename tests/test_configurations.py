import itertools
import math

import pytest
import torch
from small_runs import small_configurations

from mddm.configurations import Configurations
from mddm.geometry import minimum_image


def cube_symmetries():
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product([1.0, -1.0], repeat=3):
            yield lambda x, axes=axes, signs=signs: x[..., axes] * torch.tensor(signs)


def test_draw_reaches_all_48_symmetries_of_the_cube_evenly():
    source = small_configurations(n_configurations=1, n_particles=5, conditions=False)
    drawn, condition = source.draw(4800, torch.Generator().manual_seed(0))
    assert condition is None
    assert (drawn >= 0).all() and (drawn < source.box_length).all()
    images = torch.stack([turn(source.positions[0]) for turn in cube_symmetries()])
    apart = minimum_image(drawn[:, None] - images[None], source.box_length).abs().amax((2, 3))
    assert ((apart < 1e-5).sum(dim=1) == 1).all()
    counts = torch.bincount(apart.argmin(dim=1), minlength=48)
    chi_squared = ((counts - 100.0) ** 2 / 100).sum()
    assert counts.min() > 0 and chi_squared < 47 + 4.5 * math.sqrt(2 * 47)


def test_draw_keeps_every_pair_distance():
    source = small_configurations(conditions=False)

    def distances(positions):
        delta = positions[:, None] - positions[:, :, None]
        return minimum_image(delta, source.box_length).norm(dim=-1)

    drawn, _ = source.draw(16, torch.Generator().manual_seed(1))
    originals = distances(source.positions)
    for system in distances(drawn):
        assert min((system - original).abs().max() for original in originals) < 1e-5


def test_draw_takes_every_configuration_with_its_own_condition():
    source = small_configurations(n_configurations=5)
    drawn, conditions = source.draw(500, torch.Generator().manual_seed(2))
    chosen = (conditions[:, None] == source.conditions).all(-1)
    assert (chosen.sum(1) == 1).all() and (chosen.sum(0) > 60).all()
    for positions, index in zip(drawn[:20], chosen.int().argmax(1), strict=False):
        # A symmetry keeps the set of coordinates up to their sign.
        folded = minimum_image(positions, source.box_length).abs().flatten().sort().values
        expected = source.positions[index]
        expected = minimum_image(expected, source.box_length).abs().flatten().sort().values
        torch.testing.assert_close(folded, expected, rtol=0, atol=1e-5)


def test_draw_is_decided_by_its_generator_alone():
    source = small_configurations()
    draws = [source.draw(4, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert torch.equal(draws[0][0], draws[1][0]) and torch.equal(draws[0][1], draws[1][1])
    assert not torch.equal(draws[0][0], draws[2][0])


@pytest.mark.parametrize(
    ("positions", "conditions", "message"),
    [
        ((10, 3), None, r"n_particles, 3\), got \(10, 3\)"),
        ((2, 10, 2), None, r"got \(2, 10, 2\)"),
        ((0, 10, 3), None, r"n_configurations, .* got \(0, 10, 3\)"),
        ((2, 10, 3), (3, 3), r"conditions must have the shape \(2, 3\), got \(3, 3\)"),
        ((2, 10, 3), (2,), "conditions"),
    ],
)
def test_configurations_refuse_shapes_that_do_not_fit(positions, conditions, message):
    with pytest.raises(ValueError, match=message):
        Configurations(
            torch.rand(positions), None if conditions is None else torch.rand(conditions), 3.0
        )


def test_configurations_refuse_positions_that_are_not_finite():
    positions = torch.rand(2, 10, 3)
    positions[1, 3, 0] = math.inf
    with pytest.raises(ValueError, match="positions must be finite"):
        Configurations(positions, None, 3.0)


def test_conditions_that_are_not_finite_are_called_so():
    positions, conditions = torch.rand(2, 10, 3), torch.rand(2, 3)
    conditions[1, 2] = math.nan
    with pytest.raises(ValueError, match="conditions must be finite"):
        Configurations(positions, conditions, 3.0)
