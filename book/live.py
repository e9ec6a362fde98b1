"""Make what the page that samples loads: the network, MD's g(r), a recorded run, the runtime.

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

from mddm import dataset, files, lammps, model, noise, onnx, samplers, structure, study

ASSETS = study.project_root() / "book" / "_assets" / "live"
RECORDED = ASSETS / "recorded.npz"
MODEL = "mddm"
# A box whose samples take seconds, at the density of training.
N_PARTICLES = 500
BOX_LENGTH = N_PARTICLES ** (1 / 3)
R_MAX = structure.RDF_RANGE * BOX_LENGTH
N_LEVELS = 40
# Where the page begins: rounded, the test condition at which the model's score is the median one.
START = {"k": 9.3, "phi": 4.3, "temperature": 0.04}
N_SHOWN = 25


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
        "ranges": list(trained.card.ranges.values()),
        "sigmaMin": settings.sigma_min,
        "sigmaMax": settings.sigma_max,
        "nLevels": N_LEVELS,
        "nParticles": N_PARTICLES,
        "boxLength": BOX_LENGTH,
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
    """Sample as the page does, where it begins, and keep some of the frames."""
    condition = np.array([list(START.values())])
    settings, potential = trained.settings, trained.card.potential.at(START)
    frames = samplers.draw(
        trained.denoiser,
        samplers.BEST[MODEL],
        noise.make_schedule("log", N_LEVELS, settings.sigma_min, settings.sigma_max),
        condition,
        n_samples=1,
        n_particles=N_PARTICLES,
        box_length=BOX_LENGTH,
        seed=0,
        relax=lambda positions: lammps.minimize(positions, potential, BOX_LENGTH)[0],
    )
    frames = list(study.progress(frames, label="sampling"))
    shown = [frames[i] for i in np.linspace(0, len(frames) - 1, N_SHOWN).round().astype(int)]
    with files.whole(RECORDED) as partial, open(partial, "wb") as file:
        np.savez_compressed(
            file,
            positions=np.stack([frame.positions[0].numpy() for frame in shown]),
            sigmas=[frame.sigma for frame in shown],
            calls=[frame.calls for frame in shown],
            reference=rdf(md, md.nearest(*condition[0])),
            condition=condition[0],
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
    write_script("md", reference(md))
    record(trained, md)


if __name__ == "__main__":
    main()
