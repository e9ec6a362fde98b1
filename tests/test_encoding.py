import pytest
import torch

from mddm import edges
from mddm.bragg import BraggDenoiser
from mddm.condition import Conditioning
from mddm.encoding import PotentialConditioning, encode
from mddm.family import Family
from mddm.formulas import LennardJones, Yukawa
from mddm.potential import Smoothed

LJ, YUKAWA = Smoothed(LennardJones()), Smoothed(Yukawa())
BOX = 5.0
SIZES = {"channels": 8, "n_layers": 2, "n_neighbors": 6, "n_fields": 2, "n_waves": 16}


@pytest.fixture(scope="module")
def told():
    return PotentialConditioning()


@pytest.fixture(scope="module")
def conditions():
    return torch.stack([encode(LJ, 0.03), encode(YUKAWA, 0.02)])


def test_the_unit_of_energy_makes_no_difference():
    torch.testing.assert_close(
        encode(Smoothed(LennardJones(epsilon=7.0)), 0.7), encode(LJ, 0.1), rtol=1e-5, atol=1e-5
    )


def test_the_temperature_is_told_in_units_of_the_potential_and_by_its_logarithm(told):
    sigma = torch.tensor([told.sigma_min, told.sigma_max])
    ends = torch.stack([encode(LJ, end) for end in told.ranges["temperature"]])
    globals_ = told(ends, sigma)
    assert globals_[:, 2].eq(0).all()
    fast = told(encode(LJ, 0.03, n_steps=3000)[None], sigma[:1])
    stable = told(encode(LJ, 0.03, what="stable")[None], sigma[:1])
    assert fast[0, 1:3].tolist() == [-1, 0] and stable[0, 1:3].tolist() == [0, 1]
    assert globals_.shape == (2, told.n_globals)
    torch.testing.assert_close(globals_[:, 0], torch.tensor([-1.0, 1.0]))
    torch.testing.assert_close(globals_[:, -1], torch.tensor([0.0, 1.0]))
    assert told.spread(globals_).shape == (2, told.n_features)


def test_an_edge_is_told_the_mean_over_the_noise_of_its_ends(told, conditions):
    sigma, generator = torch.tensor([0.2, 0.005]), torch.Generator().manual_seed(0)
    r = torch.tensor([[0.3, 1.1, 1.5, 2.2], [1.0, 1.2, 2.0, 4.0]])
    found = told.of_edges(conditions, sigma, r, torch.tensor([0, 1]))
    assert found.shape == (2, 4, told.n_edge)
    spread = (2 * 0.2**2 + 0.03**2) ** 0.5
    for place, distance in enumerate(r[0]):
        ends = spread * torch.randn(400_000, 3, generator=generator).double()
        before = (ends + torch.tensor([distance, 0, 0])).norm(dim=-1)
        for column, scale in enumerate((0.15, 0.6, 2.4)):
            expected = torch.tanh(LJ.energy(before) / scale).mean().item()
            assert found[0, place, column].item() == pytest.approx(expected, abs=5e-3)
    # Hardly any noise, and hardly any curvature.
    scale = (YUKAWA.energy(torch.tensor(2 ** (1 / 6)))).item()
    force = torch.tanh(YUKAWA.force(torch.tensor(2.0)) / scale / 1.0).item()
    assert found[1, 2, 3].item() == pytest.approx(force, abs=2e-3)
    assert found[1, 3].abs().max() < 1e-6


def test_a_wave_is_told_the_transform_of_the_potential(told, conditions):
    q = torch.tensor([[6.5, 9.0], [0.7, 7.2]])
    found = told.of_waves(conditions, q).sinh()
    scale = YUKAWA.energy(torch.tensor(2 ** (1 / 6))).item()

    r = torch.linspace(1e-3, 3, 20_001, dtype=torch.float64)
    for column, cap in enumerate((1.0, 4.0)):
        capped = cap * torch.tanh(YUKAWA.energy(r) / scale / cap)
        for place, wave in enumerate(q[1].tolist()):
            expected = torch.trapezoid(4 * torch.pi * r * capped * torch.sin(wave * r) / wave, r)
            assert found[1, place, column].item() == pytest.approx(expected.item(), abs=0.03)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    found = BraggDenoiser(**SIZES, conditioning=PotentialConditioning()).eval()
    # So that what is told of a system matters from the start.
    torch.nn.init.normal_(found.modulation.change.weight, std=0.3)
    return found


