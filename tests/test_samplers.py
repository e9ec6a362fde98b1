from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from mddm import presets, samplers, sampling
from mddm.geometry import minimum_image
from mddm.noise import log_schedule
from mddm.samplers import SAMPLERS, Held, Polished, Repeated, Stage, Staged
from mddm.sampling import Ancestral, Corrector, ProbabilityFlow

BOX = 6.0


def silent(x_t, sigma, condition, box_length):
    return torch.zeros_like(x_t)


def at_the_origin(positions, tolerance=None, n_steps=0, seed=0):
    return np.full_like(positions, 0.001 * (seed % 7) if n_steps else 0.0)


def drawn(
    sampler,
    seed=0,
    sigmas=(0.0, 0.05, 0.2, 1.0),
    conditions=None,
    relax=at_the_origin,
    n_particles=30,
):
    arguments = (silent, sampler, torch.tensor(sigmas), conditions, 2, n_particles, BOX, seed)
    return list(samplers.draw(*arguments, relax=relax))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_ends_in_the_box_with_what_its_seed_says(sampler):
    first, again, other = (drawn(sampler, seed)[-1].positions for seed in (0, 0, 1))
    assert first.shape == (2, 30, 3)
    assert 0 <= first.min() and first.max() < BOX
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_is_equal_to_another_of_its_settings_and_can_be_looked_up(sampler):
    known = SAMPLERS[sampler]
    assert samplers.name_of(replace(known)) == sampler
    by_name, by_settings = (drawn(which)[-1].positions for which in (sampler, replace(known)))
    assert torch.equal(by_name, by_settings)
    with pytest.raises(ValueError, match="sampler must be one of polished, "):
        samplers.name_of(Ancestral(hops=(0.1, 0.2)))


def test_a_large_box_begins_as_copies_of_a_small_sample_that_are_no_longer_equal_at_its_end():
    frames = drawn(samplers.repeated(SAMPLERS["chilled"], 2), n_particles=32)
    assert [frame.n_left for frame in frames] == list(range(len(frames) - 1, -1, -1))
    few = drawn("chilled", n_particles=4)
    boxes = [frame.positions.reshape(2, 8, 4, 3) for frame in frames]
    for box in boxes[: len(few)]:
        apart = minimum_image(2 * (box - box[:, :1]), BOX)
        torch.testing.assert_close(apart, torch.zeros_like(apart), atol=1e-4, rtol=0)
    corners = boxes[0][0, :, 0] - boxes[0][0, 0, 0]
    assert len((corners / (BOX / 2)).round().remainder(2).unique(dim=0)) == 8
    # What it is told does nothing: the noise is what parts the copies.
    moved = minimum_image(boxes[-1] - boxes[len(few) - 1], BOX)
    assert 0.2 < moved.std() < 0.6
    assert frames[-1].calls == 2 * few[-1].calls


def test_what_relaxes_a_sample_repeats_what_draws_it_and_one_box_is_left_alone():
    held = SAMPLERS["held"]
    assert samplers.repeated(held, 1) == held
    assert samplers.repeated(held, 3) == replace(held, start=Repeated(held.start, 3))
    with pytest.raises(ValueError, match="30 particles in a box are no 8 equal boxes"):
        drawn(Repeated(SAMPLERS["chilled"], 2))
    with pytest.raises(ValueError, match="times must be"):
        Repeated(held.start, 0)
    assert samplers.repeated("held", 3) == samplers.repeated(held, 3)
    with pytest.raises(ValueError, match="must not ask the potential"):
        Repeated(held, 2)


def test_what_is_held_is_relaxed_before_and_its_last_frame():
    frames, before = drawn("held", seed=3), drawn("chilled", seed=3)
    assert [frame.stage for frame in frames] == [*len(before) * ["sampled"], "held"]
    assert [frame.n_left for frame in frames] == list(range(len(before), -1, -1))
    assert torch.equal(frames[-2].positions, before[-1].positions)
    # Each of a batch has a seed of its own.
    assert frames[-1].calls == before[-1].calls
    assert frames[-1].positions.unique().tolist() == pytest.approx([0.003, 0.004])
    with pytest.raises(ValueError, match="n_steps must be a whole number of at least 1, got 0"):
        Held(Ancestral(), 0)
    with pytest.raises(ValueError, match="force must be"):
        Held(Ancestral(), 10, force=0.0)


def test_every_preset_has_a_best_sampler():
    assert set(samplers.BEST) == set(presets.PRESETS)
    assert {*samplers.BEST.values(), samplers.BEST_IN_FREE_SPACE} <= set(SAMPLERS)


def test_polishing_is_told_stage_by_stage():
    frames = drawn("polished")
    before = drawn("cooled")
    stages = [frame.stage for frame in frames]
    assert stages == len(before) * ["sampled"] + ["relaxed"] + 3 * ["polished"]
    for frame, expected in zip(frames, before, strict=False):
        assert torch.equal(frame.positions, expected.positions) and frame.calls == expected.calls
    relaxed, noised = frames[len(before) : len(before) + 2]
    assert not relaxed.positions.any() and relaxed.sigma == 0
    assert relaxed.calls == noised.calls == before[-1].calls
    assert noised.sigma == SAMPLERS["polished"].top == 0.15
    assert all(b.calls >= a.calls for a, b in pairwise(frames))


