import pytest
import torch

from mddm import bragg, fourier, noise, wave_fields
from mddm.bragg import BraggDenoiser
from mddm.condition import Conditioning
from mddm.wave_fields import WaveFields
from mddm.waves import strongest_waves

BOX = 10.0
SIZES = {"channels": 16, "n_layers": 2, "n_neighbors": 8, "n_fields": 3, "n_waves": 20}


def gas(batch=2, n_particles=60, seed=0):
    return BOX * torch.rand(batch, n_particles, 3, generator=torch.Generator().manual_seed(seed))


def bcc(cells=5):
    corner = torch.cartesian_prod(*[torch.arange(cells)] * 3).float()
    return (BOX / cells * torch.cat([corner, corner + 0.5]))[None]


def noised(positions, sigma):
    eps = torch.randn(positions.shape, generator=torch.Generator().manual_seed(3))
    return noise.add_noise(positions, sigma, eps, BOX), eps


def denoiser(**sizes):
    torch.manual_seed(1)
    return BraggDenoiser(**SIZES | {"conditioning": Conditioning({})} | sizes)


def fields():
    torch.manual_seed(2)
    network = WaveFields(n_fields=3, n_features=5)

    def compute(positions, features):
        return network(positions, strongest_waves(positions, 20, 2.0, 9.5, BOX), features, BOX)

    return compute


# --- the fields --------------------------------------------------------------------------------


@torch.no_grad()
def test_fields_move_with_the_particles_and_turn_with_the_box():
    network, positions, features = fields(), gas(), torch.rand(2, 5)
    value, direction = network(positions, features).split([3, 9], dim=-1)
    assert value.std() > 1e-3 and direction.std() > 1e-3
    moved = network((positions + torch.tensor([1.0, 6.0, 9.5])) % BOX, features)
    assert moved.numpy() == pytest.approx(
        torch.cat([value, direction], -1).detach().numpy(), abs=1e-4
    )
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    relabelled = network(positions[:, order], features)
    assert relabelled[..., :3].numpy() == pytest.approx(value[:, order].numpy(), abs=1e-4)
    # A quarter turn about z.
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    turned = network((positions @ turn.T) % BOX, features)
    assert turned[..., :3].numpy() == pytest.approx(value.numpy(), abs=1e-4)
    expected = direction.unflatten(-1, (3, 3)) @ turn.T
    assert turned[..., 3:].numpy() == pytest.approx(expected.flatten(2).numpy(), abs=1e-4)


@torch.no_grad()
def test_in_a_crystal_the_direction_points_away_from_the_site():
    network, sites = fields(), bcc()
    off = 0.1 * torch.randn(sites.shape, generator=torch.Generator().manual_seed(0))
    direction = network(sites + off, torch.zeros(1, 5))[..., 3:].unflatten(-1, (3, 3))
    for field in direction[0].unbind(dim=1):
        together = torch.stack([field.flatten(), off.flatten()])
        assert abs(torch.corrcoef(together)[0, 1]) > 0.9


# --- the network -------------------------------------------------------------------------------


@torch.no_grad()
def test_single_precision_is_enough():
    x_t, _ = noised(bcc(), 0.1)
    network, sigma = denoiser(), torch.tensor([0.1])
    single = network(x_t, sigma, None, BOX)
    double = network.double()(x_t.double(), sigma.double(), None, BOX)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, atol=1e-3, rtol=0)


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
    network, x_t = denoiser(conditioning=Conditioning()), gas(1)
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
    network, x_t = denoiser(conditioning=Conditioning()), gas()
    x_t[:, 1] = x_t[:, 0]
    network(
        x_t, torch.tensor([0.1, 0.3]), torch.tensor([[3.0, 2.0, 0.02]] * 2), BOX
    ).sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), name
        assert weight.grad.abs().max() > 0, name


