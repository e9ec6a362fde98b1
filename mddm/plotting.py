"""One figure style, and drawings that several chapters share.

Every function draws on the Axes it is given and returns it; none makes a figure or writes a
file.
"""

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from mddm import arguments, geometry, optional

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

# The camera that looks at particles: turned about the vertical axis, then tilted [rad].
_TURN, _TILT = np.deg2rad(28.0), np.deg2rad(20.0)
# How far away it stands, in diagonals of what it looks at.
_CAMERA_DISTANCE = 2.2
_CORNERS = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=float)
_EDGES = [
    (a, b) for a in range(8) for b in range(a) if np.abs(_CORNERS[a] - _CORNERS[b]).sum() == 1
]


def set_style() -> None:
    """Give every figure of this session the study's look; call it once per notebook.

    A notebook's figures appear on its page, whatever backend the environment names, and look the
    same whatever settings of Matplotlib a user has. A backend chosen by `%matplotlib` stays.
    """
    with optional.packages():
        import matplotlib as mpl
        import seaborn as sns

    _show_on_the_page()
    mpl.rcdefaults()
    # Grey is what the others are compared with.
    palette = [color for color in sns.color_palette("colorblind") if len(set(color)) > 1]
    sns.set_theme(context="notebook", style="ticks", palette=palette, font_scale=1.1)
    mpl.rcParams.update(
        {
            "figure.figsize": (6.4, 4.0),
            # A page column is about 800 pixels wide; a phone shows the same figure at 360, where
            # these letters are still legible.
            "figure.dpi": 130,
            "figure.constrained_layout.use": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.grid": True,
            "grid.alpha": 0.4,
            "grid.linewidth": 0.6,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "image.cmap": "viridis",
        }
    )


def _show_on_the_page() -> None:
    import matplotlib as mpl

    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if not hasattr(shell, "kernel"):
        return
    # A kernel names the inline backend here, but not over what was there before.
    named, current = os.environ.get("MPLBACKEND", "").lower(), mpl.rcParams["backend"].lower()
    # Where a window that is named cannot be had, Matplotlib takes agg.
    fell_back = current == "agg" and "inline" not in named
    if not named or current == named or fell_back:
        shell.run_line_magic("matplotlib", "inline")


def rdf(
    ax: "Axes",
    bin_centers: "ArrayLike",
    curves: Mapping[str, "ArrayLike"],
    reference: str | None = None,
    replica: str | None = None,
) -> "Axes":
    """Draw radial distribution functions over each other, with the ideal gas at 1.

    Args:
        ax: where to draw.
        bin_centers: (n_bins,) [length].
        curves: a label and its g(r), (n_bins,), for each curve.
        reference: the label of the curve that the others are held against; it is drawn broad
            and grey, below them.
        replica: the label of a curve that is what the reference is, made once more; it is drawn
            dashed and dark, so that the others have the same colours without it.

    Returns:
        The Axes.

    Raises:
        ValueError: a curve has not one value per bin, or `reference` or `replica` is not one of
            the labels.
    """
    for name, label in {"reference": reference, "replica": replica}.items():
        if label is not None and label not in curves:
            raise ValueError(f"{name} must be one of {list(curves)}, got {label!r}")
    looks = {
        replica: {"color": "0.25", "linestyle": "--", "linewidth": 1.2, "zorder": 3},
        reference: {"color": "0.7", "linewidth": 5, "zorder": 1.5},
    }
    r = arguments.array("bin_centers", bin_centers, ("n_bins",))
    ax.axhline(1, color="0.6", linewidth=0.8, zorder=1)
    for label, curve in curves.items():
        g = arguments.array(f"the curve {label!r}", curve)
        if g.shape != r.shape:
            raise ValueError(
                f"the curve {label!r} must have one value per bin, shape {r.shape}; got {g.shape}"
            )
        ax.plot(r, g, label=label, **looks.get(label, {}))
    ax.set(xlabel="r [σ]", ylabel="g(r)", xlim=(0, r[-1]), ylim=(0, None))
    ax.legend()
    return ax


