import sys
from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import EllipseCollection, LineCollection

from mddm import plotting


@pytest.fixture
def ax(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with mpl.rc_context():
        plotting.set_style()
        figure, axes = plt.subplots()
        yield axes
        figure.canvas.draw()
        plt.close(figure)
    assert not list(tmp_path.iterdir()), "drawing wrote a file"


def spheres(ax):
    (found,) = [part for part in ax.collections if isinstance(part, EllipseCollection)]
    return found


def boxes(ax):
    return [part for part in ax.collections if isinstance(part, LineCollection)]


def test_style_is_readable_on_a_phone():
    with mpl.rc_context():
        plotting.set_style()
        width = mpl.rcParams["figure.figsize"][0]
        letters = mpl.rcParams["axes.labelsize"] / 72
        assert letters / width * 360 > 9, "letters are below 9 pixels on a screen 360 wide"


def test_no_curve_is_as_grey_as_the_reference():
    with mpl.rc_context():
        plotting.set_style()
        colors = [mpl.colors.to_rgb(look["color"]) for look in mpl.rcParams["axes.prop_cycle"]]
    assert len(set(colors)) == len(colors) >= 8
    assert min(max(rgb) - min(rgb) for rgb in colors) > 0.2


def test_a_users_own_settings_do_not_show():
    with mpl.rc_context({"axes.facecolor": "black", "text.usetex": True}):
        plotting.set_style()
        assert mpl.rcParams["axes.facecolor"] == "white"
        assert not mpl.rcParams["text.usetex"]


@pytest.mark.parametrize(
    ("named", "current", "asked"),
    [
        ("agg", "agg", ["matplotlib inline"]),
        ("QtAgg", "qtagg", ["matplotlib inline"]),
        ("", "agg", ["matplotlib inline"]),
        ("qtagg", "agg", ["matplotlib inline"]),
        # A reader's own %matplotlib has come first.
        ("module://matplotlib_inline.backend_inline", "agg", []),
    ],
)
def test_figures_are_inline_in_a_kernel_whatever_the_environment(
    monkeypatch, named, current, asked
):
    found = []
    shell = SimpleNamespace(
        kernel=None, run_line_magic=lambda *words: found.append(" ".join(words))
    )
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setenv("MPLBACKEND", named)
    with mpl.rc_context():
        # rc_context would not bring a backend back, and this one needs no loading.
        monkeypatch.setitem(mpl.rcParams, "backend", current)
        plotting.set_style()
    assert found == asked


def test_rdf_draws_each_curve(ax):
    r = np.linspace(0.05, 4.95, 50)
    curves = {"MD": np.sin(r), "MD replica": np.sin(2 * r), "MDDM": np.cos(r)}
    assert plotting.rdf(ax, r, curves, reference="MD", replica="MD replica") is ax
    drawn = {line.get_label(): line for line in ax.lines}
    for label, g in curves.items():
        assert np.array_equal(drawn[label].get_ydata(), g)
    assert drawn["MD"].get_linewidth() > drawn["MDDM"].get_linewidth()
    assert drawn["MD"].get_zorder() < drawn["MDDM"].get_zorder()
    # A model has one colour, whether there is a replica or not.
    assert drawn["MDDM"].get_color() == mpl.rcParams["axes.prop_cycle"].by_key()["color"][0]
    assert drawn["MD replica"].get_linestyle() == "--"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(curves)
    assert "σ" in ax.get_xlabel()


def test_rdf_refuses_what_does_not_fit(ax):
    with pytest.raises(ValueError, match="the curve 'MD' must have one value per bin"):
        plotting.rdf(ax, np.arange(5), {"MD": np.ones(4)})
    with pytest.raises(ValueError, match=r"reference must be one of \['MD'\], got 'md'"):
        plotting.rdf(ax, np.arange(5), {"MD": np.ones(5)}, reference="md")
    with pytest.raises(ValueError, match=r"replica must be one of \['MD'\], got 'again'"):
        plotting.rdf(ax, np.arange(5), {"MD": np.ones(5)}, replica="again")


def test_intervals_go_down_the_page_between_their_ends_with_the_marks(ax):
    low, high = [0.1, np.nan], [0.3, np.nan]
    marks = {"look-up": np.nan, "gas": 0.6}
    assert plotting.intervals(ax, ["a", "b"], [0.2, 0.5], low, high, marks) is ax
    points, (*_, bars) = ax.containers[0].lines[0], ax.containers[0].lines[2]
    assert points.get_xdata().tolist() == [0.2, 0.5]
    assert np.allclose(bars.get_segments()[0][:, 0], [0.1, 0.3])
    bottom, top = ax.get_ylim()
    assert bottom > top and ax.get_xscale() == "log"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["gas"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]


@pytest.mark.parametrize("values", [[0.3, 0.4], [0.12, 0.9], [0.16, 5.0]])
def test_intervals_of_a_decade_or_two_have_numbers_on_their_axis(ax, values):
    plotting.intervals(ax, ["a", "b"], values, values, values)
    low, high = ax.get_xlim()
    shown = zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
    told = {place: label.get_text() for place, label in shown if low < place < high}
    assert len(told) >= 3
    assert all(float(text) == pytest.approx(place) for place, text in told.items())


def test_intervals_refuse_what_does_not_fit(ax):
    with pytest.raises(ValueError, match="must have one length; got 1, 2, 2 and 2"):
        plotting.intervals(ax, ["a"], [1, 2], [1, 2], [1, 2])
    with pytest.raises(ValueError, match="must be positive"):
        plotting.intervals(ax, ["a"], [0], [0], [1])


def test_loss_shows_values_and_their_running_mean(ax):
    steps = np.arange(1, 401)
    losses = np.random.default_rng(0).uniform(0, 1, 400)
    assert plotting.loss(ax, steps, torch.tensor(losses, requires_grad=True)) is ax
    raw = next(line for line in ax.lines if len(line.get_ydata()) == 400)
    mean = next(line for line in ax.lines if line.get_label() == "mean of 20 steps")
    assert np.allclose(raw.get_ydata(), losses)
    assert mean.get_xdata()[0] == 20
    assert mean.get_ydata()[0] == pytest.approx(losses[:20].mean())
    assert mean.get_ydata()[-1] == pytest.approx(losses[-20:].mean())


def test_loss_takes_a_single_step_and_no_fewer(ax):
    plotting.loss(ax, [1], [0.5])
    for steps, losses in [([], []), ([1, 2], [0.5])]:
        with pytest.raises(ValueError, match="steps and losses must have one length"):
            plotting.loss(ax, steps, losses)


def test_schedule_is_logarithmic(ax):
    sigmas = torch.logspace(-2, 0, 20)
    assert plotting.schedule(ax, sigmas) is ax
    assert ax.get_yscale() == "log"
    (line,) = ax.lines
    assert np.allclose(line.get_ydata(), sigmas)
    assert list(line.get_xdata()) == list(range(1, 21))
    with pytest.raises(ValueError, match="sigmas must be positive"):
        plotting.schedule(ax, [0.0, 1.0])


def test_particles_are_all_drawn_with_their_box(ax):
    positions = torch.rand(50, 3, requires_grad=True) * 10
    assert plotting.particles(ax, positions, 10.0) is ax
    assert len(spheres(ax).get_offsets()) == 3 * 50, "a sphere is three discs"
    assert sum(len(part.get_segments()) for part in boxes(ax)) == 12


def test_particles_in_free_space_have_no_box(ax):
    plotting.particles(ax, np.random.default_rng(0).normal(size=(20, 3)), None)
    assert not boxes(ax)
    plotting.particles(ax, np.zeros((1, 3)), None)


def test_the_nearer_particle_is_larger_darker_and_on_top(ax):
    plotting.particles(ax, [[5.0, 0.1, 5.0], [5.0, 9.9, 5.0], [5.0, 5.0, 5.0]], 10.0, "#0000ff")
    widths = spheres(ax).get_widths()[::3]
    assert (np.diff(widths) > 0).all(), "later ones, on top, are nearer and so larger"
    faded = spheres(ax).get_facecolors()[1::3, 0]
    assert (np.diff(faded) < 0).all(), "farther ones are paler"
    across = spheres(ax).get_offsets()[::3]
    assert np.ptp(across[:, 0]) > 0
    assert np.allclose(across[1], 0, atol=1e-9), "the middle of the box is the middle of the view"


def test_values_are_mapped_to_colors(ax):
    positions = np.random.default_rng(0).uniform(0, 10, (30, 3))
    plotting.particles(ax, positions, 10.0, color=np.arange(30))
    assert len(np.unique(spheres(ax).get_facecolors()[1::3].round(4), axis=0)) == 30


@pytest.mark.parametrize(
    ("positions", "options", "message"),
    [
        (np.zeros((5, 2)), {}, r"shape \(n_particles, 3\), got \(5, 2\)"),
        (np.zeros((0, 3)), {}, r"got \(0, 3\)"),
        (np.full((5, 3), np.nan), {}, "positions must be finite"),
        (np.ones((5, 3)), {"color": np.ones(4)}, "one value per particle"),
    ],
)
def test_particles_refuses_what_it_cannot_draw(ax, positions, options, message):
    with pytest.raises(ValueError, match=message):
        plotting.particles(ax, positions, 10.0, **options)


def test_any_image_of_a_particle_is_drawn_inside_the_box(ax):
    points = np.random.default_rng(0).uniform(0, 10, (30, 3))
    images = points + 10 * np.random.default_rng(1).integers(-3, 4, points.shape)
    plotting.particles(ax, images, 10.0)
    drawn = spheres(ax).get_offsets()
    other = plotting.particles(ax.figure.add_subplot(), points, 10.0)
    np.testing.assert_allclose(drawn, spheres(other).get_offsets(), atol=1e-9)


@pytest.mark.parametrize("box", [-10.0, 0.0, [10.0, 10.0, 10.0]])
def test_particles_are_not_drawn_in_a_box_that_is_no_cube(ax, box):
    with pytest.raises(ValueError, match="box_length must be"):
        plotting.particles(ax, np.ones((5, 3)), box)


def test_particles_wants_a_plain_axes():
    figure, ax = plt.subplots(subplot_kw={"projection": "3d"})
    with pytest.raises(ValueError, match="without projection='3d'"):
        plotting.particles(ax, np.ones((5, 3)), 10.0)
    plt.close(figure)
