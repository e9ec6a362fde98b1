"""Particles that a reader can turn, on a page that needs neither a server nor the web.

`show` packs configurations into a figure of HTML with the scripts that draw them, `viewer.js`
and `viewer_gl.js`, so that it works in a notebook, in the built book and from disk.  Where no
script runs or WebGL is missing, in print and as PDF, a still picture stands in.
"""

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mddm import arguments, geometry, optional, plotting, structure
from mddm.potential import potential_energy

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from mddm.potential import Smoothed
    from mddm.sampling import Frame

# Coordinates are packed as 16-bit fractions of the box edge, colour values as 8-bit ones.
_PLACE_MAX, _VALUE_MAX = 2**16 - 1, 2**8 - 1
# Colours that the script interpolates between.
_N_COLORS = 16
_SINGLE_COLOR = "#0173b2"


@dataclass(frozen=True)
class Viewer:
    """What `show` returns: Jupyter and the book display it.

    Args:
        html: the figure with its data and script; it can be written to a page as it is.
        picture: the still picture, a PNG file.
    """

    html: str
    picture: bytes

    def _repr_html_(self) -> str:
        return self.html

    def _repr_png_(self) -> bytes:
        return self.picture


def show(
    frames: "ArrayLike | Sequence[ArrayLike]",
    box_length: float | None,
    *,
    color: "ArrayLike | Sequence[ArrayLike] | None" = None,
    color_label: str = "",
    color_range: tuple[float, float] | None = None,
    labels: Sequence[str] | None = None,
    rdf: bool = True,
    reference: "ArrayLike | None" = None,
    reference_label: str = "MD",
    diameter: float | None = None,
    caption: str = "",
    alt: str = "",
) -> Viewer:
    """Show particles that can be turned, frame by frame, with the g(r) of each frame beside them.

    A frame of 1000 particles takes 8 kB in the page; two or three dozen are plenty.

    Args:
        frames: (n_frames, n_particles, 3), a sequence of (n_particles, 3), or one such
            configuration [length]; any image of a particle will do.
        box_length: edge of the periodic cube [length]; None for clouds in free space, which
            have neither box nor g(r).
        color: (n_particles,) or (n_frames, n_particles) values for the style's colour map, for
            example energies; all particles have one colour by default.
        color_label: what the values are, with their unit, beside the colour bar.
        color_range: values at the ends of the colour bar, what lies outside is clipped; by
            default the 2nd and the 98th percentile of the last frame.
        labels: (n_frames,) what to call each frame, for example its noise level.
        rdf: draw g(r), on the bins of `structure.rdf`.
        reference: (n_bins,) another g(r) on these bins, drawn broad and grey; the RDF-MSE
            against it is shown.
        reference_label: what to call it.
        diameter: of a sphere [length]; by default as in `plotting.particles`.
        caption: a sentence below the figure.
        alt: what is to be seen, for readers who do not see it; by default the number of
            particles, the box and what is coloured.

    Returns:
        The viewer; a notebook shows it when it is the last expression of a cell.  It starts
        with the last frame and moves only when asked to.

    Raises:
        TypeError: an argument that is no number.
        ValueError: positions, values or a box that are of another shape or not finite; a
            diameter that is not positive; a label too few or too many; an empty colour range;
            a reference that does not fit.
    """
    box_length = arguments.box(box_length, free=True)
    places = _checked_frames(frames, box_length)
    if diameter is not None:
        diameter = arguments.number("diameter", diameter, above=0)
    if reference is not None:
        # On the bins of structure.rdf.
        reference = arguments.array("reference", reference, (structure.RDF_BINS,))
    n_frames, n_particles, _ = places.shape
    labels = _checked_labels(labels, n_frames)
    values, limits = _checked_values(color, color_range, (n_frames, n_particles))
    curves = _checked_rdf(places, box_length, rdf, reference)

    low, size = _cube(places, box_length)
    spacing = size / np.cbrt(n_particles)
    if diameter is None:
        diameter = size / 30 if box_length is None else 0.7 * spacing
    data = {
        "count": n_particles,
        "periodic": box_length is not None,
        "radius": round(diameter / size / 2, 5),
        "places": _pack(places, low, size),
        "values": None if values is None else _pack_values(values, limits),
        "colors": _colors(values is not None),
        "bar": None if values is None else [*_ends(values, limits), color_label],
        "labels": labels,
        "rdf": None if curves is None else _rdf_data(*curves, reference, reference_label, spacing),
    }
    picture = _picture(
        places[-1],
        box_length,
        None if values is None else values[-1].clip(*limits),
        limits,
        color_label,
        diameter,
        None if curves is None else (curves[0], curves[1][-1], reference, reference_label),
    )
    alt = alt or _describe(places.shape, box_length, color_label if values is not None else "")
    return Viewer(_page(data, picture, alt, caption), picture)