@torch.no_grad()
def test_each_system_of_a_batch_hears_of_its_own_potential(network, conditions, monkeypatch):
    x_t = BOX * torch.rand(2, 125, 3, generator=torch.Generator().manual_seed(1))
    x_t[1] = x_t[0]
    sigma = torch.tensor([0.1, 0.1])
    both = network(x_t, sigma, conditions, BOX)
    alone = [network(x_t[[i]], sigma[[i]], conditions[[i]], BOX) for i in (0, 1)]
    torch.testing.assert_close(both, torch.cat(alone), rtol=1e-3, atol=1e-4)
    assert (both[0] - both[1]).abs().max() > 0.01
    # The way of a GPU.
    monkeypatch.setattr(edges, "_narrow_ranges", edges._one_range)
    torch.testing.assert_close(network(x_t, sigma, conditions, BOX), both, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_network_that_is_told_a_potential_adopts_what_one_that_is_told_nothing_has_learned(
    conditions,
):
    told, untold = (
        BraggDenoiser(**SIZES, conditioning=each).eval()
        for each in (PotentialConditioning(), Conditioning({}))
    )
    torch.nn.init.normal_(untold.modulation.change.weight, std=0.3)
    told.adopt(untold)
    x_t = BOX * torch.rand(2, 125, 3, generator=torch.Generator().manual_seed(1))
    sigma = torch.tensor([0.1, 0.4])
    expected = untold(x_t, sigma, None, BOX)
    torch.testing.assert_close(told(x_t, sigma, conditions, BOX), expected, rtol=1e-3, atol=1e-4)
    for other, message in (
        (SIZES | {"channels": 9}, "of the same sizes"),
        (SIZES | {"n_fields": 0}, "the same parts"),
    ):
        with pytest.raises(ValueError, match=message):
            told.adopt(BraggDenoiser(**other))


def test_a_jittered_potential_is_another_one_with_forces_of_its_own(told):
    many = encode(LJ, 0.03)[None].repeat(400, 1)
    found = told.jittered(many, 0.05, torch.Generator().manual_seed(0))
    assert torch.equal(found[:, :3], many[:, :3])
    energy, force = (found - many)[:, 3:].split(150, dim=1)
    assert energy[:, 0].std().item() == pytest.approx(0.05, rel=0.1)
    assert energy.mean().abs() < 0.005 and energy[:, -1].abs().max() < 1e-6
    # Between two distances the energy falls by the mean force, over 0.02.
    fall = (energy[:, 20:90:10] - energy[:, 30:100:10]) / 0.2
    means = [
        force[:, i : i + 10].mean(1) + (force[:, i + 10] - force[:, i]) / 20
        for i in range(20, 90, 10)
    ]
    torch.testing.assert_close(torch.stack(means, dim=1), fall, atol=0.02, rtol=0)
    again = told.jittered(many, 0.05, torch.Generator().manual_seed(0))
    assert torch.equal(again, found)
    assert torch.equal(told.jittered(many, 0.0, torch.Generator()), many)


def test_what_cannot_be_told_is_refused(told):
    for call, message in (
        (lambda: encode(Smoothed(LennardJones(), r_cut=4.0), 0.1), "must end at 3"),
        (lambda: encode(Smoothed(LennardJones(epsilon=0.0)), 0.1), "must vary"),
        (lambda: encode(LJ, 0.0), "temperature must be"),
        (lambda: encode(LJ, 0.1, what="crystal"), "what must be one of"),
        (lambda: told(None, torch.ones(1)), "condition must be a potential and a temperature"),
        (lambda: told(torch.ones(1, 3), torch.ones(1)), r"condition \(potential\) must"),
        (lambda: PotentialConditioning({"k": (1.0, 2.0)}), "ranges must be that of a temperature"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_short_potential_is_told_as_it_is():
    short = Family("lennard-jones", r_on=1.8, r_cut=2.2).at({})
    energy = encode(short, 0.1)[3:153]
    r = torch.arange(1, 151) / 50
    assert energy[r > 2.2].abs().max() == 0
    assert energy[r.sub(1.12).abs().argmin()].item() == pytest.approx(-1, abs=1e-3)
