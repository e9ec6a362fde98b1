"""Diagrams: what happens to a configuration, and what the two networks are made of.

Each is drawn on the Axes it is given, for a figure about 5.4 inches wide: its letters can then be
read on a phone.  Numbers in a network's diagram are read off the network.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mddm import plotting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

    from mddm.pbcconv import PBCConvDenoiser
    from mddm.transolver import TransolverDenoiser

# Every diagram is 10 units wide; face and edge of a box say what is in it.
_WIDTH = 10.0
_LOOKS = {
    "learned": ("#d6e6f4", "#0173b2"),
    "given": ("#f2f2f2", "#8c8c8c"),
    "judged": ("#fbe9d0", "#c77f04"),
}
_INK, _FAINT = "0.15", "0.4"
_LETTERS, _SMALL = 10.5, 10.0


def pipeline(ax: "Axes", stages: Sequence["ArrayLike"], box_length: float) -> "Axes":
    """Draw the study in three rows: making data, training on it, judging what is sampled.

    Args:
        ax: about 5.4 by 6.2 inches.
        stages: three configurations, (n_particles, 3) each: from MD, noised, uniform [length].
        box_length: edge of the periodic cube [length].

    Returns:
        The Axes.

    Raises:
        ValueError: not three configurations.

    Source: MDDM figure 1, drawn anew.
    """
    _check_stages(stages)
    _canvas(ax, 11.6)
    clean, noised, uniform = stages
    for y, title in ((11.2, "1  Data"), (7.2, "2  Training"), (3.1, "3  Evaluation")):
        _text(ax, 0.1, y, title, ha="left", weight="bold")
        ax.plot([0.1, 9.9], [y - 0.35] * 2, color="0.8", linewidth=0.8)

    _box(ax, 1.35, 9.4, "potential\n$k$, $\\phi$ and\ntemperature", "given", 2.5, 1.5)
    _box(ax, 5.0, 9.4, "molecular\ndynamics:\nslow cooling", "given", 2.5, 1.5)
    _arrow(ax, [(2.6, 9.4), (3.75, 9.4)])
    _arrow(ax, [(6.25, 9.4), (7.25, 9.4)])
    _particles(ax, 8.6, 9.4, clean, box_length, "$x_0$")

    _particles(ax, 1.35, 5.4, noised, box_length, "$x_t$: noise $\\varepsilon$ added")
    _box(ax, 5.0, 5.4, "denoiser", "learned", 2.5, 0.9)
    _text(ax, 5.0, 6.55, "$k$, $\\phi$, $T$, $t$", color=_FAINT)
    _arrow(ax, [(5.0, 6.25), (5.0, 5.85)])
    _arrow(ax, [(2.65, 5.4), (3.75, 5.4)])
    _arrow(ax, [(6.25, 5.4), (7.3, 5.4)])
    _box(ax, 8.6, 5.4, "guess $\\hat\\varepsilon$\nagainst $\\varepsilon$", "judged", 2.5, 1.1)

    _particles(ax, 1.35, 1.35, uniform, box_length, "uniform noise")
    _box(ax, 5.0, 1.9, "denoiser,\nlevel by level", "learned", 2.5, 1.1)
    _box(ax, 5.0, 0.45, "MD, same $k$, $\\phi$, $T$", "given", 3.1, 0.7)
    _box(ax, 8.6, 1.35, "$g(r)$ against\n$g(r)$", "judged", 2.5, 1.1)
    _arrow(ax, [(2.65, 1.9), (3.75, 1.9)])
    _arrow(ax, [(6.25, 1.9), (7.0, 1.9), (7.0, 1.6), (7.35, 1.6)])
    _arrow(ax, [(6.55, 0.45), (7.0, 0.45), (7.0, 1.1), (7.35, 1.1)])
    return ax


def analogy(ax: "Axes", stages: Sequence["ArrayLike"], box_length: float) -> "Axes":
    """Draw image diffusion and particle diffusion side by side, and what stands for what.

    Args:
        ax: about 5.4 by 5.6 inches.
        stages: three configurations, (n_particles, 3) each: from MD, noised, uniform [length].
        box_length: edge of the periodic cube [length].

    Returns:
        The Axes.

    Raises:
        ValueError: not three configurations.

    Source: MDDM figure 2, drawn anew.
    """
    _check_stages(stages)
    _canvas(ax, 10.4)
    columns, size = (1.75, 5.0, 8.25), 2.3
    _text(ax, 0.1, 10.0, "Images, told a text", ha="left", weight="bold")
    _text(ax, 0.1, 6.3, "Particles, told a potential", ha="left", weight="bold")
    clean, noised, uniform = stages
    for y, pictures in ((8.35, _sunset()), (4.65, (uniform, noised, clean))):
        for number, (x, picture) in enumerate(zip(columns, pictures, strict=True)):
            inset = _inset(ax, x, y, size)
            if y > 5:
                inset.imshow(picture, interpolation="nearest")
                inset.axis("off")
            else:
                plotting.particles(inset, picture, box_length)
            if number:
                _arrow(ax, [(x - 2.0, y), (x - 1.25, y)])
    rows = [
        ("condition", "“a sun above the sea”", "$k$, $\\phi$, temperature"),
        ("what moves", "colours on a grid", "positions in a box"),
        ("end of the noise", "normal", "uniform: noise wraps"),
        ("network", "convolution, U-Net", "convolution on neighbours"),
    ]
    for y, (label, image, particle) in zip((2.55, 1.85, 1.15, 0.45), rows, strict=True):
        ax.plot([0.1, 9.9], [y + 0.35] * 2, color="0.85", linewidth=0.8)
        _text(ax, 0.1, y, label, ha="left", color=_FAINT, fontsize=_SMALL)
        _text(ax, 2.85, y, image, ha="left", fontsize=_SMALL)
        _text(ax, 6.35, y, particle, ha="left", fontsize=_SMALL)
    return ax


def pbcconv(ax: "Axes", denoiser: "PBCConvDenoiser") -> "Axes":
    """Draw MDDM's network from positions at the top to the estimated noise at the bottom.

    Args:
        ax: about 5.4 by 5.8 inches.
        denoiser: the network whose layers and widths are shown.

    Returns:
        The Axes.

    Source: MDDM figure 3, drawn anew.
    """
    n_layers, n_first = len(denoiser.layers), denoiser.layers[0].sizes[1]
    enter, _, leave = denoiser.head
    channels = enter.in_features
    height = 4.9 + 1.5 * n_layers
    _canvas(ax, height)
    top, middle = height - 0.5, 5.1
    _box(ax, 1.45, top, "positions $x_t$", "given", 2.7)
    _box(ax, 8.6, top, "$k$, $\\phi$, $T$, $t/T$", "given", 2.6)
    levels = [top - 1.7 - 1.5 * number for number in range(n_layers)]
    graph = f"periodic graph,\n{denoiser.n_neighbors} neighbours"
    _box(ax, 1.45, levels[0], graph, "given", 2.7, 1.05)
    _arrow(ax, [(1.45, top - 0.4), (1.45, levels[0] + 0.53)], "3")
    _arrow(ax, [(7.3, top), (middle, top), (middle, levels[0] + 0.5)], n_first)
    for number, (y, layer) in enumerate(zip(levels, denoiser.layers, strict=True)):
        first, last = layer.linear, layer.mix
        widths = f"h: {first.in_features}, {first.out_features}, {last.out_features}"
        _box(ax, middle, y, f"PBCConv {number + 1}\n{widths}", "learned", 3.5, 1.0)
        _arrow(ax, [(8.6, top - 0.4), (8.6, y), (middle + 1.75, y)])
        start = [(2.8, y)] if number == 0 else [(1.45, levels[0] - 0.53), (1.45, y)]
        _arrow(ax, [*start, (middle - 1.75, y)])
        _arrow(
            ax, [(middle, y - 0.5), (middle, y - (1.0 if number + 1 < n_layers else 1.1))], channels
        )
    end = levels[-1] - 1.5
    widths = f"{channels}, {leave.in_features}, {leave.out_features}"
    _box(ax, middle, end, f"MLP: {widths}", "learned", 3.5)
    _arrow(ax, [(middle, end - 0.4), (middle, end - 0.9)], "3")
    _box(ax, middle, end - 1.3, "estimated noise $\\hat\\varepsilon$", "given", 3.6)
    return ax


def transolver(ax: "Axes", denoiser: "TransolverDenoiser") -> "Axes":
    """Draw Transolver from positions at the top to the estimated noise at the bottom.

    Args:
        ax: about 5.4 by 5.4 inches.
        denoiser: the network whose layers and widths are shown.

    Returns:
        The Axes.

    Source: MDDM section 4.1, after Wu et al. 2024.
    """
    _canvas(ax, 9.9)
    block = denoiser.blocks[0]
    first, width = denoiser.preprocess[0], denoiser.placeholder.numel()
    attention = block.attention
    n_slices = attention.project_slice.out_features
    _box(ax, 2.6, 9.4, "positions $x_t$", "given", 3.0)
    _box(ax, 7.0, 9.4, "$k$, $\\phi$, $T$, $t/T$", "given", 3.0)
    _arrow(ax, [(2.6, 9.0), (2.6, 8.4)], "3")
    _arrow(ax, [(7.0, 9.0), (7.0, 8.4)], first.in_features - 3)
    _box(
        ax,
        4.8,
        7.9,
        f"MLP, {first.in_features} to {first.out_features} to {width},\nand a learned vector",
        "learned",
        7.4,
        1.0,
    )
    ax.add_patch(_frame(0.5, 2.85, 9.3, 3.85))
    _text(ax, 0.7, 3.1, f"{len(denoiser.blocks)} times", ha="left", color=_FAINT, fontsize=_SMALL)
    _arrow(ax, [(4.8, 7.4), (4.8, 6.45)], width)
    _box(
        ax,
        4.8,
        5.95,
        f"physics attention: {attention.n_heads} heads,\n{n_slices} slices",
        "learned",
        7.4,
        1.0,
    )
    _arrow(ax, [(4.8, 5.45), (4.8, 4.6)], f"{width}, added to the input")
    _box(ax, 4.8, 4.15, f"MLP, {width} to {block.mlp[0].out_features} to {width}", "learned", 7.4)
    _arrow(ax, [(4.8, 3.75), (4.8, 2.45)], f"{width}, added to the input")
    _box(ax, 4.8, 2.05, f"linear, {width} to 3", "learned", 7.4)
    _arrow(ax, [(4.8, 1.65), (4.8, 1.1)], "3")
    _box(ax, 4.8, 0.7, "estimated noise $\\hat\\varepsilon$", "given", 3.6)
    return ax


def _check_stages(stages) -> None:
    if len(stages) != 3:
        raise ValueError(
            f"stages must be three configurations, from MD, noised and uniform; got {len(stages)}"
        )


def _canvas(ax, height: float) -> None:
    ax.set(xlim=(0, _WIDTH), ylim=(0, height), aspect="equal")
    ax.axis("off")


def _text(ax, x: float, y: float, text: str, **look) -> None:
    ax.text(
        x, y, text, **{"ha": "center", "va": "center", "color": _INK, "fontsize": _LETTERS} | look
    )


def _box(ax, x, y, text: str, kind: str, width: float, height: float = 0.8) -> None:
    from matplotlib.patches import FancyBboxPatch

    face, edge = _LOOKS[kind]
    style = "round,pad=0,rounding_size=0.12"
    corner = (x - width / 2, y - height / 2)
    look = {"boxstyle": style, "facecolor": face, "edgecolor": edge, "linewidth": 1.2}
    ax.add_patch(FancyBboxPatch(corner, width, height, **look))
    _text(ax, x, y, text)


def _frame(x: float, y: float, width: float, height: float):
    from matplotlib.patches import FancyBboxPatch

    look = {"facecolor": "none", "edgecolor": "0.6", "linestyle": "--", "linewidth": 1}
    style = "round,pad=0,rounding_size=0.12"
    return FancyBboxPatch((x, y), width, height, boxstyle=style, **look)


def _arrow(ax, path: Sequence[tuple[float, float]], label: object = "") -> None:
    if len(path) > 2:
        ax.plot(*zip(*path[:-1], strict=True), color=_FAINT, linewidth=1.2)
    look = {"arrowstyle": "-|>", "color": _FAINT, "shrinkA": 0, "shrinkB": 0, "linewidth": 1.2}
    ax.annotate("", path[-1], path[-2], arrowprops=look)
    if label:
        (x, y), (_, y_end) = path[-2:]
        _text(ax, x + 0.2, (y + y_end) / 2, label, ha="left", color=_FAINT, fontsize=_SMALL)


def _inset(ax, x: float, y: float, size: float) -> "Axes":
    corner = (x - size / 2, y - size / 2)
    return ax.inset_axes([*corner, size, size], transform=ax.transData)


def _particles(ax, x: float, y: float, positions, box_length: float, label: str) -> None:
    plotting.particles(_inset(ax, x, y + 0.15, 2.5), positions, box_length)
    _text(ax, x, y - 1.25, label, fontsize=_SMALL)


def _sunset(n_pixels: int = 40) -> list[np.ndarray]:
    """Paint a sun above the sea and noise it twice: (n, n, 3) in [0, 1], the clean one last."""
    y, x = np.mgrid[0 : 1 : 1j * n_pixels, 0 : 1 : 1j * n_pixels]
    sky = np.stack(
        [0.95 - 0.5 * (0.6 - y), 0.62 - 0.3 * (0.6 - y), 0.45 + 0.4 * (0.6 - y)], axis=-1
    )
    sea = np.stack([0.1 + 0 * y, 0.32 - 0.2 * (y - 0.6), 0.52 - 0.3 * (y - 0.6)], axis=-1)
    clean = np.where((y < 0.62)[..., None], sky, sea)
    clean[(x - 0.5) ** 2 + (y - 0.45) ** 2 < 0.03] = (1.0, 0.9, 0.55)
    glitter = (abs(x - 0.5) < 0.12) & (y > 0.66) & (np.arange(n_pixels)[:, None] % 4 < 2)
    clean[glitter] = (0.95, 0.75, 0.5)
    noise = np.random.default_rng(0).standard_normal(clean.shape)
    pure = 0.5 + 0.22 * noise
    return [pure.clip(0, 1), (0.55 * clean + 0.22 + 0.16 * noise).clip(0, 1), clean.clip(0, 1)]
