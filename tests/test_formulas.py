import math

import numpy as np
import pytest
import torch

from mddm import formulas
from mddm.potential import OscillatingPair, PairPotential

R = torch.linspace(0.7, 3, 231, dtype=torch.float64)
OSCILLATION = {"k": 6.6, "phi": 2.4}
GIVEN = {name: OSCILLATION for name in ("opp", "opp-hoomd", "opp-decay")}
GIVEN["wells"] = {"epsilon": 0.7, "tail": 0.4, "depth_2": -0.3, "depth_3": 0.6}


def build(name) -> PairPotential:
    return formulas.make(name, **GIVEN.get(name, {}))


@pytest.mark.parametrize("name", formulas.FORMULAS)
def test_the_force_is_minus_the_slope_of_the_energy(name):
    r = R.clone().requires_grad_()
    energy = build(name).energy(r)
    (slope,) = torch.autograd.grad(energy.sum(), r)
    torch.testing.assert_close(build(name).force(R), -slope, rtol=1e-9, atol=1e-9)
    assert energy[0] > 1  # a core


def at(potential, r):
    return potential.energy(torch.tensor([r], dtype=torch.float64)).item()


def test_wells_are_where_the_formulas_have_them():
    lennard_jones = formulas.LennardJones(epsilon=2.0, size=1.5)
    assert at(lennard_jones, 1.5) == pytest.approx(0)
    assert at(lennard_jones, 1.5 * 2 ** (1 / 6)) == pytest.approx(-2)
    assert at(formulas.Morse(epsilon=3.0, alpha=4.0, r_0=1.2), 1.2) == pytest.approx(-3)
    assert at(formulas.Morse(), 1 + math.log(2) / 6) == pytest.approx(0.25 - 1)
    assert at(formulas.InversePower(2.0, 1.1, 6.0), 2.2) == pytest.approx(2 / 64)
    yukawa = formulas.Yukawa(epsilon=2.0, kappa=1.0, size=0.0)
    assert at(yukawa, 2.0) == pytest.approx(math.exp(-2))
    double = formulas.LennardJonesGauss(epsilon=1.5, r_0=1.4)
    assert at(double, 1.4) == pytest.approx(1.4**-12 - 2 * 1.4**-6 - 1.5)
    assert at(double, 1.4 + 0.02**0.5) == pytest.approx(
        at(formulas.LennardJonesGauss(0.0), 1.4 + 0.02**0.5) - 1.5 * math.exp(-0.5)
    )


def test_a_decay_of_three_is_the_studys_potential():
    ours = formulas.make("opp-decay", **OSCILLATION, decay=3)
    torch.testing.assert_close(ours.energy(R), OscillatingPair(**OSCILLATION).energy(R))


def test_a_shoulder_is_half_as_high_at_its_edge():
    shoulder = formulas.Shoulder(epsilon=2.0, edge=1.4, size=0.8)
    assert at(shoulder, 1.4) == pytest.approx((0.8 / 1.4) ** 14 + 1)
    assert at(shoulder, 2.5) == pytest.approx(0, abs=1e-6)


def test_wells_add_up_to_core_tail_and_wells():
    narrow = {f"width_{i}": 0.01 for i in (1, 2, 3)}
    wells = formulas.Wells(
        epsilon=2.0, tail=0.5, depth_1=0.6, depth_2=0.0, depth_3=-0.2, r_3=2.0, **narrow
    )

    def expected(r):
        return (0.9 / r) ** 12 + 0.5 * math.exp(-2 * (r - 1)) / r

    assert at(wells, 1.1) == pytest.approx(2 * (expected(1.1) - 0.6))
    assert at(wells, 1.5) == pytest.approx(2 * expected(1.5))
    assert at(wells, 2.0) == pytest.approx(2 * (expected(2.0) + 0.2))


def test_dzugutov_has_its_well_its_hump_and_its_end():
    # Dzugutov 1992: a minimum of -0.581 at 1.13, a maximum of 0.46 at 1.63.
    r = torch.linspace(0.95, 2.2, 5001, dtype=torch.float64)
    energy = formulas.Dzugutov().energy(r)
    assert r[energy.argmin()].item() == pytest.approx(1.13, abs=0.01)
    assert energy.min().item() == pytest.approx(-0.581, abs=0.002)
    beyond = r > 1.3
    assert r[beyond][energy[beyond].argmax()].item() == pytest.approx(1.63, abs=0.02)
    assert energy[beyond].max().item() == pytest.approx(0.46, abs=0.01)
    assert (energy[r >= 1.94] == 0).all() and (energy[r < 1.93] != 0).all()


