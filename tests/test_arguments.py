import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mddm import arguments

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "three",
    [
        3,
        3.0,
        np.int64(3),
        np.uint8(3),
        np.float32(3),
        np.array(3),
        torch.tensor(3),
        torch.tensor(3.0),
    ],
)
def test_numbers_of_any_type_become_pythons(three):
    assert (arguments.number("r", three), type(arguments.number("r", three))) == (3.0, float)
    assert (arguments.whole("n", three), type(arguments.whole("n", three))) == (3, int)
    assert arguments.seed(three) == arguments.box(three) == 3


@pytest.mark.parametrize("value", ["3", None, True, np.bool_(True), 3j, b"3", object(), {}])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match="n_steps must be a number, got "):
        arguments.whole("n_steps", value)
    with pytest.raises(TypeError, match="box_length must be a number, got "):
        arguments.box(value)


@pytest.mark.parametrize("value", [[], [3], [3, 4], np.ones(1), torch.ones(2, 2)])
def test_several_numbers_are_refused(value):
    with pytest.raises(ValueError, match="r_cut must be one number, got "):
        arguments.number("r_cut", value)
    with pytest.raises(ValueError, match="box_length must be one number, got "):
        arguments.box(value)


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "expected"),
    [
        ({}, [-1e300, 0], [math.inf, -math.inf, math.nan], "a finite number, got"),
        ({"above": 0}, [1e-300], [0, -1, math.inf, math.nan], "a finite number above 0, got"),
        ({"at_least": 0, "below": 1}, [0, 0.99], [-1, 1], "of at least 0 and below 1, got"),
        ({"above": 0, "at_most": math.inf}, [1, math.inf], [0, math.nan], "a number above 0, got"),
    ],
)
def test_numbers_lie_where_they_must(bounds, inside, outside, expected):
    for value in inside:
        assert arguments.number("damping", value, **bounds) == value
    for value in outside:
        with pytest.raises(ValueError, match=f"^damping must be .*{expected} {value}"):
            arguments.number("damping", value, **bounds)


def test_whole_numbers_lie_where_they_must():
    assert arguments.whole("n", 10**30) == 10**30
    for value in (2.5, math.nan, math.inf, -math.inf, 1, 12):
        with pytest.raises(ValueError, match="whole number of at least 2 and at most 9, got"):
            arguments.whole("n", value, at_least=2, at_most=9)
    assert arguments.seed(2**32 - 1, bits=32) == 2**32 - 1
    with pytest.raises(ValueError, match=r"seed must be below 2\*\*32, got 4294967296"):
        arguments.seed(2**32, bits=32)


def test_a_box_is_a_cube_or_free_space():
    assert arguments.box(None, free=True) is None
    for value in (0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="box_length must be a finite number above 0"):
            arguments.box(value, free=True)


def test_devices_are_there():
    assert arguments.device("cpu") == arguments.device(CPU) == CPU
    for value in ("gpu", "cuda:63"):
        with pytest.raises(ValueError, match=f"device must be one .*, got '{value}'"):
            arguments.device(value)
    with pytest.raises(
        TypeError, match=r"device must be 'cpu', 'cuda' or a torch.device, got None"
    ):
        arguments.device(None)


def test_words_are_known_or_the_nearest_is_named():
    assert arguments.choice("method", "tree", ("tree", "matrix")) == "tree"
    with pytest.raises(ValueError, match="'tree', 'matrix', got 'matrx'; did you mean 'matrix'"):
        arguments.choice("method", "matrx", ("tree", "matrix"))
    with pytest.raises(ValueError, match=r"got 3$"):
        arguments.choice("method", 3, ("tree", "matrix"))


def test_generators_are_made_not_numbered():
    generator = torch.Generator()
    assert arguments.generator(generator) is generator
    with pytest.raises(TypeError, match=r"must be a Generator, got 3; make one by torch.Generator"):
        arguments.generator(3)