def test_half_precision_keeps_the_phase_of_a_wave():
    positions = gas()
    vectors, _, phase, _ = strongest_waves(positions, 20, 2.0, 9.5, BOX)
    whole = fourier._angle(positions, vectors, phase)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = fourier._angle(positions, vectors, phase)
    assert torch.equal(whole, half)


@torch.no_grad()
def test_half_precision_gives_about_the_same_noise():
    x_t, _ = noised(bcc(6), 0.1)
    network = denoiser().eval()
    asked = x_t, torch.tensor([0.1]), None, BOX
    whole = network(*asked)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = network(*asked)
    assert (half - whole).norm() < 0.05 * whole.norm()


@torch.no_grad()
def test_the_way_to_the_site_is_told_in_a_crystal_and_withheld_in_part_of_training():
    x_t, eps = noised(bcc(8).expand(40, -1, -1), 0.25)
    network = denoiser()
    levels, features = torch.full((40,), 0.25), torch.zeros(40, network.conditioning.n_features)
    told, pull = network.eval()._look_around(x_t, levels, None, features, BOX)
    assert told[..., -1].eq(1).all() and told[..., -9:-6].equal(pull)
    # The noise is pointed at: what the sites explain of it, without anything learned.
    assert (-pull - eps).square().mean() < 0.3
    told, pull = network.train()._look_around(x_t, levels, None, features, BOX)
    withheld = told[:, 0, -1] == 0
    assert 0.1 < withheld.float().mean() < 0.6
    assert pull[withheld].eq(0).all() and pull[~withheld].ne(0).any()


@pytest.mark.parametrize("left_out", [{"sites": False}, {"n_fields": 0}])
def test_parts_can_be_left_out(left_out):
    network, x_t = denoiser(**left_out), bcc(8)
    assert network.n_told == 4 * SIZES["n_fields"] * ("sites" in left_out)
    assert network(x_t, torch.tensor([0.1]), None, BOX).shape == x_t.shape


@torch.no_grad()
@pytest.mark.parametrize("kept", [0, 10**6])
def test_many_particles_are_taken_block_by_block(kept, monkeypatch):
    network, sigma = denoiser().eval(), torch.tensor([0.1, 0.3])
    x_t = noised(torch.cat([bcc(6), gas(1, 432)]), 0.1)[0]
    expected = network(x_t, sigma, None, BOX)
    monkeypatch.setattr(bragg, "_BLOCK", 100)
    monkeypatch.setattr(bragg, "_KEPT", kept)
    torch.testing.assert_close(network(x_t, sigma, None, BOX), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_in_a_large_box_waves_attend_to_as_many_long_ones_as_in_a_known_one(monkeypatch):
    torch.manual_seed(2)
    network, positions, features = WaveFields(n_fields=3, n_features=5), gas(), torch.rand(2, 5)
    waves = strongest_waves(positions, 20, 2.0, 9.5, BOX, long=True)
    expected = network(positions, waves, features, BOX)
    # Of 73 long ones; strengths are taken for what they are.
    monkeypatch.setattr(wave_fields, "_N_KNOWN", 59.999)
    monkeypatch.setattr(wave_fields, "_N_AT_ONCE", 30)
    monkeypatch.setattr(wave_fields, "_N_LONG", 72)
    some = network(positions, waves, features, BOX)
    assert 1e-6 < (some - expected).abs().max() < 0.1 * expected.abs().max()
    monkeypatch.setattr(wave_fields, "_N_LONG", 73)
    all_of_them = network(positions, waves, features, BOX)
    torch.testing.assert_close(all_of_them, expected, atol=1e-4, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_computes_the_same():
    network, x_t, sigma = denoiser(), gas(), torch.tensor([0.1, 0.3])
    expected = network(x_t, sigma, None, BOX).detach()
    out = network.cuda()(x_t.cuda(), sigma.cuda(), None, BOX).detach().cpu()
    assert out.numpy() == pytest.approx(expected.numpy(), abs=1e-3)