def test_both_conventions_of_the_oscillating_potential_are_one_potential():
    ours = OscillatingPair(6.6, 2.4)
    hoomd = formulas.make("opp-hoomd", k=6.6, phi=2.4 + 1.25 * 6.6)
    torch.testing.assert_close(hoomd.energy(R), ours.energy(R))
    expected = R**-15 + R**-3 * torch.cos(5 * R - 1)
    torch.testing.assert_close(formulas.make("opp-hoomd", k=5, phi=1).energy(R), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: formulas.make("lenard-jones"), "did you mean 'lennard-jones'"),
        (lambda: formulas.make("morse", alfa=3), "did you mean 'alpha'"),
        (lambda: formulas.make("opp", k=3), "'opp' needs k, phi; phi not given"),
        (lambda: formulas.make("morse", alpha=math.nan), "alpha must be a finite number"),
        (lambda: formulas.LennardJones().energy(torch.tensor([-1.0])), "at least 0, got -1"),
    ],
)
def test_wrong_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- tables ------------------------------------------------------------------------------------

TABLE = formulas.LennardJones()
AT = np.linspace(0.8, 3, 45)
U = TABLE.energy(torch.from_numpy(AT)).numpy()
F = TABLE.force(torch.from_numpy(AT)).numpy()


def columns(*values):
    return "\n".join(
        " ".join(f"{value:.10g}" for value in row) for row in zip(*values, strict=True)
    )


LAMMPS = f"# a comment\n\nLJ\nN {len(AT)} R 0.8 3.0\n\n" + columns(range(1, len(AT) + 1), AT, U, F)


@pytest.mark.parametrize(
    "text",
    [
        columns(AT, U),
        "# r U F\n" + columns(AT, U, F),
        columns(AT, U).replace(" ", ","),
        "\ufeff# from Windows\r\n" + columns(AT, U).replace("\n", "\r\n"),
        LAMMPS + "\n\nANOTHER\nN 2\n\n1 1 0 0\n2 2 0 0\n",
        LAMMPS.replace("LJ", "N"),
    ],
)
def test_tables_are_read(tmp_path, text):
    (tmp_path / "mine.table").write_bytes(text.encode())
    found = formulas.read_table(tmp_path / "mine.table")
    r = torch.from_numpy(AT)
    torch.testing.assert_close(found.energy(r), torch.from_numpy(U), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have two columns"),
        (columns(AT), "must have two columns"),
        (columns(AT, U, F, F), "must have two columns"),
        ("r U\n" + columns(AT, U), "got 'r U'. Put a # before"),
        (columns(AT, U, -F), "third column must be the force -dU/dr; at r = "),
        (columns(AT[::-1], U), "strictly increasing, and 2.95 follows 3; sort it"),
        (columns(AT[[0, 0, 1, 2]], U[:4]), "0.8 follows 0.8; .* leave out what is there twice"),
        (
            columns([0, *AT], [np.inf, *U]),
            "above 0 and all numbers finite, got '0 inf'; leave that",
        ),
        (columns(AT, np.where(AT < 1, 1e10, U)), "from 1e\\+10 to 0 at r = 1, .* begin the table"),
        (columns(AT, U).replace(" ", ";"), "with blanks or commas between them; got '0.8;"),
        (LAMMPS[: len(LAMMPS) // 2].rsplit("\n", 1)[0], "lines it announces"),
    ],
)
def test_what_is_no_table_is_refused_by_its_name(tmp_path, text, message):
    (tmp_path / "mine.table").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        formulas.read_table(tmp_path / "mine.table")
    assert "mine.table" in str(error.value)
    with pytest.raises(FileNotFoundError):
        formulas.read_table(tmp_path / "nowhere.table")


def test_a_table_in_another_encoding_is_refused_by_its_name(tmp_path):
    (tmp_path / "mine.table").write_text(columns(AT, U), encoding="utf-16")
    with pytest.raises(ValueError, match=r"mine.table is no text in UTF-8; save it as such"):
        formulas.read_table(tmp_path / "mine.table")
