"""Make what the page that samples loads, such as the network and a recorded run.

From the repository's root: .venv/bin/python book/live.py; and once for each version of
onnxruntime-web, whose npm package lies unpacked in a folder:
.venv/bin/python book/live.py --runtime package/dist
"""

import argparse
import base64
import gzip
import json
from pathlib import Path

import numpy as np
import torch

from mddm import dataset, encoding, files, formulas, model, onnx, samplers, structure, study
from mddm.noise import make_schedule
from mddm.potential import OscillatingPair, Smoothed
from mddm.relaxing import Relaxing

ASSETS = study.project_root() / "book" / "_assets" / "live"
RECORDED = ASSETS / "recorded.npz"
MODEL, SAMPLER = "potential-bragg", "quick"
# A box whose samples take seconds, at the density of training.
N_PARTICLES = 500
BOX_LENGTH = N_PARTICLES ** (1 / 3)
R_MAX = structure.RDF_RANGE * BOX_LENGTH
START = {"k": 4.0, "phi": 1.9, "temperature": 0.045}
# What a drawing may begin with, beside the oscillating potential.
POTENTIALS = {
    "Lennard-Jones": formulas.make("lennard-jones"),
    "Morse": formulas.make("morse", r_0=1.1),
    "Dzugutov": formulas.make("dzugutov"),
    "repulsive shoulder": formulas.make("shoulder"),
}
# They are tabulated from below the linear core up to the cut-off [length].
R_FIRST, R_STEP, N_R = 0.69, 0.01, 232


def encoded(content):
    """Return bytes as text."""
    return base64.b64encode(content).decode()


def write_script(name, value):
    """Write JSON as a script: a page that is opened from disk may load those, and no other file."""
    text = json.dumps(value, separators=(",", ":"))
    start = "(window.mddmLive ??= {})"
    files.write_whole(ASSETS / f"{name}.js", f"{start}.{name} = {text};\n")
    print(f"wrote {name}.js, {len(text) / 1e6:.2f} MB")


def network(trained):
    """Return the network, what it is told, and the system that it draws."""
    settings = trained.settings
    return {
        "onnx": encoded(onnx.to_onnx(trained.denoiser)),
        "nNeighbors": trained.denoiser.n_neighbors,
        "nWaves": trained.denoiser.n_waves,
        "qMax": trained.denoiser.q_max,
        "temperatures": trained.card.ranges["temperature"],
        "sigmaMin": settings.sigma_min,
        "sigmaMax": settings.sigma_max,
        "nParticles": N_PARTICLES,
        "boxLength": BOX_LENGTH,
    }


def tables():
    """Return the potentials that a drawing may begin with, and their slopes."""
    r = R_FIRST + R_STEP * torch.arange(N_R, dtype=torch.float64)

    def rounded(values):
        return [float(f"{value:.7g}") for value in values.tolist()]

    return {
        name: {
            "first": R_FIRST,
            "step": R_STEP,
            "energies": rounded(potential.energy(r)),
            "slopes": rounded(-potential.force(r)),
        }
        for name, potential in POTENTIALS.items()
    }


def rdf(md, row):
    """Return the g(r) of MD as far as the smaller box shows it."""
    return structure.rdf(md.positions[row], md.box_length, r_max=R_MAX)[1]


def reference(md):
    """Return g(r) and energy of MD at every condition, g(r) in hundredths."""
    rows = np.flatnonzero(md.split != "replica")
    curves = [rdf(md, row) for row in rows]
    return {
        "conditions": md.conditions[rows].round(4).tolist(),
        "energies": md.energy[rows].round(4).tolist(),
        "rMax": R_MAX,
        "nBins": structure.RDF_BINS,
        "curves": encoded(np.rint(100 * np.array(curves)).astype("<u2").tobytes()),
    }


def record(trained, md):
    """Sample as the page does, where it begins."""
    k, phi, temperature = START.values()
    settings, potential = trained.settings, Smoothed(OscillatingPair(k, phi))
    frames = samplers.draw(
        trained.denoiser,
        SAMPLER,
        make_schedule("log", 2, settings.sigma_min, settings.sigma_max),
        encoding.encode(potential, temperature)[None],
        n_samples=1,
        n_particles=N_PARTICLES,
        box_length=BOX_LENGTH,
        seed=0,
        relax=Relaxing(potential, BOX_LENGTH),
    )
    frames = list(study.progress(frames, label="sampling"))
    with files.whole(RECORDED) as partial, open(partial, "wb") as file:
        np.savez_compressed(
            file,
            positions=np.stack([frame.positions[0].numpy() for frame in frames]),
            sigmas=[frame.sigma for frame in frames],
            calls=[frame.calls for frame in frames],
            reference=rdf(md, md.nearest(k, phi, temperature)),
            condition=list(START.values()),
        )
    print(f"wrote {RECORDED.name}, {RECORDED.stat().st_size / 1e6:.2f} MB")


def runtime(dist):
    """Return onnxruntime-web: its script, and its WebAssembly as gzip has it."""
    script = (dist / "ort.wasm.bundle.min.mjs").read_bytes()
    compiled = (dist / "ort-wasm-simd-threaded.wasm").read_bytes()
    return {
        "about": script.decode().partition("*/")[0].strip("/*! \n"),
        "script": encoded(script),
        "wasm": encoded(gzip.compress(compiled, 9, mtime=0)),
    }


def main():
    """Make all that the repository has the sources of, or the runtime."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", type=Path, help="the dist folder of onnxruntime-web")
    options = parser.parse_args()
    if options.runtime:
        write_script("runtime", runtime(options.runtime))
        return
    trained = model.load(MODEL)
    md = dataset.read(study.project_root() / study.DATA)
    write_script("network", network(trained))
    write_script("potentials", tables())
    write_script("md", reference(md))
    record(trained, md)


if __name__ == "__main__":
    main()
