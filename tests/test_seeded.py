from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mddm import lattices, noise, sampling, seeded
from mddm.geometry import minimum_image

BOX = 4.0


@pytest.fixture
def candidates(monkeypatch):
    """Three stable lattices and one that is not."""
    stable = [(-1.0, "a"), (-0.98, "b"), (-0.90, "c")]
    found = [SimpleNamespace(free_energy=f, stable=True, crystal=name) for f, name in stable]
    found.append(SimpleNamespace(free_energy=float("nan"), stable=False, crystal="d"))
    monkeypatch.setattr(lattices, "stable", lambda *asked: found[: asked[-1]])
    return found


def test_a_lattice_is_drawn_the_likelier_the_lower_it_lies(candidates):
    draws = [seeded.choose(None, 64, BOX, 0.02, seed, spread=0.02) for seed in range(2000)]
    ratio = draws.count("b") / draws.count("a")
    assert ratio == pytest.approx(np.exp(-1), abs=0.06)
    assert 0 < draws.count("c") < 30 and "d" not in draws
    assert draws[:20] == [seeded.choose(None, 64, BOX, 0.02, i, spread=0.02) for i in range(20)]


def test_without_a_spread_it_is_the_lowest_and_a_lone_unstable_one_is_better_than_none(candidates):
    assert {seeded.choose(None, 64, BOX, 0.02, seed, spread=0) for seed in range(20)} == {"a"}
    del candidates[:3]
    assert seeded.choose(None, 64, BOX, 0.02, 0) == "d"


def test_noise_on_a_lattice_becomes_the_thermal_motion_that_the_network_knows():
    step, thermal = 0.5, 0.03
    axis = torch.arange(0, BOX, step)
    sites = torch.cartesian_prod(axis, axis, axis)[None]

    def exact(x_t, sigma, condition, box_length):
        # The noise that is expected where each particle is normal about its site.
        return minimum_image(x_t - sites, BOX) * sigma[:, None, None] / (sigma**2 + thermal**2)

    sigmas = noise.make_schedule("log", 40, 0.005, BOX / 2)
    generator = torch.Generator().manual_seed(0)
    frames = list(seeded.denoise(exact, sites, sigmas, generator, None, BOX, 0.1))
    width = [minimum_image(frame.positions - sites, BOX).std().item() for frame in frames]
    assert frames[0].sigma == pytest.approx(0.1) and width[0] == pytest.approx(0.1, rel=0.05)
    assert frames[-1].sigma == 0 and width[-1] == pytest.approx(thermal, rel=0.1)
    assert frames[-1].calls == len(frames) - 1 == (sigmas < 0.1).sum()
    assert sampling.last(frames).positions.shape == (1, 512, 3)