def show_sampling(
    frames: "Sequence[Frame]",
    potential: "Smoothed",
    box_length: float,
    *,
    n_shown: int = 25,
    **options,
) -> Viewer:
    """Show how a sampler forms a structure, coloured by the energy of each particle.

    Args:
        frames: all that the sampler has yielded, of one sample.
        potential: what the particles' energies are computed from.
        box_length: edge of the periodic cube [length].
        n_shown: how many of the frames to show, the first and the last among them.
        options: further ones of `show`: reference, caption, alt and the like.

    Returns:
        The viewer, as from `show`.

    Raises:
        ValueError: as from `show`; no frames, or fewer than two to be shown.
    """
    n_shown = arguments.whole("n_shown", n_shown)
    if not len(frames) or n_shown < 2:
        raise ValueError(
            f"needs frames, and at least 2 to show; got {len(frames)} frames and n_shown {n_shown}"
        )
    chosen = np.unique(np.linspace(0, len(frames) - 1, n_shown).round().astype(int))
    shown = [frames[i] for i in chosen]
    positions = [frame.positions[0].cpu() for frame in shown]
    energies = [potential_energy(places.double(), potential, box_length) for places in positions]
    return show(
        positions,
        box_length,
        color=energies,
        color_label="potential energy [ε]",
        # What has a few bad neighbours left would take up the colours of all others.
        color_range=tuple(np.percentile(energies[-1], [5, 75])),
        labels=[f"call {frame.calls}, noise {frame.sigma:.2g} σ" for frame in shown],
        **options,
    )


def _checked_frames(frames, box_length: float | None) -> np.ndarray:
    if isinstance(frames, list | tuple):
        shapes = {np.shape(frame) for frame in frames}
        if len(shapes) > 1:
            raise ValueError(f"frames must all have one shape, got {sorted(shapes, key=str)}")
    expected = ("n_frames", "n_particles", 3), ("n_particles", 3)
    places = arguments.array("frames", frames, *expected, finite=False)
    places = places.reshape(-1, *places.shape[-2:])
    if not np.isfinite(places).all():
        bad = int(np.argmin(np.isfinite(places).all(axis=(1, 2))))
        raise ValueError(f"frames must be finite; frame {bad} has nan or infinite positions")
    return geometry.wrap(places, box_length).numpy()


def _checked_labels(labels: Sequence[str] | None, n_frames: int) -> list[str]:
    if labels is None:
        return [f"frame {i + 1} of {n_frames}" for i in range(n_frames)]
    if np.shape(labels) != (n_frames,):
        raise ValueError(
            f"labels must be a list with one text for each of the {n_frames} frames, got {labels!r}"
        )
    return [str(label) for label in labels]


def _checked_values(color, color_range, shape: tuple[int, int]):
    if color is None:
        return None, (0.0, 1.0)
    values = arguments.array("color", color)
    if values.shape not in (shape, shape[1:]):
        raise ValueError(
            f"color must have one value per particle, shape {shape[1:]} or {shape}; got "
            f"{values.shape}"
        )
    values = np.broadcast_to(values, shape)
    if color_range is None:
        low, high = np.percentile(values[-1], [2, 98])
        if low == high:
            low, high = low - 0.5, high + 0.5
    else:
        low, high = arguments.array("color_range", color_range, (2,))
    if not low < high:
        raise ValueError(f"color_range must be two numbers, the lower one first; got {color_range}")
    return values, (float(low), float(high))


def _checked_rdf(places, box_length, rdf: bool, reference):
    if box_length is None or not rdf:
        if reference is not None:
            raise ValueError("reference is a g(r): it needs a box_length and rdf=True")
        return None
    measured = [structure.rdf(frame, box_length) for frame in places]
    return measured[0][0].astype(float), np.array([g for _, g in measured], dtype=float)


def _cube(places: np.ndarray, box_length: float | None) -> tuple[np.ndarray, float]:
    if box_length is not None:
        return np.zeros(3), float(box_length)
    low, high = places.min(axis=(0, 1)), places.max(axis=(0, 1))
    size = max(float((high - low).max()), 1e-9)
    return (low + high - size) / 2, size


