import inspect
import json
import math
import resource

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from small_runs import (
    PRESETS,
    assert_bitwise_equal,
    assert_same_tree,
    run,
    settings,
    small_configurations,
)

from mddm import __version__, checkpoint, files, presets
from mddm.presets import Settings
from mddm.training import TrainingState

TENSORS = {
    "weight": torch.arange(12.0).reshape(3, 4),
    "layer.bias": torch.tensor([1e-30, -0.0, math.inf], dtype=torch.float64),
    "steps": torch.tensor(7),
    "empty": torch.zeros(0, 3),
}
WARM = {"temperature": (0.005, 0.1)}
WRITTEN_BY = {"format": checkpoint.FORMAT, "mddm": __version__}
HEADER = {"kind": "checkpoint", "step": 3, "settings": {"schedule": "log", "name": "σ ≤ 1"}}


# --- tensors and header ------------------------------------------------------------------------


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


# --- runs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("saved_at", [0, 1, 4])
def test_a_killed_run_resumes_bitwise_where_it_was_saved(tmp_path, preset, saved_at):
    path, run_settings = tmp_path / "state.safetensors", settings(preset=preset)
    unbroken = TrainingState(run_settings)
    losses = [step.loss for step in run(unbroken, small_configurations())]

    killed = TrainingState(run_settings)
    run(killed, small_configurations(), saved_at)
    checkpoint.save_state(path, killed)
    run(killed, small_configurations(), 2)  # lost: the kill comes between two saves

    torch.manual_seed(123)  # nor does a new process share the global random numbers
    resumed = checkpoint.load_state(path, run_settings)
    assert resumed.step == saved_at
    assert [step.loss for step in run(resumed, small_configurations())] == losses[saved_at:]
    assert_bitwise_equal(resumed, unbroken)


def test_a_state_that_was_read_is_written_as_the_same_file(tmp_path):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    state = TrainingState(settings())
    run(state, small_configurations(), 3)
    checkpoint.save_state(first, state)
    checkpoint.save_state(second, checkpoint.load_state(first, settings()))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("preset", "transolver", "preset was 'mddm', is 'transolver'"),
        ("n_steps", 8, "n_steps was 7, is 8"),
        ("batch_size", 3, "batch_size was 2, is 3"),
        ("learning_rate", 2e-3, "learning_rate was 0.001, is 0.002"),
        ("ema_decay", 0.9, "ema_decay was 0.999, is 0.9"),
        ("schedule", "power", "schedule was 'log_normal', is 'power'"),
        ("n_levels", 11, "n_levels was 10, is 11"),
        ("sigma_min", 0.01, "sigma_min was 0.005, is 0.01"),
        ("seed", 1, "seed was 0, is 1"),
        ("ranges", {}, r"ranges was {'k': .*}, is {}"),
        ("architecture", {"n_neighbors": 5}, "n_neighbors was 8, is 5"),
    ],
)
def test_a_run_with_other_settings_is_not_resumed(tmp_path, name, value, message):
    path = tmp_path / "state.safetensors"
    checkpoint.save_state(path, TrainingState(settings()))
    with pytest.raises(ValueError, match=rf"state.safetensors .*\({message}\).*move") as info:
        checkpoint.load_state(path, settings(**{name: value}))
    assert str(info.value).count(" was ") == 1


@pytest.mark.parametrize("preset", PRESETS)
def test_a_checkpoint_is_the_averaged_denoiser_ready_to_sample(tmp_path, preset):
    path, source = tmp_path / "model.safetensors", small_configurations()
    state = TrainingState(settings(preset=preset, sigma_min=0.02))
    run(state, source)
    checkpoint.save(path, state, record={"data": "abc123"})
    denoiser, header = checkpoint.load(path)
    assert not denoiser.training
    assert not any(parameter.requires_grad for parameter in denoiser.parameters())
    sigma = torch.tensor([0.1, 0.5, 1.0])
    arguments = (source.positions, sigma, source.conditions, source.box_length)
    with torch.no_grad():
        assert torch.equal(denoiser(*arguments), state.average.module(*arguments))
        assert not torch.equal(denoiser(*arguments), state.denoiser(*arguments))
    assert header["preset"] == preset and header["step"] == 7 and header["mddm"] == __version__
    assert header["record"] == {"data": "abc123"}
    assert (header["n_particles"], header["box_length"]) == (24, 3.0)
    assert header["losses"] == pytest.approx(state.losses.tolist(), abs=1e-5)
    assert Settings(**header["settings"]) == state.settings


