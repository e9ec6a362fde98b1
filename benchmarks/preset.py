"""How neighbours and learning rate decide what the paper preset learns in a short run.

From the repository's root: .venv/bin/python benchmarks/preset.py
"""

import argparse
import itertools

import torch

from mddm import dataset, study, tasks, training


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="data/opp-small.h5", help="relative to the root")
    parser.add_argument("--neighbors", type=int, nargs="+", default=[4, 6, 8, 12, 20])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3])
    parser.add_argument("--steps", type=int, default=800, help="of one configuration each")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    md = dataset.read(study.project_root() / options.data)
    row = md.nearest(k=6.6, phi=4.2, temperature=0.014)
    source = tasks.training_source("unconditional", md, row)
    # The levels where structure forms; outside them there is next to nothing to learn.
    levels = {"sigma_min": 0.01, "sigma_max": 0.8}
    print(f"loss over the last {options.steps // 5} of {options.steps} steps, 1: nothing learned")
    print("neighbours  rate    loss   s")
    for n_neighbors, rate in itertools.product(options.neighbors, options.rates):
        settings = training.Settings(
            n_steps=options.steps,
            batch_size=1,
            learning_rate=rate,
            seed=options.seed,
            **levels,
        )
        state = training.TrainingState(settings, study.device())
        for part in (state.denoiser, state.average.module):
            part.n_neighbors = n_neighbors
        for _ in training.train(state, source):
            pass
        loss = state.losses[-(options.steps // 5) :].mean()
        print(f"{n_neighbors:10}  {rate:.0e}  {loss:.3f}  {state.seconds:.0f}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
