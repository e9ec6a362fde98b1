import math

import pytest
import torch

from mddm import noise, waves
from mddm.geometry import minimum_image, neighbor_pairs
from mddm.waves import assign, decoys, find_sites, hop, rivals, strongest_waves

BOX = 10.0


def gas(batch=2, n_particles=60, seed=0):
    return BOX * torch.rand(batch, n_particles, 3, generator=torch.Generator().manual_seed(seed))


def bcc(cells=5):
    corner = torch.cartesian_prod(*[torch.arange(cells)] * 3).float()
    return (BOX / cells * torch.cat([corner, corner + 0.5]))[None]


def noised(positions, sigma, seed=3):
    eps = torch.randn(positions.shape, generator=torch.Generator().manual_seed(seed))
    return noise.add_noise(positions, sigma, eps, BOX)


def sites_of(positions, sigma):
    waves = strongest_waves(positions, 256, 2.0, 9.5, BOX, long=True)
    levels = torch.full((len(positions),), sigma)
    return find_sites(waves, levels, positions.shape[1], BOX)


def to_nearest(points, places):
    return minimum_image(points[:, None] - places[None], BOX).norm(dim=-1).min(dim=1)


# --- waves -------------------------------------------------------------------------------------


def test_the_waves_of_a_crystal_are_its_bragg_peaks():
    sites, shift = bcc(), torch.tensor([0.3, 1.7, 4.0])
    vectors, strength, phase, _ = strongest_waves((sites + shift) % BOX, 6, 2.0, 6.0, BOX)
    # Half of the twelve {110} of a lattice of edge 2.
    assert strength.numpy() == pytest.approx(sites.shape[1], rel=1e-4)
    assert vectors.norm(dim=-1).numpy() == pytest.approx(2 * math.pi / 2 * math.sqrt(2), rel=1e-5)
    assert len({tuple(row) for row in vectors[0].round(decimals=3).tolist()}) == 6
    # Every site lies on the crest of every wave.
    angle = (sites + shift) @ vectors.transpose(1, 2) - phase[:, None]
    assert angle.cos().min() > 0.999


def test_the_strongest_of_all_waves_are_found():
    positions = gas()
    vectors, strength, phase, _ = strongest_waves(positions, 20, 2.0, 5.0, BOX)
    step, n = 2 * math.pi / BOX, 8
    every = step * torch.cartesian_prod(*[torch.arange(-n, n + 1)] * 3).double()
    every = every[(every.norm(dim=-1) >= 2.0) & (every.norm(dim=-1) <= 5.0)]
    for system in range(2):
        angle = positions[system].double() @ every.T
        real, imaginary = angle.cos().sum(0), angle.sin().sum(0)
        # Each comes twice, as q and -q.
        expected = ((real**2 + imaginary**2) / 60).sort(descending=True).values[:40:2]
        assert strength[system].numpy() == pytest.approx(expected.numpy(), rel=1e-4)
        angle = positions[system].double() @ vectors[system].double().T
        wave = torch.polar(torch.ones_like(angle), angle).sum(0)
        assert torch.polar(torch.ones_like(phase[system]), phase[system]).numpy() == (
            pytest.approx((wave / wave.abs()).numpy(), abs=1e-3)
        )


def test_long_waves_are_kept_however_weak_they_are():
    vectors, strength, phase, _ = strongest_waves(bcc(), 6, 2.0, 6.0, BOX, long=True)
    length = vectors[0].norm(dim=-1)
    assert (length[:6] > 4).all() and (length[6:] < 2).all() and length.min() > 0
    # Half of the lattice points within 2.0 L / 2 pi of the origin, less the origin itself.
    n = torch.cartesian_prod(*[torch.arange(-4, 5)] * 3).double()
    assert len(length[6:]) == ((2 * math.pi / BOX * n.norm(dim=-1) < 2.0).sum() - 1) / 2
    assert strength.shape == phase.shape == (1, len(length))
    assert strength[0, 6:].max() < 1e-6


def test_in_a_small_box_all_waves_are_taken_and_there_may_be_none():
    vectors = strongest_waves(gas() % 3, 1000, 2.0, 9.5, 3.0).vectors
    assert 96 < vectors.shape[1] < 1000
    assert len({tuple(row) for row in vectors[0].round(decimals=3).tolist()}) == vectors.shape[1]
    with pytest.raises(ValueError, match="no wave with q between"):
        strongest_waves(gas(), 96, 2.0, 9.5, 0.5)
    positions = gas() % 0.5
    assert hop(positions, 0.1, 0.5).equal(positions)


