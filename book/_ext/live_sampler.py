"""The page that samples: a recorded run, in whose place the reader's own comes."""

from pathlib import Path

import numpy as np
import torch
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from mddm import viewer
from mddm.potential import OscillatingPair, Smoothed
from mddm.sampling import Frame

ASSETS = Path(__file__).resolve().parents[1] / "_assets" / "live"
# What the page loads when a sample is asked for.
ON_DEMAND = ("runtime", "network", "md")
AT_ONCE = ("pair", "potentials", "sampler", "waves", "draw", "page")
ALT = (
    "A box of particles, coloured by their energy, that order step by step; beside it g(r), over "
    "that of MD in grey."
)


def setup(app):
    """Add the directive; Sphinx calls this."""
    app.add_directive("live-sampler", LiveSampler)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class LiveSampler(SphinxDirective):
    """The recorded run in a viewer, and the script that puts controls above it.

    Its content is the run's caption.
    """

    has_content = True

    def run(self):
        """Write the figure into the page."""
        self.env.note_dependency(str(ASSETS / "recorded.npz"))
        static = "../" * self.env.docname.count("/") + "_static/live"
        megabytes = sum((ASSETS / f"{name}.js").stat().st_size for name in ON_DEMAND) / 1e6
        shown, condition = recorded(" ".join(self.content))
        scripts = [f'<script src="{static}/{name}.js"></script>' for name in AT_ONCE]
        html = (
            f'<link rel="stylesheet" href="{static}/page.css">\n'
            f'<div class="mddm-try" data-static="{static}" data-megabytes="{megabytes:.1f}" '
            f'data-condition="{condition}"></div>\n' + "\n".join([shown.html, *scripts])
        )
        return [nodes.raw("", html, format="html")]


def recorded(caption):
    """Return a viewer of the run that was recorded, and its condition in words."""
    with np.load(ASSETS / "recorded.npz") as run:
        moments = zip(run["sigmas"], run["positions"], run["calls"], strict=True)
        k, phi, _ = run["condition"].tolist()
        frames = [
            Frame(len(run["calls"]) - number, sigma, torch.from_numpy(positions)[None], calls)
            for number, (sigma, positions, calls) in enumerate(moments, start=1)
        ]
        shown = viewer.show_sampling(
            frames,
            Smoothed(OscillatingPair(k, phi)),
            len(run["positions"][0]) ** (1 / 3),
            reference=run["reference"],
            caption=caption,
            alt=ALT,
        )
        return shown, " ".join(f"{number:g}" for number in run["condition"])