def loss(ax: "Axes", steps: "ArrayLike", losses: "ArrayLike") -> "Axes":
    """Draw a training loss: every value faintly, and their running mean.

    Args:
        ax: where to draw.
        steps: (n,) training steps.
        losses: (n,) mean squared error of the predicted unit noise; 1 means nothing learned.

    Returns:
        The Axes.

    Raises:
        ValueError: `steps` and `losses` differ in length, or are empty.
    """
    steps = arguments.array("steps", steps)
    losses = arguments.array("losses", losses, finite=False)
    if steps.shape != losses.shape or not steps.size:
        raise ValueError(
            "steps and losses must have one length, at least 1; "
            f"got shapes {steps.shape} and {losses.shape}"
        )
    window = max(1, len(losses) // 20)
    mean = np.convolve(losses, np.ones(window) / window, mode="valid")
    ax.axhline(1, color="0.6", linewidth=0.8, zorder=1)
    (line,) = ax.plot(steps[window - 1 :], mean, label=f"mean of {window} steps")
    ax.plot(steps, losses, color=line.get_color(), alpha=0.25, linewidth=0.8, zorder=1.5)
    ax.set(xlabel="training step", ylabel="loss (1: nothing learned)")
    ax.legend()
    return ax


def intervals(
    ax: "Axes",
    labels: "ArrayLike",
    values: "ArrayLike",
    low: "ArrayLike",
    high: "ArrayLike",
    marks: Mapping[str, float] | None = None,
) -> "Axes":
    """Draw values with their intervals, one below the other, on a logarithmic axis.

    Args:
        ax: where to draw.
        labels: (n,) names.
        values: (n,) positive.
        low: (n,) lower ends; nan for none.
        high: (n,) upper ends; nan for none.
        marks: values that the others are held against, drawn as vertical lines, with a legend
            above the Axes; dashed by their order, in which nan keeps the place of one that is not
            there.

    Returns:
        The Axes.

    Raises:
        ValueError: lengths that differ, or a value that is not positive.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator

    columns = {"values": values, "low": low, "high": high}
    values, low, high = (
        arguments.array(name, column, finite=False) for name, column in columns.items()
    )
    lengths = [np.size(column) for column in (labels, values, low, high)]
    if len(set(lengths)) > 1:
        raise ValueError(
            "labels, values, low and high must have one length; got {}, {}, {} and {}".format(
                *lengths
            )
        )
    if not (values > 0).all():
        raise ValueError(
            f"values must be positive for a logarithmic axis, the smallest is {values.min()}"
        )
    places = np.arange(len(values))
    ax.errorbar(values, places, xerr=np.stack([values - low, high - values]), fmt="o", capsize=3)
    for number, (name, value) in enumerate((marks or {}).items(), start=1):
        dashes = (0, (3 * number - 2, 1.5) + (1, 1.5) * (number % 4 == 3))
        if not np.isnan(value):
            ax.axvline(value, color="0.4", linestyle=dashes, linewidth=1.4, zorder=1, label=name)
    handles = [line for line in ax.lines if line.get_label() in (marks or {})]
    if handles:
        # From the right, as the labels of the values leave room at the left.
        place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": len(handles)}
        ax.legend(handles=handles, **place, columnspacing=1.2, handlelength=1.6)
    ax.set(xscale="log", yticks=places, yticklabels=labels, ylim=(len(values) - 0.4, -0.6))
    low_end, high_end = ax.get_xlim()
    span = high_end / low_end
    if span < 100:
        # There may be no power of ten among them, or only one.
        logarithmic = LogLocator(subs=(1, 2, 3, 5) if span < 15 else (1, 2, 5))
        ax.xaxis.set_major_locator(MaxNLocator(5) if span < 3 else logarithmic)
        ax.xaxis.set_major_formatter("{x:g}")
    # Those between would be written over each other.
    ax.xaxis.set_minor_formatter("")
    ax.grid(axis="y", visible=False)
    return ax


def schedule(ax: "Axes", sigmas: "ArrayLike") -> "Axes":
    """Draw the noise scale of every step on a logarithmic axis.

    Args:
        ax: where to draw.
        sigmas: (n_steps,) noise scales [length], all positive.

    Returns:
        The Axes.

    Raises:
        ValueError: a noise scale is not positive.
    """
    sigmas = arguments.array("sigmas", sigmas, ("n_steps",))
    if not (sigmas > 0).all():
        raise ValueError(
            f"sigmas must be positive for a logarithmic axis, the smallest is {sigmas.min()}"
        )
    ax.semilogy(np.arange(1, len(sigmas) + 1), sigmas)
    ax.set(xlabel="step t", ylabel="noise scale [σ]")
    return ax


def particles(
    ax: "Axes",
    positions: "ArrayLike",
    box_length: float | None,
    color: "ArrayLike | str" = "C0",
    diameter: float | None = None,
) -> "Axes":
    """Draw particles as shaded spheres in perspective, paler the farther they are.

    Args:
        ax: a plain Axes, not a 3-D projection; its frame and ticks are removed.
        positions: (n_particles, 3) [length]; any image of a particle will do.
        box_length: edge of the periodic cube [length], whose edges are drawn; None for a cloud
            in free space.
        color: a colour's name, or (n_particles,) values for the colour map.
        diameter: of a sphere [length]; by default seven tenths of the particle spacing, or in
            free space a thirtieth of the cloud's extent.

    Returns:
        The Axes.

    Raises:
        TypeError: an argument that is no number.
        ValueError: positions of another shape, none or not finite; a box or a diameter that is
            not positive; a 3-D Axes.
    """
    box_length = arguments.box(box_length, free=True)
    points = arguments.positions(positions, ("n_particles", 3), dtype=torch.float64)
    points = geometry.wrap(points.detach().cpu(), box_length).numpy()
    if diameter is not None:
        diameter = arguments.number("diameter", diameter, above=0)
    if hasattr(ax, "get_zlim"):
        raise ValueError("ax must be a plain Axes: make it without projection='3d'")
    low = np.zeros(3) if box_length is not None else points.min(axis=0)
    high = np.full(3, box_length) if box_length is not None else points.max(axis=0)
    size = max((high - low).max(), 1e-9)
    if diameter is None:
        diameter = size / 30 if box_length is None else 0.7 * box_length / np.cbrt(len(points))

    center = (low + high) / 2
    flat, depth = _project(points - center, size)
    order = np.argsort(-depth)
    rgb = _base_colors(color, len(points))
    _draw_spheres(ax, flat[order], depth[order], rgb[order], diameter, size)
    if box_length is not None:
        _draw_box(ax, _CORNERS * box_length - center, size)
    ax.axis("off")
    ax.set_aspect("equal")
    frame = flat if box_length is None else _project(_CORNERS * box_length - center, size)[0]
    (left, bottom), (right, top) = frame.min(axis=0) - diameter, frame.max(axis=0) + diameter
    ax.set(xlim=(left, right), ylim=(bottom, top))
    return ax


def _project(points: np.ndarray, size: float) -> tuple[np.ndarray, np.ndarray]:
    x, y, z = points.T
    right = x * np.cos(_TURN) + y * np.sin(_TURN)
    inward = -x * np.sin(_TURN) + y * np.cos(_TURN)
    up = z * np.cos(_TILT) + inward * np.sin(_TILT)
    depth = inward * np.cos(_TILT) - z * np.sin(_TILT)
    distance = _CAMERA_DISTANCE * np.sqrt(3) * size
    scale = distance / (distance + depth)
    return np.stack([right * scale, up * scale], axis=1), depth


def _base_colors(color: "ArrayLike | str", n_particles: int) -> np.ndarray:
    import matplotlib as mpl
    from matplotlib.colors import Normalize, is_color_like, to_rgb

    if is_color_like(color) and isinstance(color, str):
        return np.tile(to_rgb(color), (n_particles, 1))
    values = arguments.array("color", color)
    if values.shape != (n_particles,):
        raise ValueError(
            f"color must be a colour's name or one value per particle, shape ({n_particles},); "
            f"got {values.shape}"
        )
    return mpl.colormaps[mpl.rcParams["image.cmap"]](Normalize()(values))[:, :3]


def _draw_spheres(ax, flat, depth, rgb, diameter, size) -> None:
    from matplotlib.collections import EllipseCollection

    distance = _CAMERA_DISTANCE * np.sqrt(3) * size
    scale = distance / (distance + depth)
    haze = 0.65 * (depth - depth.min()) / max(np.ptp(depth), 1e-9)
    body = rgb + (1 - rgb) * haze[:, None]
    # A disc, a lighter disc and a highlight for each, drawn in this order from back to front,
    # so that nearer spheres cover all three of the farther ones.
    layers = [(1.0, 0.0, 0.72 * body + 0.28 * haze[:, None] ** 2), (0.84, 0.05, body)]
    layers.append((0.3, 0.2, 0.45 * body + 0.55))
    widths = np.stack([share * diameter * scale for share, _, _ in layers], axis=1)
    shifts = np.stack([shift * diameter * scale for _, shift, _ in layers], axis=1)
    colors = np.stack([color for _, _, color in layers], axis=1)
    offsets = flat[:, None] + shifts[:, :, None] * np.array([-0.7, 0.7])
    spheres = EllipseCollection(
        widths.ravel(),
        widths.ravel(),
        np.zeros(widths.size),
        units="xy",
        offsets=offsets.reshape(-1, 2),
        offset_transform=ax.transData,
        facecolors=colors.reshape(-1, 3).clip(0, 1),
        linewidths=0,
        zorder=2,
    )
    ax.add_collection(spheres)


def _draw_box(ax, corners: np.ndarray, size: float) -> None:
    from matplotlib.collections import LineCollection

    flat, depth = _project(corners, size)
    hidden = int(depth.argmax())
    for behind in (True, False):
        edges = [flat[list(edge)] for edge in _EDGES if (hidden in edge) == behind]
        lines = LineCollection(edges, colors="0.45", linewidths=0.8, zorder=1 if behind else 3)
        ax.add_collection(lines)