def test_chance_is_what_a_gas_has():
    found = [strongest_waves(gas(1, 1000, seed), 1, 2.0, 9.5, BOX) for seed in range(8)]
    strongest = torch.stack([waves.strength[0, 0] for waves in found])
    assert strongest.mean().item() == pytest.approx(found[0].chance, rel=0.2)


# --- sites -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.05, 0.2, 0.28])
def test_the_sites_of_a_crystal_are_found_in_noise(sigma):
    sites = (bcc(8) + torch.tensor([0.3, 1.7, 4.0])) % BOX
    crests, is_site = sites_of(noised(sites, sigma), sigma)
    found = crests[is_site]
    assert len(found) == sites.shape[1]
    distance, which = to_nearest(found, sites[0])
    assert distance.max() < 0.3 and distance.mean() < 0.1
    assert len(which.unique()) == len(found)


def test_empty_sites_are_found_with_the_others():
    sites = bcc(8)
    crests, is_site = sites_of(noised(sites[:, 40:], 0.1), 0.1)
    assert is_site.sum() == sites.shape[1]
    assert to_nearest(sites[0, :40], crests[is_site])[0].max() < 0.1


def test_a_gas_a_single_wave_and_a_coarse_lattice_have_no_sites():
    layers = gas(1, 1000)
    layers[..., 0] = (layers[..., 0] / 1.25).round() * 1.25 % BOX
    # Four particles a site.
    crowded = noised(bcc(5).repeat(1, 4, 1), 0.1)
    for positions in (gas(1, 1000), layers, crowded):
        _, is_site = sites_of(positions, 0.1)
        assert not is_site.any()


def test_systems_of_a_batch_have_their_own_sites():
    crystal, levels = noised(bcc(8), 0.2), torch.tensor([0.2, 0.1])
    both = torch.cat([crystal, gas(1, 1024)])
    waves = strongest_waves(both, 256, 2.0, 9.5, BOX)
    sites, is_site = find_sites(waves, levels, 1024, BOX)
    alone, is_alone = sites_of(crystal, 0.2)
    assert is_site[0].equal(is_alone[0]) and not is_site[1].any()
    # In an order that rounding decides, where sites are as good as each other.
    distance, which = to_nearest(sites[0][is_site[0]], alone[is_alone])
    assert distance.max() < 1e-3 and len(which.unique()) == len(which)
    displacement, certainty = assign(both, sites, is_site, levels, BOX)
    assert displacement[0].ne(0).any() and displacement[1].eq(0).all() and certainty[1].eq(0).all()


# --- who is on which ---------------------------------------------------------------------------


def test_that_no_site_is_taken_twice_tells_more_than_each_particle_can():
    sites = bcc(8)
    x_t, sigma = noised(sites, 0.25), torch.tensor([0.25])
    is_site = torch.ones(1, sites.shape[1], dtype=torch.bool)
    displacement, certainty = assign(x_t, sites, is_site, sigma, BOX)
    home = minimum_image(sites - x_t, BOX)
    error = (displacement - home).square().sum(dim=-1).mean()
    apart = minimum_image(sites[0][None] - x_t[0][:, None], BOX)
    by_itself = (-apart.square().sum(dim=-1) / (2 * (0.25**2 + 0.1**2))).softmax(dim=-1)
    alone = (torch.einsum("ij,ijk->ik", by_itself, apart) - home).square().sum(dim=-1).mean()
    assert error < 0.5 * alone
    assert certainty.min() > 0 and certainty.max() <= 1


@pytest.mark.parametrize("sigma", [0.02, 0.15])
def test_one_of_two_on_a_site_is_sent_to_the_empty_one(sigma):
    sites = bcc(8)
    positions = sites.clone()
    empty = 100
    taken = int(to_nearest(sites[0], sites[0, [empty]])[0].argsort()[1])
    positions[0, empty] = sites[0, taken] + 0.1 * (sites[0, empty] - sites[0, taken])
    is_site = torch.ones(1, sites.shape[1], dtype=torch.bool)
    displacement, certainty = assign(positions, sites, is_site, torch.tensor([sigma]), BOX)
    arrived = positions[0] + displacement[0]
    distance, _ = to_nearest(sites[0], arrived)
    assert distance.max() < 0.35
    others = torch.ones(sites.shape[1], dtype=torch.bool)
    others[[empty, taken]] = False
    assert certainty[0, others].min() > 0.9


