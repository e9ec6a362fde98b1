import math

import pytest
import torch

from mddm import bragg
from mddm.bragg import BraggDenoiser, StrongestWaves, strongest_waves

BOX = 10.0
SIZES = {"channels": 16, "n_layers": 2, "n_neighbors": 8, "n_fields": 3, "n_waves": 20}


def gas(batch=2, n_particles=60, seed=0):
    return BOX * torch.rand(batch, n_particles, 3, generator=torch.Generator().manual_seed(seed))


def bcc(cells=5):
    corner = torch.cartesian_prod(*[torch.arange(cells)] * 3).float()
    return (BOX / cells * torch.cat([corner, corner + 0.5]))[None]


def denoiser(**sizes):
    torch.manual_seed(1)
    return BraggDenoiser(**SIZES | sizes)


def fields():
    torch.manual_seed(2)
    return StrongestWaves(n_fields=3, n_waves=20)


# --- the waves ---------------------------------------------------------------------------------


def test_the_waves_of_a_crystal_are_its_bragg_peaks():
    sites, shift = bcc(), torch.tensor([0.3, 1.7, 4.0])
    vectors, strength, phase = strongest_waves((sites + shift) % BOX, 6, 2.0, 6.0, BOX)
    # Half of the twelve {110} of a lattice of edge 2.
    assert strength.numpy() == pytest.approx(sites.shape[1], rel=1e-4)
    assert vectors.norm(dim=-1).numpy() == pytest.approx(2 * math.pi / 2 * math.sqrt(2), rel=1e-5)
    assert len({tuple(row) for row in vectors[0].round(decimals=3).tolist()}) == 6
    # Every site lies on the crest of every wave.
    angle = (sites + shift) @ vectors.transpose(1, 2) - phase[:, None]
    assert angle.cos().min() > 0.999


def test_the_strongest_of_all_waves_are_found():
    positions = gas()
    vectors, strength, phase = strongest_waves(positions, 20, 2.0, 5.0, BOX)
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
    vectors, strength, phase = strongest_waves(bcc(), 6, 2.0, 6.0, BOX, long=True)
    length = vectors[0].norm(dim=-1)
    assert (length[:6] > 4).all() and (length[6:] < 2).all() and length.min() > 0
    # Half of the lattice points within 2.0 L / 2 pi of the origin, less the origin itself.
    n = torch.cartesian_prod(*[torch.arange(-4, 5)] * 3).double()
    assert len(length[6:]) == ((2 * math.pi / BOX * n.norm(dim=-1) < 2.0).sum() - 1) / 2
    assert strength.shape == phase.shape == (1, len(length))
    assert strength[0, 6:].max() < 1e-6


def test_more_waves_than_there_are_is_refused():
    with pytest.raises(ValueError, match="only 0 waves with q between"):
        strongest_waves(gas(), 96, 2.0, 9.5, 0.5)


# --- the fields --------------------------------------------------------------------------------


@torch.no_grad()
def test_fields_move_with_the_particles_and_turn_with_the_box():
    network, positions, globals_ = fields(), gas(), torch.rand(2, 4)
    value, direction = network(positions, globals_, BOX).split([3, 9], dim=-1)
    assert value.std() > 1e-3 and direction.std() > 1e-3
    moved = network((positions + torch.tensor([1.0, 6.0, 9.5])) % BOX, globals_, BOX)
    assert moved.numpy() == pytest.approx(
        torch.cat([value, direction], -1).detach().numpy(), abs=1e-4
    )
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    relabelled = network(positions[:, order], globals_, BOX)
    assert relabelled[..., :3].numpy() == pytest.approx(value[:, order].numpy(), abs=1e-4)
    # A quarter turn about z.
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    turned = network((positions @ turn.T) % BOX, globals_, BOX)
    assert turned[..., :3].numpy() == pytest.approx(value.numpy(), abs=1e-4)
    expected = direction.unflatten(-1, (3, 3)) @ turn.T
    assert turned[..., 3:].numpy() == pytest.approx(expected.flatten(2).numpy(), abs=1e-4)