def test_a_checkpoint_keeps_its_loss_curve_in_means_of_equal_parts(tmp_path):
    path, state = tmp_path / "model.safetensors", TrainingState(settings(n_steps=1000))
    state.losses, state.step = torch.arange(1000.0), 1000
    checkpoint.save(path, state)
    assert checkpoint.load(path)[1]["losses"] == [5 * i + 2 for i in range(200)]
    checkpoint.save(path, TrainingState(settings()))
    assert checkpoint.load(path)[1]["losses"] == []


def other_defaults(monkeypatch, preset, **sizes):
    build = presets.PRESETS[preset]

    class Changed(build):
        pass

    signature = inspect.signature(build)
    changed = [
        argument.replace(default=sizes.get(name, argument.default))
        for name, argument in signature.parameters.items()
    ]
    Changed.__signature__ = signature.replace(parameters=changed)
    monkeypatch.setitem(presets.PRESETS, preset, Changed)


def test_a_checkpoint_is_rebuilt_as_it_was_whatever_the_defaults_are_now(tmp_path, monkeypatch):
    path, source = tmp_path / "model.safetensors", small_configurations()
    sizes = {"channels": 16, "n_neighbors": 5}
    state = TrainingState(settings(architecture=sizes))
    checkpoint.save(path, state)
    checkpoint.save_state(tmp_path / "state.safetensors", state)
    other_defaults(monkeypatch, "mddm", channels=32, n_neighbors=3, n_layers=1)
    assert Settings().architecture["n_layers"] == 1
    denoiser, header = checkpoint.load(path)
    assert header["settings"]["architecture"] == state.settings.architecture
    assert denoiser.n_neighbors == 5
    assert len(denoiser.layers) == state.settings.architecture["n_layers"] > 1
    arguments = (source.positions, torch.full((3,), 0.3), source.conditions, source.box_length)
    assert torch.equal(denoiser(*arguments), state.average.module(*arguments))
    again = checkpoint.load_state(tmp_path / "state.safetensors", state.settings)
    assert_bitwise_equal(again, state)


def spoil(path, kind, change):
    tensors, header = checkpoint.read(path, kind)
    change(tensors, header)
    checkpoint.write(path, tensors, header)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, header: header.pop("settings"),
        lambda tensors, header: header["settings"].update(width=3),
        lambda tensors, header: header["settings"].update(preset="mddm-2"),
        lambda tensors, header: header["settings"]["architecture"].update(n_rings=3),
        lambda tensors, header: tensors.pop(next(iter(tensors))),
        lambda tensors, header: tensors.update({"denoiser.extra": torch.ones(2)}),
    ],
)
def test_files_of_another_version_are_refused_by_name_with_what_to_do(tmp_path, change):
    state = TrainingState(settings())
    run(state, small_configurations(), 1)
    model, resumable = tmp_path / "model.safetensors", tmp_path / "state.safetensors"
    checkpoint.save(model, state)
    checkpoint.save_state(resumable, state)
    spoil(model, "checkpoint", change)
    with pytest.raises(ValueError, match=r"model\.safetensors is a checkpoint of another version"):
        checkpoint.load(model)
    spoil(resumable, "state", change)
    with pytest.raises(ValueError, match=r"state\.safetensors is a state of another version") as e:
        checkpoint.load_state(resumable, settings())
    assert "train again" in str(e.value)


def test_weights_of_another_size_than_the_header_says_are_refused_by_name(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, TrainingState(settings()))
    spoil(
        path, "checkpoint", lambda _, header: header["settings"]["architecture"].update(channels=8)
    )
    with pytest.raises(ValueError, match=r"model\.safetensors is a checkpoint of another version"):
        checkpoint.load(path)


