"""Settings from environment variables, the machine, and folders on Colab and Kaggle."""

import random
import subprocess
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest

from roco_caption.core import machine
from roco_caption.core.errors import UserError
from roco_caption.core.machine import (
    attached,
    drive_folder,
    find_platform,
    install_missing,
    setting,
    writable,
)

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [
        ("7", 3, 7),
        (" 2e-3 ", 0.5, 0.002),
        ("true", False, True),
        ("0", True, False),
        ("No", True, False),
        ("", "x", ""),
        ("a b", "x", "a b"),
    ],
)
def test_an_environment_variable_is_read_as_the_defaults_type(monkeypatch, text, default, value):
    monkeypatch.setenv("ROCO_THING", text)
    assert setting("THING", default) == value
    assert type(setting("THING", default)) is type(default)


def test_without_a_variable_the_default_is_used_and_an_explicit_zero_counts(monkeypatch):
    monkeypatch.delenv("ROCO_THING", raising=False)
    assert setting("THING", 0) == 0 and setting("THING", "") == ""
    monkeypatch.setenv("ROCO_THING", "0")
    assert setting("THING", 5) == 0


@pytest.mark.parametrize(
    ("text", "default", "kind"),
    [("many", 3, "an int"), ("1.5", 3, "an int"), ("x", 0.1, "a float"), ("maybe", True, "a bool")],
)
def test_a_setting_of_the_wrong_type_is_named(monkeypatch, text, default, kind):
    monkeypatch.setenv("ROCO_THING", text)
    with pytest.raises(UserError, match=rf"ROCO_THING must be {kind}, got '{text}'"):
        setting("THING", default)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (["COLAB_RELEASE_TAG"], "colab"),
        (["COLAB_GPU"], "colab"),
        (["KAGGLE_KERNEL_RUN_TYPE"], "kaggle"),
        # Kaggle's image is Colab's and keeps its variables: github.com/Kaggle/kagglehub/pull/230
        (["COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"], "kaggle"),
        (["KAGGLE_USERNAME"], "local"),
        ([], "local"),
    ],
)
def test_platform(monkeypatch, variables, expected):
    for name in ("COLAB_RELEASE_TAG", "COLAB_GPU", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    for name in variables:
        monkeypatch.setenv(name, "")  # as Colab sets COLAB_GPU where it has none
    assert find_platform() == expected


@pytest.fixture
def pip(monkeypatch):
    calls = []

    def run(command, **options):
        calls.append(command)
        return subprocess.CompletedProcess(command, run.code, "", run.stderr)

    run.code, run.stderr = 0, "first\nERROR: no network\n"
    monkeypatch.setattr(machine.subprocess, "run", run)
    return run, calls


def test_only_what_is_missing_is_installed(tmp_path, pip):
    path = tmp_path / "requirements.txt"
    path.write_text("# a comment\n\ntensorflow>=2.19,<3\npillow>=10\nno_such_thing>=1  # why\n")
    assert install_missing(path) == ["no_such_thing>=1"]
    assert pip[1][0][-1] == "no_such_thing>=1" and "tensorflow" not in " ".join(pip[1][0])
    path.write_text("tensorflow\nrouge-score\n")
    assert install_missing(path) == [] and len(pip[1]) == 1


@pytest.mark.parametrize("present", ["tensorflow", "PIL"])
def test_what_is_importable_is_not_installed(tmp_path, monkeypatch, pip, present):
    path = tmp_path / "requirements.txt"
    path.write_text("\n  # all of it\ntensorflow>=2.19,<3\n\nPillow>=10  # images\nnumpy[x]==2\n")
    lines = {"tensorflow": "tensorflow>=2.19,<3", "PIL": "Pillow>=10", "numpy": "numpy[x]==2"}
    find_spec = machine.importlib.util.find_spec
    monkeypatch.setattr(
        machine.importlib.util,
        "find_spec",
        lambda name, *more: (name == present or None) if name in lines else find_spec(name, *more),
    )
    missing = [line for module, line in lines.items() if module != present]
    assert install_missing(path) == missing
    assert pip[1] == [[sys.executable, "-m", "pip", "install", "-q", *missing]]


def test_wheels_beside_the_requirements_replace_the_network(tmp_path, pip):
    (tmp_path / "requirements.txt").write_text("no-such-thing\n")
    (tmp_path / "wheels").mkdir()
    install_missing(tmp_path / "requirements.txt")
    offline = ["--no-index", f"--find-links={tmp_path / 'wheels'}", "no-such-thing"]
    assert pip[1][0][-3:] == offline


def test_a_pip_that_fails_without_a_message_is_reported(tmp_path, pip):
    pip[0].code, pip[0].stderr = 1, "\n"
    (tmp_path / "requirements.txt").write_text("no-such-thing\n")
    with pytest.raises(UserError, match=r"no-such-thing \(no reason given\)"):
        install_missing(tmp_path / "requirements.txt")


def test_a_failing_pip_says_why_and_what_to_do(tmp_path, pip):
    pip[0].code = 1
    (tmp_path / "requirements.txt").write_text("no-such-thing\n")
    with pytest.raises(UserError, match=r"no-such-thing \(ERROR: no network\).*internet"):
        install_missing(tmp_path / "requirements.txt")


def test_every_requirement_is_importable_by_its_modules_name():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    lines = [line.split("#")[0].strip() for line in lines]
    assert [line for line in lines if line and not machine._importable(line)] == []


@pytest.mark.parametrize(
    ("accelerators", "devices"),
    [((), "no accelerator"), (("Tesla T4", "Tesla T4"), "Tesla T4, Tesla T4")],
)
def test_a_machine_prints_its_hardware_and_versions(accelerators, devices):
    versions = {"Python": "3.12.1", "Keras": "3.13.2"}
    runtime = machine.Runtime("kaggle", accelerators, 4, 31.6, "float32", versions)
    assert str(runtime).splitlines() == [
        f"kaggle: {devices}, 4 CPU cores, 32 GB of memory, encoder in float32",
        "Python 3.12.1, Keras 3.13.2",
    ]


@pytest.mark.tensorflow("its devices")
def test_gpus_are_named_and_take_memory_as_they_need_it(monkeypatch):
    import tensorflow as tf

    grows, named = [], {"gpu0": {"device_name": "Tesla T4"}, "gpu1": {}}
    monkeypatch.setattr(
        tf.config, "list_physical_devices", lambda kind: list(named) if kind == "GPU" else []
    )
    monkeypatch.setattr(tf.config.experimental, "get_device_details", named.get)
    monkeypatch.setattr(
        tf.config.experimental, "set_memory_growth", lambda device, on: grows.append((device, on))
    )
    assert machine._accelerators("tensorflow") == ("Tesla T4", "GPU")
    assert grows == [("gpu0", True), ("gpu1", True)]


def test_this_machine_prints_in_two_lines():
    runtime = machine.detect()
    first, second = str(runtime).splitlines()
    assert "CPU cores" in first and runtime.precision in first
    assert runtime.cores >= 1 and runtime.memory_gb > 0
    assert runtime.platform == find_platform() and first.startswith(f"{runtime.platform}: ")
    assert f"Keras {keras.__version__}" in second and keras.backend.backend() in second


@pytest.mark.parametrize(
    ("accelerators", "flags", "precision"),
    [
        (("Tesla T4",), "", "mixed_float16"),
        (("TPU:0",), "", "mixed_bfloat16"),
        ((), "avx2 amx_bf16", "mixed_bfloat16"),
        ((), "avx512f avx512_bf16", "mixed_bfloat16"),
        ((), "avx2", "float32"),
    ],
)
def test_precision_follows_the_hardware(monkeypatch, accelerators, flags, precision):
    monkeypatch.setattr(machine.Path, "read_text", lambda self: f"flags: {flags}")
    assert machine._precision(accelerators) == precision


def test_precision_is_full_if_the_cpu_flags_are_unknown(monkeypatch):
    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(machine.Path, "exists", lambda self: False)
    monkeypatch.setattr(machine.Path, "read_text", missing)
    assert machine._precision(()) == "float32"


def test_the_same_seed_repeats_all_random_numbers():
    def draw(seed):
        machine.set_seeds(seed)
        drawn = random.random(), np.random.rand(), *np.asarray(keras.random.normal((2,)))  # noqa: NPY002
        return [float(value) for value in drawn]

    assert draw(3) == draw(3)
    assert all(one != other for one, other in zip(draw(3), draw(4), strict=True))


@pytest.fixture
def kaggle_input(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "KAGGLE_INPUT", tmp_path / "input")
    return tmp_path / "input"


def test_attached_files_are_found_in_nested_folders(kaggle_input):
    assert attached("w.h5") == []
    for folder in ("datasets/someone/vgg16", "vgg16", "a/b/c/d/e"):
        (kaggle_input / folder).mkdir(parents=True, exist_ok=True)
        (kaggle_input / folder / "w.h5").touch()
    assert attached("w.h5") == [
        kaggle_input / "vgg16/w.h5",
        kaggle_input / "datasets/someone/vgg16/w.h5",
    ]


def test_an_attached_project_writes_to_the_working_folder(kaggle_input, tmp_path, monkeypatch):
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)
    assert writable(kaggle_input / "datasets" / "roco-caption") == working
    assert writable(tmp_path / "roco-caption") == tmp_path / "roco-caption"


