"""Samples against runs of MD, as two distributions: are they of the same kind, as often?

One run is no yardstick where MD itself comes out differently each time.  What is compared here is
several samples with several runs: their g(r) as wholes, and what surrounds single particles.
"""

from typing import TYPE_CHECKING

import numpy as np

from mddm import arguments, optional, structure

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# Neighbours are counted within this distance [length], the first minimum of g(r) at density 1.
_FIRST_SHELL = 1.4
# Of a crystal, roughly: bond order of degrees 4 and 6, and neighbours.
_TYPICAL = (0.5, 0.5, 12.0)
_QUANTILES = np.arange(0.05, 1.0, 0.05)


def energy_distance(samples: "ArrayLike", references: "ArrayLike") -> float:
    """Compute the energy distance between two sets of vectors, such as curves of g(r).

    That is 2 E|s - m| - E|s - s'| - E|m - m'| for s and s' of the one and m and m' of the other,
    without bias; |.| is the root mean square of the components.

    Args:
        samples: (n, n_components), n at least 2.
        references: (m, n_components), m at least 2.

    Returns:
        0 on average where both are of one distribution, and then as often below it as above.

    Raises:
        TypeError, ValueError: no numbers, not finite, fewer than two, or different lengths.

    Source: Székely and Rizzo 2013.
    """
    first, second = _several("samples", samples), _several("references", references)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"samples and references must be of one length, got {first.shape[1]} and "
            f"{second.shape[1]}"
        )
    return 2 * _apart(first, second).mean() - _among(first) - _among(second)


def surroundings(positions: "ArrayLike", box_length: float) -> np.ndarray:
    """Describe what surrounds each particle.

    Args:
        positions: (n_particles, 3) [length].
        box_length: edge of the periodic cube [length].

    Returns:
        (n_particles, 3): the averaged q_4 and q_6 of 12 neighbours, and the number of neighbours
        within 1.4.

    Raises:
        TypeError, ValueError: as from `structure.bond_order`.

    Source: Lechner and Dellago 2008 for the averaged bond order.
    """
    order = [structure.bond_order(positions, box_length, degree=degree) for degree in (4, 6)]
    return np.stack([*order, structure.coordination(positions, box_length, _FIRST_SHELL)], axis=1)


def distinguishability(
    samples: "ArrayLike", references: "ArrayLike", box_length: float, seed: int = 0
) -> float:
    """Tell how well a classifier tells particles of samples from those of references.

    It sees `surroundings` alone, and is judged on configurations that it has not learned from.

    Args:
        samples: (n, n_particles, 3), n at least 2 [length].
        references: (m, n_particles, 3), m at least 2 [length].
        box_length: edge of the periodic cube [length].
        seed: of the classifier.

    Returns:
        The area under the receiver operating characteristic: 0.5 where they are alike, 1 where
        every particle gives itself away.

    Raises:
        TypeError, ValueError: fewer than two of either, or as from `surroundings`.

    Source: Lopez-Paz and Oquab 2017, classifier two-sample tests.
    """
    with optional.packages():
        from sklearn.ensemble import HistGradientBoostingClassifier
        from sklearn.metrics import roc_auc_score
        from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    seed = arguments.seed(seed, bits=32)
    known = []
    for name, value in (("samples", samples), ("references", references)):
        points = arguments.positions(value, ("n", "n_particles", 3), name=name)
        if len(points) < 2:
            raise ValueError(f"{name} must be at least two, got {len(points)}; draw more")
        known.append([surroundings(one, box_length) for one in points])
    systems = known[0] + known[1]
    labels = np.repeat([0] * len(known[0]) + [1] * len(known[1]), [len(each) for each in systems])
    groups = np.repeat(np.arange(len(systems)), [len(each) for each in systems])
    folds = StratifiedGroupKFold(min(5, len(known[0]), len(known[1])))
    classifier = HistGradientBoostingClassifier(random_state=seed)
    told = cross_val_predict(
        classifier,
        np.concatenate(systems),
        labels,
        groups=groups,
        cv=folds,
        method="predict_proba",
    )
    return float(roc_auc_score(labels, told[:, 1]))


def profile(positions: "ArrayLike", box_length: float) -> np.ndarray:
    """Describe a configuration by the quantiles of what surrounds its particles.

    Args:
        positions: (n_particles, 3) [length].
        box_length: edge of the periodic cube [length].

    Returns:
        (57,): the 5, 10, ... 95 % quantiles of each of `surroundings`, in units of what a perfect
        crystal has, about 0.5 for bond order and 12 neighbours.

    Raises:
        TypeError, ValueError: as from `surroundings`.
    """
    known = surroundings(positions, box_length) / _TYPICAL
    return np.quantile(known, _QUANTILES, axis=0).T.ravel()


def apart(vectors: "ArrayLike") -> float:
    """Compute how far two of several vectors are apart on average, as in `energy_distance`.

    Args:
        vectors: (n, n_components), n at least 2.

    Raises:
        TypeError, ValueError: as from `energy_distance`.
    """
    return _among(_several("vectors", vectors))


def _several(name: str, vectors: "ArrayLike") -> np.ndarray:
    found = arguments.array(name, vectors, ("n", "n_components")).astype(float)
    if len(found) < 2:
        raise ValueError(f"{name} must be at least two, got {len(found)}; draw more")
    return found


def _apart(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.sqrt(((first[:, None] - second) ** 2).mean(axis=-1))


def _among(vectors: np.ndarray) -> float:
    n = len(vectors)
    return _apart(vectors, vectors).sum() / (n * (n - 1))