def _pack(places: np.ndarray, low: np.ndarray, size: float) -> str:
    fractions = ((places - low) / size).clip(0, 1)
    return _encode(np.rint(fractions * _PLACE_MAX).astype("<u2"))


def _pack_values(values: np.ndarray, limits: tuple[float, float]) -> str:
    low, high = limits
    return _encode(np.rint((values.clip(low, high) - low) / (high - low) * _VALUE_MAX).astype("u1"))


def _encode(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _colors(mapped: bool) -> list[float]:
    with optional.packages():
        import matplotlib as mpl
        from matplotlib.colors import to_rgb

    if not mapped:
        return [round(part, 3) for part in to_rgb(_SINGLE_COLOR)] * _N_COLORS
    chosen = mpl.colormaps[mpl.rcParams["image.cmap"]](np.linspace(0, 1, _N_COLORS))
    return chosen[:, :3].round(3).ravel().tolist()


def _ends(values: np.ndarray, limits: tuple[float, float]) -> tuple[str, str]:
    """Say what stands at the ends of the colour bar, and whether values lie beyond."""
    low, high = limits
    below = "≤ " if values.min() < low else ""
    above = "≥ " if values.max() > high else ""
    return tuple(
        f"{sign}{end:.3g}".replace("-", "\N{MINUS SIGN}")
        for sign, end in ((below, low), (above, high))
    )


def _rdf_data(
    bin_centers, curves, reference, reference_label: str, spacing: float
) -> dict[str, Any]:
    drawn = [curves[-1]]
    data = {"r": bin_centers.round(4).tolist(), "curves": curves.round(4).tolist()}
    data["reference"] = None
    if reference is not None:
        drawn.append(reference)
        data["reference"] = {"label": reference_label, "curve": drawn[1].round(4).tolist()}
    # A single pair makes a spike in the first bins, which are small; it may leave the axes.
    counted = bin_centers > spacing / 3
    data["top"] = round(max(2.0, 1.1 * max(curve[counted].max() for curve in drawn)), 3)
    return data


def _picture(positions, box_length, values, limits, color_label, diameter, rdf) -> bytes:
    with optional.packages():
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize
        from matplotlib.figure import Figure
        from PIL import Image

    fig = Figure(figsize=(8, 3.8) if rdf else (4.6, 3.8), layout="constrained")
    axes = np.atleast_1d(fig.subplots(1, 2 if rdf else 1))
    look = _SINGLE_COLOR if values is None else values
    plotting.particles(axes[0], positions, box_length, look, diameter)
    if values is not None:
        scale = ScalarMappable(Normalize(*limits))
        fig.colorbar(scale, ax=axes[0], location="bottom", label=color_label, aspect=40)
    if rdf:
        bin_centers, curve, reference, label = rdf
        curves = {"last frame": curve} | ({} if reference is None else {label: reference})
        plotting.rdf(axes[1], bin_centers, curves, None if reference is None else label)
    drawn, packed = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, format="png", dpi=110, facecolor="white")
    # A palette takes a quarter of the room that shades of every sphere in full colour take.
    Image.open(drawn).convert("RGB").quantize(128).save(packed, "PNG", optimize=True)
    return packed.getvalue()


def _describe(shape: tuple[int, ...], box_length: float | None, color_label: str) -> str:
    n_frames, n_particles, _ = shape
    where = "in free space" if box_length is None else f"in a periodic box of edge {box_length:g} σ"
    moments = f", {n_frames} frames" if n_frames > 1 else ""
    colored = f", coloured by {color_label}" if color_label else ""
    return f"{n_particles} particles {where}{moments}{colored}"


def _page(data: dict[str, Any], picture: bytes, alt: str, caption: str) -> str:
    here = Path(__file__)
    style = here.with_suffix(".css").read_text(encoding="utf-8")
    script = "\n".join(
        here.with_name(name).read_text(encoding="utf-8") for name in ("viewer_gl.js", "viewer.js")
    )
    # A label must not end the element that carries it.
    packed = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    still = base64.b64encode(picture).decode()
    below = f"<figcaption>{html.escape(caption)}</figcaption>\n" if caption else ""
    return (
        f'<figure class="mddm-viewer">\n<style>{style}</style>\n'
        f'<img class="mddm-still" alt="{html.escape(alt)}" src="data:image/png;base64,{still}">\n'
        f'<div class="mddm-live"></div>\n{below}'
        f'<script type="application/json">{packed}</script>\n'
        f"</figure>\n<script>{script}</script>"
    )