@pytest.fixture
def drive(tmp_path, monkeypatch):
    """An imitation of google.colab, and the list of its mounts."""
    calls = []

    def mount(point):
        calls.append(point)
        if mount.refuses is not None:
            raise ValueError(mount.refuses)
        (Path(point) / "MyDrive").mkdir(parents=True)

    mount.refuses = None
    module = types.ModuleType("google.colab.drive")
    module.mount = mount
    colab = types.ModuleType("google.colab")
    colab.drive = module
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setitem(sys.modules, "google.colab.drive", module)
    monkeypatch.setattr(machine, "DRIVE", tmp_path / "drive")
    return mount, calls


def test_drive_is_mounted_once_in_colab_and_only_when_asked(drive, tmp_path):
    _, calls = drive
    assert drive_folder("", "colab") is None and calls == []
    folder = tmp_path / "drive" / "MyDrive" / "roco"
    for _ in range(2):  # the second cell run finds it mounted
        assert drive_folder(str(folder), "colab") == folder and folder.is_dir()
    assert calls == [str(tmp_path / "drive")]


@pytest.mark.parametrize(
    ("platform", "folder"),
    [("local", "drive/MyDrive/roco"), ("kaggle", "drive/MyDrive/roco"), ("colab", "kept")],
)
def test_other_folders_are_made_without_mounting(drive, tmp_path, platform, folder):
    assert drive_folder(str(tmp_path / folder), platform) == tmp_path / folder
    assert (tmp_path / folder).is_dir() and drive[1] == []


@pytest.mark.parametrize("reason", ["mount failed\nsee logs", ""])
def test_a_refused_drive_is_explained(drive, tmp_path, reason):
    drive[0].refuses = reason
    with pytest.raises(UserError, match=f"not mounted .{reason[:5] or 'Val'}.*DRIVE_DIR to ''"):
        drive_folder(str(tmp_path / "drive" / "MyDrive"), "colab")