@pytest.mark.parametrize("most", [1000, 5])
def test_hopping_fills_empty_sites_and_moves_no_one_else(most, monkeypatch):
    monkeypatch.setattr(waves, "_MOST_MATCHED", most)
    sites = noised(bcc(8), 0.05)
    crowded = sites.clone()
    # Far from where they belong, so that no neighbour could make room.
    crowded[0, :12] = noised(sites[:, 500:512], 0.05, seed=4)[0]
    hopped = hop(crowded, 0.05, BOX)
    assert len(neighbor_pairs(crowded[0], 0.6, BOX)) == 12
    assert len(neighbor_pairs(hopped[0], 0.6, BOX)) == 0
    assert to_nearest(sites[0], hopped[0])[0].max() < 0.5
    moved = minimum_image(hopped - crowded, BOX)[0].norm(dim=-1) > 1e-4
    assert moved.sum() == 12
    assert set(moved.nonzero()[:, 0].tolist()) <= {*range(12), *range(500, 512)}
    assert hopped.min() >= 0 and hopped.max() < BOX


def test_nothing_hops_in_a_good_crystal_or_where_there_is_none():
    positions = torch.cat([noised(bcc(8), 0.1), gas(1, 1024)])
    assert hop(positions, 0.1, BOX).equal(positions)


# --- decoys ------------------------------------------------------------------------------------


def drawn_decoys(positions, sigma, seed=0, box_length=BOX):
    levels = torch.full((len(positions),), sigma)
    return decoys(positions, levels, box_length, torch.Generator().manual_seed(seed))


def test_decoys_put_strong_waves_where_there_were_none():
    positions = gas(40, 1000)
    decoyed = (positions + drawn_decoys(positions, 0.3)) % BOX
    before, after = (
        strongest_waves(x, 1, 2.0, 9.5, BOX).strength[:, 0] for x in (positions, decoyed)
    )
    assert before.max() < 20
    # From none at all to waves as strong as those of a crystal in noise.
    assert after.min() < 20 and after.max() > 100
    assert (after > 1.5 * before).float().mean() > 0.5


@pytest.mark.parametrize("sigma", [0.01, 0.3])
def test_decoys_stay_below_the_noise_and_belong_to_the_box(sigma):
    positions = gas(40, 1000)
    displacement = drawn_decoys(positions, sigma)
    assert displacement.square().mean(dim=(1, 2)).sqrt().max() < 0.4 * sigma
    # Whoever leaves the box on one side is displaced as his image on the other.
    around = drawn_decoys(positions + BOX * torch.tensor([1.0, -2.0, 0.0]), sigma)
    torch.testing.assert_close(around, displacement, atol=1e-3 * sigma, rtol=0)


def test_decoys_are_decided_by_the_generator_and_need_a_box_that_holds_a_wave():
    positions = gas()
    first, again, other = (drawn_decoys(positions, 0.2, seed) for seed in (1, 1, 2))
    assert first.equal(again) and not first.equal(other)
    with pytest.raises(ValueError, match=r"edge 0\.5 is too small for decoys.*take a larger box"):
        drawn_decoys(positions, 0.2, box_length=0.5)


def test_rivals_put_another_crystal_into_sight():
    crystal, levels = bcc(8), torch.tensor([0.2])
    generator = torch.Generator().manual_seed(0)
    positions = gas(1, 1024)
    displacement = rivals(positions, crystal, levels, BOX, generator)
    assert displacement.square().mean().sqrt() < 0.61 * 0.2
    wave, _, phase, _ = strongest_waves(crystal, 1, 2.0, 9.5, BOX)

    def in_phase(x):
        # The density's wave that has its crests at the crystal's.
        return (x @ wave[0, 0] - phase[0, 0]).cos().mean().item()

    before, after = in_phase(positions[0]), in_phase((positions + displacement)[0])
    assert abs(before) < 0.1 and after > before + 0.05
    # A gas has no waves to speak of.
    weak = rivals(positions, gas(1, 1024), levels, BOX, generator)
    assert weak.square().mean() < displacement.square().mean() / 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_the_same_sites():
    crystal, levels = noised(bcc(8), 0.2), torch.tensor([0.2])
    found = []
    for device in ("cpu", "cuda"):
        waves = strongest_waves(crystal.to(device), 256, 2.0, 9.5, BOX)
        sites, is_site = find_sites(waves, levels.to(device), 1024, BOX)
        displacement, _ = assign(crystal.to(device), sites, is_site, levels.to(device), BOX)
        found.append((is_site.sum().item(), (crystal.to(device) + displacement).cpu()))
    assert found[0][0] == found[1][0] == 1024
    assert found[1][1].numpy() == pytest.approx(found[0][1].numpy(), abs=1e-2)
