"""Settings from outside, and what the notebook finds where it runs."""

import random
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from roco_caption.core import machine as runtime
from roco_caption.core.errors import UserError
from roco_caption.core.machine import install_missing, setting


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
def test_a_setting_from_outside_is_read_as_the_defaults_type(monkeypatch, text, default, value):
    monkeypatch.setenv("ROCO_THING", text)
    assert setting("THING", default) == value
    assert type(setting("THING", default)) is type(default)


def test_without_a_variable_the_default_holds_even_if_it_is_zero(monkeypatch):
    monkeypatch.delenv("ROCO_THING", raising=False)
    assert setting("THING", 0) == 0 and setting("THING", "") == ""
    monkeypatch.setenv("ROCO_THING", "0")
    assert setting("THING", 5) == 0


@pytest.mark.parametrize(
    ("text", "default"), [("many", 3), ("1.5", 3), ("x", 0.1), ("maybe", True)]
)
def test_a_setting_of_the_wrong_type_is_named(monkeypatch, text, default):
    monkeypatch.setenv("ROCO_THING", text)
    with pytest.raises(UserError, match=f"ROCO_THING is '{text}'"):
        setting("THING", default)


def test_choices(monkeypatch):
    monkeypatch.setenv("ROCO_THING", "b")
    assert setting("THING", "a", ("a", "b")) == "b"
    monkeypatch.setenv("ROCO_THING", "c")
    with pytest.raises(UserError, match="THING is 'c'; it must be one of 'a', 'b'"):
        setting("THING", "a", ("a", "b"))


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
    assert runtime.platform() == expected


@pytest.fixture
def pip(monkeypatch):
    calls = []

    def run(command, **options):
        calls.append(command)
        return subprocess.CompletedProcess(command, run.code, "", run.stderr)

    run.code, run.stderr = 0, "first\nERROR: no network\n"
    monkeypatch.setattr(runtime.subprocess, "run", run)
    return run, calls


def test_only_what_is_missing_is_installed(tmp_path, pip):
    path = tmp_path / "requirements.txt"
    path.write_text("# a comment\n\ntensorflow>=2.19,<3\npillow>=10\nno_such_thing>=1  # why\n")
    assert install_missing(path) == ["no_such_thing>=1"]
    assert pip[1][0][-1] == "no_such_thing>=1" and "tensorflow" not in " ".join(pip[1][0])
    path.write_text("tensorflow\nrouge-score\n")
    assert install_missing(path) == [] and len(pip[1]) == 1


@pytest.mark.parametrize("there", ["tensorflow", "PIL"])
def test_what_is_installed_is_decided_by_what_is_importable(tmp_path, monkeypatch, pip, there):
    path = tmp_path / "requirements.txt"
    path.write_text("\n  # all of it\ntensorflow>=2.19,<3\n\nPillow>=10  # images\nnumpy[x]==2\n")
    lines = {"tensorflow": "tensorflow>=2.19,<3", "PIL": "Pillow>=10", "numpy": "numpy[x]==2"}
    found = runtime.importlib.util.find_spec
    monkeypatch.setattr(
        runtime.importlib.util,
        "find_spec",
        lambda name, *more: (name == there or None) if name in lines else found(name, *more),
    )
    missing = [line for module, line in lines.items() if module != there]
    assert install_missing(path) == missing
    assert pip[1] == [[sys.executable, "-m", "pip", "install", "-q", *missing]]


def test_wheels_beside_the_requirements_replace_the_network(tmp_path, pip):
    (tmp_path / "requirements.txt").write_text("no-such-thing\n")
    (tmp_path / "wheels").mkdir()
    install_missing(tmp_path / "requirements.txt")
    offline = ["--no-index", f"--find-links={tmp_path / 'wheels'}", "no-such-thing"]
    assert pip[1][0][-3:] == offline


def test_a_pip_that_fails_silently_is_reported_too(tmp_path, pip):
    pip[0].code, pip[0].stderr = 1, "\n"
    (tmp_path / "requirements.txt").write_text("no-such-thing\n")
    with pytest.raises(UserError, match=r"no-such-thing \(no reason given\)"):
        install_missing(tmp_path / "requirements.txt")


def test_a_failing_pip_says_why_and_what_to_do(tmp_path, pip):
    pip[0].code = 1
    (tmp_path / "requirements.txt").write_text("no-such-thing\n")
    with pytest.raises(UserError, match=r"no-such-thing \(ERROR: no network\).*internet"):
        install_missing(tmp_path / "requirements.txt")


def test_every_requirement_is_found_under_its_modules_name():
    root = Path(runtime.__file__).parents[1]
    lines = [
        line.split("#")[0].strip() for line in (root / "requirements.txt").read_text().splitlines()
    ]
    assert [line for line in lines if line and not runtime._importable(line)] == []


@pytest.mark.parametrize(
    ("accelerators", "devices"),
    [((), "no accelerator"), (("Tesla T4", "Tesla T4"), "Tesla T4, Tesla T4")],
)
def test_the_printed_lines_hold_all_that_was_found(accelerators, devices):
    versions = {"Python": "3.12.1", "Keras": "3.13.2"}
    machine = runtime.Runtime("kaggle", accelerators, 4, 31.6, "float32", versions)
    assert str(machine).splitlines() == [
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
    assert runtime._accelerators("tensorflow") == ("Tesla T4", "GPU")
    assert grows == [("gpu0", True), ("gpu1", True)]


def test_what_was_found_prints_in_two_lines():
    machine = runtime.detect()
    first, second = str(machine).splitlines()
    assert "CPU cores" in first and machine.precision in first
    assert machine.cores >= 1 and machine.memory_gb > 0
    assert machine.platform == runtime.platform() and first.startswith(f"{machine.platform}: ")
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
    monkeypatch.setattr(runtime.Path, "read_text", lambda self: f"flags: {flags}")
    assert runtime._precision(accelerators) == precision


def test_without_a_list_of_cpu_flags_precision_is_full(monkeypatch):
    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(runtime.Path, "exists", lambda self: False)
    monkeypatch.setattr(runtime.Path, "read_text", missing)
    assert runtime._precision(()) == "float32"


def test_the_same_seed_draws_the_same_everywhere():
    def draw(seed):
        runtime.set_seeds(seed)
        drawn = random.random(), np.random.rand(), *np.asarray(keras.random.normal((2,)))  # noqa: NPY002
        return [float(value) for value in drawn]

    assert draw(3) == draw(3)
    assert all(one != other for one, other in zip(draw(3), draw(4), strict=True))
