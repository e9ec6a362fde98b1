import json
import math
import resource

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mddm import __version__, checkpoint

TENSORS = {
    "weight": torch.arange(12.0).reshape(3, 4),
    "layer.bias": torch.tensor([1e-30, -0.0, math.inf], dtype=torch.float64),
    "steps": torch.tensor(7),
    "empty": torch.zeros(0, 3),
}
WRITTEN_BY = {"format": checkpoint.FORMAT, "mddm": __version__}
HEADER = {"kind": "checkpoint", "step": 3, "settings": {"schedule": "log", "name": "σ ≤ 1"}}


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.write(path, TENSORS, HEADER)
    tensors, header = checkpoint.read(path, "checkpoint")
    assert header == HEADER | WRITTEN_BY
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor)
    assert files_in(tmp_path) == ["model.safetensors"]


def test_the_folder_is_made_and_a_name_as_text_will_do(tmp_path):
    path = tmp_path / "new" / "folder" / "model.safetensors"
    checkpoint.write(str(path), TENSORS, HEADER)
    assert checkpoint.read(str(path), "checkpoint")[1] == HEADER | WRITTEN_BY


def test_views_and_parameters_are_written_by_value(tmp_path):
    path = tmp_path / "model.safetensors"
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    checkpoint.write(path, {"weight": weight, "transposed": weight.T}, HEADER)
    tensors, _ = checkpoint.read(path, "checkpoint")
    assert torch.equal(tensors["weight"], weight.detach())
    assert torch.equal(tensors["transposed"], weight.detach().T)
    assert not tensors["weight"].requires_grad


def test_what_was_read_does_not_change_with_the_file(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.write(path, {"weight": torch.ones(1000)}, HEADER)
    tensors, _ = checkpoint.read(path, "checkpoint")
    checkpoint.write(path, {"weight": torch.zeros(1000)}, HEADER)
    assert tensors["weight"].sum() == 1000


def test_a_checkpoint_has_the_usual_mode(tmp_path):
    checkpoint.write(tmp_path / "model.safetensors", TENSORS, HEADER)
    (tmp_path / "usual").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_a_compiled_network_is_written_and_read_under_its_own_names(tmp_path):
    path = tmp_path / "model.safetensors"
    part = torch.compile(torch.nn.Linear(3, 1), backend="eager")
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), part)
    compiled = torch.compile(network, backend="eager").state_dict()
    plain = ["0.bias", "0.weight", "1.bias", "1.weight"]
    assert not set(plain) & set(compiled)
    checkpoint.write(path, compiled, HEADER)
    with safe_open(path, framework="pt") as file:
        assert sorted(file.keys()) == plain
    # Files of before kept the other names.
    save_file(compiled, path, metadata={"mddm": json.dumps(HEADER | WRITTEN_BY)})
    tensors, _ = checkpoint.read(path, "checkpoint")
    assert torch.equal(tensors["1.weight"], network[1].weight.detach())
    assert sorted(tensors) == plain


def test_a_second_write_replaces_the_first(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.write(path, TENSORS, HEADER)
    checkpoint.write(path, {"weight": torch.ones(2)}, HEADER | {"step": 4})
    tensors, header = checkpoint.read(path, "checkpoint")
    assert list(tensors) == ["weight"] and header["step"] == 4


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, small_disk):
    path = tmp_path / "model.safetensors"
    checkpoint.write(path, TENSORS, HEADER)
    old = path.read_bytes()

    with small_disk(100), pytest.raises(OSError, match=rf"'{path}'"):
        checkpoint.write(path, {"weight": torch.zeros(5)}, HEADER)
    assert path.read_bytes() == old
    assert files_in(tmp_path) == ["model.safetensors"]


def test_a_header_that_is_not_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.write(path, TENSORS, HEADER)
    old = path.read_bytes()
    with pytest.raises(TypeError):
        checkpoint.write(path, TENSORS, HEADER | {"data": torch.ones(2)})
    assert path.read_bytes() == old
    assert files_in(tmp_path) == ["model.safetensors"]


@pytest.mark.parametrize("keep", [0, 3, 8, 60, 0.5, 0.99])
def test_a_truncated_file_is_refused_by_name(tmp_path, keep):
    path = tmp_path / "model.safetensors"
    checkpoint.write(path, TENSORS, HEADER)
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(
        ValueError, match=r"model\.safetensors is truncated or no checkpoint"
    ) as info:
        checkpoint.read(path, "checkpoint")
    assert "move it away and train again" in str(info.value)


@pytest.mark.parametrize(
    "data",
    [
        torch.Generator().manual_seed(0).get_state()[:4000].numpy().tobytes(),
        b"\x08\0\0\0\0\0\0\0\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8",
        b"k,phi\n1,2\n",
    ],
)
def test_a_file_of_anything_else_is_refused_by_name(tmp_path, data):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated or no checkpoint"):
        checkpoint.read(path, "checkpoint")


@pytest.mark.parametrize(
    "metadata",
    [None, {"format": "pt"}, {"mddm": "[1, 2]"}, {"mddm": "null"}, {"mddm": json.dumps({"a": 1})}],
)
def test_somebody_elses_safetensors_are_refused_by_name(tmp_path, metadata):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.ones(2)}, path, metadata=metadata)
    message = r"other\.safetensors is no checkpoint of this package; name another file$"
    with pytest.raises(ValueError, match=message):
        checkpoint.read(path, "checkpoint")


def test_a_header_that_was_damaged_is_refused_by_name(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.ones(2)}, path, metadata={"mddm": "{'kind': "})
    with pytest.raises(ValueError, match=r"other\.safetensors is truncated or no checkpoint"):
        checkpoint.read(path, "checkpoint")


def test_another_kind_is_refused_by_name(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.write(path, TENSORS, HEADER)
    message = r"model\.safetensors is no state of this package, but a checkpoint; name another"
    with pytest.raises(ValueError, match=message):
        checkpoint.read(path, "state")


@pytest.mark.parametrize(
    ("stamp", "message"),
    [
        ({}, "format 1, written by mddm of unknown version; this is format"),
        ({"mddm": "0.0.1"}, r"format 1, written by mddm 0\.0\.1; this is format"),
        ({"format": 99, "mddm": "7.0"}, r"format 99, written by mddm 7\.0; this is format"),
    ],
)
def test_another_format_is_refused_by_name_with_what_to_do(tmp_path, stamp, message):
    path = tmp_path / "old.safetensors"
    save_file({"weight": torch.ones(2)}, path, metadata={"mddm": json.dumps(HEADER | stamp)})
    with pytest.raises(ValueError, match=rf"old\.safetensors is a checkpoint .*{message}") as info:
        checkpoint.read(path, "checkpoint")
    told = str(info.value)
    assert told.endswith("use the version that wrote it, or move it away and train again")


def test_what_the_system_withholds_is_not_called_missing(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.write(path, TENSORS, HEADER)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match=rf"Too many open files: '{path}'"):
            checkpoint.read(path, "checkpoint")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("name", ["absent.safetensors", "."])
def test_a_missing_file_is_named_with_what_makes_one(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint at .*papermill") as info:
        checkpoint.read(tmp_path / name, "checkpoint")
    assert str(tmp_path / name) in str(info.value)