def test_the_header_can_be_read_by_anyone(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, TrainingState(settings(seed=9)))
    with safe_open(path, framework="np") as file:
        header = json.loads(file.metadata()["mddm"])
    assert header["settings"]["seed"] == 9 and header["settings"]["schedule"] == "log_normal"


def test_a_run_whose_network_was_compiled_is_saved_as_any_other(tmp_path):
    path, source = tmp_path / "state.safetensors", small_configurations()
    plain, compiled = (TrainingState(settings()) for _ in range(2))
    for state in (plain, compiled):
        run(state, source, 1)
    # It is the names that change, and they do so before anything is compiled.
    compiled.denoiser = torch.compile(compiled.denoiser, backend="eager")
    compiled.average.module = torch.compile(compiled.average.module, backend="eager")
    checkpoint.save_state(path, compiled)
    assert_bitwise_equal(checkpoint.load_state(path, settings()), plain)
    checkpoint.save(path, compiled)
    denoiser, _ = checkpoint.load(path)
    assert_same_tree(dict(denoiser.state_dict()), dict(plain.average.module.state_dict()))


def test_only_a_run_with_the_same_settings_replaces_a_checkpoint(tmp_path):
    path = tmp_path / "new" / "model.safetensors"
    checkpoint.check_replaceable(path, settings())
    checkpoint.save(path, TrainingState(settings()))
    checkpoint.check_replaceable(path, settings())
    with pytest.raises(FileExistsError, match=rf"{path} .*\(n_steps was 7, is 5\).*move"):
        checkpoint.check_replaceable(path, settings(n_steps=5))
    path.write_bytes(b"somebody's notes")
    with pytest.raises(FileExistsError, match=rf"{path} .* no checkpoint .*move the file away"):
        checkpoint.check_replaceable(path, settings())
    with pytest.raises(OSError, match="/proc/none"):
        checkpoint.check_replaceable("/proc/none/model.safetensors", settings())
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def test_a_checkpoint_of_another_preset_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, TrainingState(settings()))
    assert checkpoint.load(path, preset="mddm")[1]["preset"] == "mddm"
    with pytest.raises(
        ValueError, match=r"model\.safetensors .*'mddm', but 'transolver' is wanted"
    ):
        checkpoint.load(path, preset="transolver")


def test_states_and_checkpoints_are_told_apart(tmp_path):
    state = TrainingState(settings())
    checkpoint.save_state(tmp_path / "state.safetensors", state)
    checkpoint.save(tmp_path / "model.safetensors", state)
    with pytest.raises(ValueError, match=r"state\.safetensors is no checkpoint"):
        checkpoint.load(tmp_path / "state.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors is no state"):
        checkpoint.load_state(tmp_path / "model.safetensors", settings())
    with pytest.raises(FileNotFoundError, match="there is no state at"):
        checkpoint.load_state(tmp_path / "absent.safetensors", settings())


def test_a_truncated_state_is_refused_by_name(tmp_path):
    path = tmp_path / "state.safetensors"
    checkpoint.save_state(path, TrainingState(settings()))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"state\.safetensors is truncated"):
        checkpoint.load_state(path, settings())


def test_a_run_starts_with_all_weights_of_a_network_that_is_told_the_same(tmp_path):
    path, told = tmp_path / "first.safetensors", {"told": "potential", "ranges": WARM}
    first = TrainingState(settings(preset="bragg", **told))
    torch.nn.init.normal_(first.average.module.layers[0].filter.weight)
    checkpoint.save(path, first)
    start = {"start": files.file_hash(path), "seed": 1}
    further = TrainingState(settings(preset="bragg", **told, **start))
    checkpoint.start_from(path, further)
    expected = dict(first.average.module.state_dict())
    for began in (further.denoiser, further.average.module):
        assert_same_tree(dict(began.state_dict()), expected)
    # One that is told something else has still to learn what that means.
    other = TrainingState(settings(preset="bragg", **start))
    checkpoint.start_from(path, other)
    assert (other.denoiser.modulation.embed[0].weight == 0).any()
