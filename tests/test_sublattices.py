import itertools
import math

import numpy as np
import pytest
import spglib

from mddm import sublattices
from mddm.sublattices import all_lattices, cells, cosets, count, hermite

SYMMETRIES = [
    np.eye(3, dtype=int)[list(order)] * signs
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sublattices._listed.cache_clear()
    sublattices._reduced.cache_clear()
    return tmp_path


def normal_forms(n):
    """All of them, by the definition: (n_forms, 3, 3)."""
    forms = []
    for d1, d2 in itertools.product(range(1, n + 1), repeat=2):
        if n % (d1 * d2) == 0:
            d3 = n // (d1 * d2)
            for p, q, r in itertools.product(range(d2), range(d3), range(d3)):
                forms.append([[d1, p, q], [0, d2, r], [0, 0, d3]])
    return np.array(forms)


def sites(forms, n):
    """The points of a grid with n steps an edge at which all waves crest, (n_forms, n, 3)."""
    points = np.empty((len(forms), n, 3), dtype=int)
    vectors = np.rint(n * np.linalg.inv(forms).transpose(0, 2, 1)).astype(int)
    diagonals = np.diagonal(forms, axis1=1, axis2=2)
    for diagonal in np.unique(diagonals, axis=0):
        which = (diagonals == diagonal).all(axis=1)
        steps = np.array(list(itertools.product(*map(range, diagonal))))
        points[which] = steps @ vectors[which] % n
    assert (points @ forms.transpose(0, 2, 1) % n == 0).all()
    return points


def nearest(points, n):
    """The shortest distance between sites, in steps of the grid: (n_forms,)."""
    squared = (np.minimum(points, n - points) ** 2).sum(axis=-1)
    return np.sqrt(np.where(squared > 0, squared, n**2).min(axis=-1))


def orbits(points, n):
    """A name for all that the cube's symmetries make of each set of sites."""
    return [
        min(map(tuple, np.sort(one @ np.stack(SYMMETRIES) % n @ (n * n, n, 1)).tolist()))
        for one in points
    ]


@pytest.mark.parametrize(("n", "shortest"), [(8, 0.86), (8, 0.5), (27, 0.86), (64, 0.97)])
def test_the_list_is_that_of_an_exhaustive_search(n, shortest):
    points = sites(normal_forms(n), n)
    assert len(points) == count(n)
    expected = orbits(points[nearest(points, n) >= shortest * n ** (2 / 3)], n)
    found = orbits(sites(all_lattices(n, shortest), n), n)
    assert len(found) == len(set(found)) > 1
    assert set(found) == set(expected)


# Hart and Forcade 2008, table 4: superlattices of the simple cubic lattice.
@pytest.mark.parametrize(
    ("n", "total", "different"), [(1, 1, 1), (4, 35, 9), (6, 91, 13), (8, 155, 24), (10, 217, 23)]
)
def test_counts_without_a_shortest_distance_are_those_of_the_literature(n, total, different):
    assert count(n) == total == len(normal_forms(n))
    assert len(all_lattices(n, 1e-6)) == different


def test_cells_are_the_lattices_of_their_forms_one_of_each_shape():
    forms, n = all_lattices(54), 54
    found = [shape(cell) for cell in cells(n)]
    expected = {shape(cell) for cell in np.rint(n * np.linalg.inv(forms).transpose(0, 2, 1))}
    # Some lie in the cube in several ways that its symmetries do not take to each other.
    assert len(found) == len(set(found)) < len(forms)
    assert set(found) == expected
    assert (np.abs(np.linalg.det(cells(n))).round() == n**2).all()


def shape(cell):
    """The first lengths, and how often each comes: lattices with the same ones are alike."""
    steps = np.stack(np.meshgrid(*[np.arange(-12, 13)] * 3), axis=-1).reshape(-1, 3)
    squared = np.rint(((steps @ spglib.delaunay_reduce(cell)) ** 2).sum(axis=1)).astype(int)
    return tuple(np.sort(squared)[:200].tolist())


def test_the_normal_form_spans_the_same_lattice():
    rng = np.random.default_rng(0)
    matrices = rng.integers(-20, 20, (200, 3, 3))
    forms = hermite(matrices)
    diagonal = np.diagonal(forms, axis1=1, axis2=2)
    assert (forms[:, [1, 2, 2], [0, 0, 1]] == 0).all() and (diagonal > 0).all()
    for row, column in ((0, 1), (0, 2), (1, 2)):
        assert ((forms[:, row, column] >= 0) & (forms[:, row, column] < diagonal[:, column])).all()
    change = matrices @ np.linalg.inv(forms)
    np.testing.assert_allclose(change, change.round(), atol=1e-8)
    np.testing.assert_allclose(np.abs(np.linalg.det(change)), 1, atol=1e-8)


def test_cosets_are_all_there_and_no_two_differ_by_a_vector_of_the_lattice():
    matrix = np.array([[2, 1, 0], [-1, 3, 1], [0, 1, 4]])
    found = cosets(matrix)
    assert len(found) == round(np.linalg.det(matrix)) and (found[0] == 0).all()
    inside = found @ np.linalg.inv(matrix)
    assert len(np.unique((inside % 1).round(6) % 1, axis=0)) == len(found)


def test_lists_are_kept_and_a_broken_one_is_made_anew(own_cache):
    made = all_lattices(27)
    (kept,) = (own_cache / "mddm").iterdir()
    np.testing.assert_array_equal(np.load(kept), made)
    kept.write_bytes(kept.read_bytes()[:100])
    sublattices._listed.cache_clear()
    np.testing.assert_array_equal(all_lattices(27), made)
    np.testing.assert_array_equal(np.load(kept), made)


def test_a_cache_that_cannot_be_written_does_no_harm(own_cache, monkeypatch):
    (own_cache / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_cache / "file"))
    assert len(all_lattices(8, 1e-6)) == 24


@pytest.mark.parametrize("n", [0, -8, 2.5, "8", None])
def test_a_number_that_counts_nothing_is_refused(n):
    with pytest.raises((ValueError, TypeError), match="n_sites must be a"):
        all_lattices(n)


def test_more_than_can_be_listed_is_refused_at_once():
    with pytest.raises(ValueError, match=r"8000 sites have .* fewer or smaller divisors"):
        all_lattices(8000)


@pytest.mark.parametrize("shortest", [0, -1, math.nan, math.inf])
def test_a_shortest_distance_that_is_none_is_refused(shortest):
    with pytest.raises(ValueError, match="shortest must be"):
        all_lattices(8, shortest)


def test_a_singular_matrix_is_refused():
    with pytest.raises(ValueError, match="singular"):
        hermite(np.ones((3, 3)))