@pytest.mark.parametrize(
    "value",
    [
        [[0, 1, 2], [3, 4, 5]],
        np.arange(6).reshape(2, 3),
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.arange(5, -1, -1, dtype=np.float32)[::-1].reshape(2, 3),
        np.arange(6, dtype=np.longdouble).reshape(2, 3),
        torch.arange(6).view(2, 3),
        [torch.arange(3.0), torch.arange(3.0, 6.0)],
    ],
)
def test_arrays_of_any_type_become_tensors(value):
    found = arguments.tensor("x", value, ("n", 3))
    assert found.is_floating_point()
    assert found.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_what_is_a_tensor_passes_as_it_is():
    given = torch.rand(2, 4, 3, requires_grad=True)
    assert arguments.positions(given) is given
    assert arguments.positions(given, dtype=torch.float64).dtype == torch.float64
    frozen = np.zeros((2, 4, 3), np.float32)
    frozen.flags.writeable = False
    arguments.positions(frozen).add_(1)
    assert not frozen.any()


@pytest.mark.parametrize(
    "value",
    ["abc", None, [["a"]], [[1], [1, 2]], [1j], [True], torch.ones(2, dtype=torch.bool), {}],
)
def test_what_is_no_array_of_numbers_is_refused(value):
    with pytest.raises((TypeError, ValueError), match=r"^x must (hold|be an array of) "):
        arguments.tensor("x", value)


def test_shapes_are_those_that_are_named():
    wanted = ("n_particles", 3), ("n_frames", "n_particles", 3)
    for shape in ((5, 3), (2, 5, 3)):
        assert arguments.positions(torch.zeros(shape), *wanted).shape == shape
    for shape in ((3,), (0, 3), (5, 2), (1, 0, 3), (1, 1, 5, 3)):
        with pytest.raises(
            ValueError, match=r"\(n_particles, 3\) or \(n_frames, n_particles, 3\), "
        ):
            arguments.positions(np.zeros(shape), *wanted)
    assert arguments.tensor("x", [1.0], ("n",)).shape == (1,)
    assert arguments.tensor("x", torch.zeros(4, 1, 3), (..., 3)).shape == (4, 1, 3)
    with pytest.raises(ValueError, match=r"x must have the shape \(\.\.\., 3\), got \(3, 2\)"):
        arguments.tensor("x", torch.zeros(3, 2), (..., 3))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="positions must be finite; some are nan or infinite"):
        arguments.positions([[[0.0, 1.0, bad]]])
    assert arguments.tensor("x", [bad, 3.0], finite=False).shape == (2,)


def test_numbers_of_an_array_lie_where_they_must():
    assert arguments.tensor("r", [0.0, 2.0], at_least=0).tolist() == [0, 2]
    with pytest.raises(ValueError, match=r"r must be numbers of at least 0, got -1\b"):
        arguments.tensor("r", [2.0, -1.0], at_least=0)
    with pytest.raises(ValueError, match=r"r must be numbers above 0, got 0\b"):
        arguments.tensor("r", [2.0, 0.0], above=0)


def test_conditions_and_noise_levels():
    assert arguments.conditions([(1, 2, 0.5)], batch=1).tolist() == [[1, 2, 0.5]]
    with pytest.raises(ValueError, match=r"conditions must have the shape \(2, 3\), got \(1, 3\)"):
        arguments.conditions([(1, 2, 0.5)], batch=2, n_numbers=3)
    assert arguments.sigma(0.5).item() == 0.5
    with pytest.raises(ValueError, match="sigma must be numbers above 0, got 0"):
        arguments.sigma([0.0, 1.0], ("batch",))


def test_paths_name_a_file():
    for value in ("a/b.gsd", Path("a/b.gsd")):
        assert arguments.path(value) == Path("a/b.gsd")
    with pytest.raises(TypeError, match="path must be a str or PathLike, got 3"):
        arguments.path(3)
    with pytest.raises(ValueError, match="path must name a file, got ''"):
        arguments.path("")


def test_several_objects_are_each_of_their_class():
    assert arguments.several("words", ("a", "b"), str) == ["a", "b"]
    assert arguments.several("words", [], str) == []
    with pytest.raises(TypeError, match="words must be a sequence of str, got 3"):
        arguments.several("words", 3, str)
    with pytest.raises(TypeError, match="each of words must be a str, got 3; quote it"):
        arguments.several("words", ["a", 3], str, "quote it")