@torch.no_grad()
def test_in_a_crystal_the_direction_points_away_from_the_site():
    network, sites = fields(), bcc()
    off = 0.1 * torch.randn(sites.shape, generator=torch.Generator().manual_seed(0))
    direction = network(sites + off, torch.zeros(1, 4), BOX)[..., 3:].unflatten(-1, (3, 3))
    for field in direction[0].unbind(dim=1):
        together = torch.stack([field.flatten(), off.flatten()])
        assert abs(torch.corrcoef(together)[0, 1]) > 0.9


def test_free_space_has_no_waves():
    assert fields()(gas(), torch.zeros(2, 4), None).abs().max() == 0


# --- the network -------------------------------------------------------------------------------


def test_the_preset_is_a_small_file():
    n_parameters = sum(weight.numel() for weight in BraggDenoiser().parameters())
    assert 4 * n_parameters < 1_000_000


@pytest.mark.parametrize("box_length", [BOX, None])
def test_the_denoiser_sees_no_origin_and_no_labels(box_length):
    network, x_t, sigma = denoiser(), gas(), torch.tensor([0.1, 0.3])
    out = network(x_t, sigma, None, box_length)
    assert out.shape == x_t.shape and out.std() > 1e-3
    moved = x_t + torch.tensor([1.0, 6.0, 9.5])
    if box_length:
        moved = moved % BOX
    assert network(moved, sigma, None, box_length).detach().numpy() == (
        pytest.approx(out.detach().numpy(), abs=1e-4)
    )
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    relabelled = network(x_t[:, order], sigma, None, box_length)
    assert relabelled.detach().numpy() == pytest.approx(out[:, order].detach().numpy(), abs=1e-4)


def test_systems_of_a_batch_do_not_see_each_other():
    network, x_t, sigma = denoiser(), gas(), torch.tensor([0.1, 0.3])
    together = network(x_t, sigma, None, BOX)
    apart = [network(x_t[[i]], sigma[[i]], None, BOX)[0] for i in range(2)]
    assert together.detach().numpy() == pytest.approx(torch.stack(apart).detach().numpy(), abs=1e-4)


def test_condition_and_noise_level_are_heard():
    network, x_t = denoiser(), gas(1)
    condition, sigma = torch.tensor([[3.0, 2.0, 0.02]]), torch.tensor([0.1])
    out = network(x_t, sigma, condition, BOX)
    for other in (
        network(x_t, 2 * sigma, condition, BOX),
        *(network(x_t, sigma, condition * (1 + 0.5 * torch.eye(3)[i]), BOX) for i in range(3)),
    ):
        assert (other - out).abs().max() > 1e-4


def test_order_far_away_is_heard_through_the_waves_alone():
    # Half of the box crystallises; what sees neighbours only does not notice in the other half.
    sites = bcc()[0]
    left = sites[:, 0] < BOX / 2
    noise = torch.randn(sites.shape, generator=torch.Generator().manual_seed(0))
    both = torch.stack([sites + 0.3 * noise, sites + 0.3 * noise * (~left[:, None])])
    probe = (sites[:, 0] - 7).abs() < 0.1
    sigma = torch.tensor([0.3, 0.3])
    for n_fields, heard in ((3, True), (0, False)):
        out = denoiser(n_fields=n_fields, n_layers=1)(both, sigma, None, BOX)[:, probe]
        assert ((out[0] - out[1]).abs().max() > 1e-4) == heard


def test_every_parameter_is_trained_even_among_coincident_particles():
    network, x_t = denoiser(), gas()
    x_t[:, 1] = x_t[:, 0]
    network(
        x_t, torch.tensor([0.1, 0.3]), torch.tensor([[3.0, 2.0, 0.02]] * 2), BOX
    ).sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), name
        assert weight.grad.abs().max() > 0, name


def test_half_precision_keeps_the_phase_of_a_wave():
    positions = gas()
    vectors, _, phase = strongest_waves(positions, 20, 2.0, 9.5, BOX)
    whole = bragg._angles(positions, vectors, phase)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = bragg._angles(positions, vectors, phase)
    assert torch.equal(whole, half)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_computes_the_same():
    network, x_t, sigma = denoiser(), gas(), torch.tensor([0.1, 0.3])
    expected = network(x_t, sigma, None, BOX).detach()
    out = network.cuda()(x_t.cuda(), sigma.cuda(), None, BOX).detach().cpu()
    assert out.numpy() == pytest.approx(expected.numpy(), abs=1e-3)