def test_the_noise_of_polishing_is_as_much_as_it_says_and_the_seeds_own():
    around = [drawn("polished", seed)[-3].positions + BOX / 2 for seed in (0, 1)]
    away = [(positions % BOX - BOX / 2).flatten() for positions in around]
    assert away[0].std() == pytest.approx(0.15, rel=0.2)
    assert abs(torch.corrcoef(torch.stack(away))[0, 1]) < 0.25


def test_polishing_gives_a_crystal_at_rest_its_thermal_motion():
    sites = torch.cartesian_prod(*[torch.arange(8) + 0.4] * 3)

    def thermal(x_t, sigma, condition, box_length):
        # Each particle about its own site, with a width of 0.1; the box is wide against it.
        away = (x_t - sites + 4) % 8 - 4
        return away * (sigma / (0.1**2 + sigma**2))[:, None, None]

    sampler = Polished(Ancestral(), finish=Ancestral(), top=0.5)
    sigmas = log_schedule(100, 0.002, 4.0)
    frames = list(
        samplers.draw(thermal, sampler, sigmas, None, 4, 512, 8.0, 4, relax=lambda _: sites.numpy())
    )
    away = ((frames[-1].positions - sites + 4) % 8 - 4).std().item()
    assert away == pytest.approx(0.1, rel=0.04)
    n_below = int((sigmas < 0.5).sum())
    assert [frame.n_left for frame in frames][-n_below - 2 :] == list(range(n_below + 1, -1, -1))
    assert frames[-1].calls == 100 + n_below


def test_stages_of_one_sampler_are_that_sampler_on_the_levels_of_all():
    sampler = Ancestral(correctors=(Corrector(2, lowest=0.05, highest=0.6),))
    stages = Staged((Stage(sampler, 1, 0.8), Stage(sampler, 2, 0.2), Stage(sampler, 3)))
    staged = drawn(stages, sigmas=(0.0, 0.05, 0.3, 2.0))
    whole = drawn(sampler, sigmas=(0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 2.0))
    for frame, expected in zip(staged, whole, strict=True):
        assert (frame.n_left, frame.calls) == (expected.n_left, expected.calls)
        assert frame.sigma == pytest.approx(expected.sigma)
        torch.testing.assert_close(frame.positions, expected.positions)


def test_each_stage_is_gone_by_its_sampler():
    stages = Staged((Stage(Ancestral(), 2, 0.2), Stage(ProbabilityFlow(), 3)))
    assert [frame.calls for frame in drawn(stages)] == [0, 1, 2, 4, 6, 7]


def test_stages_must_lead_down_and_lie_between_the_levels_that_are_given():
    for lowest in ((0.2,), (None, 0.2), (0.2, 0.2, None), (0.1, 0.2, None), ()):
        with pytest.raises(ValueError, match="the last, which ends at zero, must have none"):
            Staged([Stage(Ancestral(), 1, end) for end in lowest])
    stages = Staged((Stage(Ancestral(), 1, 0.2), Stage(Ancestral(), 1)))
    for sigmas in ((0.0, 0.25, 1.0), (0.0, 0.1, 0.15)):
        with pytest.raises(ValueError, match=r"sigmas must begin below .* \[0\.2\], and end above"):
            drawn(stages, sigmas=sigmas)


def test_polishing_relaxes_as_far_as_it_is_told():
    told = []

    def relax(positions, **how):
        told.append(how)
        return positions

    for force in (None, 0.3):
        drawn(Polished(Ancestral(), force=force), relax=relax)
    # Two samples of thirty particles each; the length of the vector of all forces.
    assert told == 2 * [{}] + 2 * [{"tolerance": pytest.approx(0.3 * 30**0.5)}]


def test_wrong_requests_are_refused_at_the_call():
    with pytest.raises(ValueError, match="sampler must be one of 'polished'"):
        drawn("euler")
    with pytest.raises(TypeError, match="relax must be a function"):
        samplers.draw(silent, "polished", torch.tensor([0.0, 1.0]), None, 1, 30, BOX, 0)
    with pytest.raises(ValueError, match=r"conditions must have the shape \(2, n_.*, got \(1, 3\)"):
        drawn("ancestral", conditions=np.ones((1, 3)))
    with pytest.raises(ValueError, match="conditions must be finite"):
        drawn("ancestral", conditions=np.full((2, 3), np.nan))
    with pytest.raises(ValueError, match="top must be a finite number above 0, got 0"):
        Polished(Ancestral(), top=0)
    with pytest.raises(TypeError, match="start must be"):
        Polished("cooled")


def test_a_step_of_your_own_makes_a_sampler():
    class Still(sampling.Sampler):
        def advance(self, walk, x_t, step):
            return walk.settle(x_t + BOX), 0

    first, *_, final = drawn(Still())
    torch.testing.assert_close(final.positions, first.positions, atol=1e-5, rtol=0)
    assert (final.n_left, final.calls) == (0, 0)
