"""Settings from outside, and what the notebook finds where it runs."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from roco_caption import runtime
from roco_caption.files import UserError
from roco_caption.runtime import install_missing, setting


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
    ("variable", "expected"),
    [("COLAB_RELEASE_TAG", "colab"), ("KAGGLE_KERNEL_RUN_TYPE", "kaggle"), (None, "local")],
)
def test_platform(monkeypatch, variable, expected):
    for name in ("COLAB_RELEASE_TAG", "COLAB_GPU", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "x")
    assert runtime.platform() == expected


@pytest.fixture
def pip(monkeypatch):
    calls = []

    def run(command, **options):
        calls.append(command)
        return subprocess.CompletedProcess(command, run.code, "", "first\nERROR: no network\n")

    run.code = 0
    monkeypatch.setattr(runtime.subprocess, "run", run)
    return run, calls


def test_only_what_is_missing_is_installed(tmp_path, pip):
    path = tmp_path / "requirements.txt"
    path.write_text("# a comment\n\ntensorflow>=2.19,<3\npillow>=10\nno_such_thing>=1  # why\n")
    assert install_missing(path) == ["no_such_thing>=1"]
    assert pip[1][0][-1] == "no_such_thing>=1" and "tensorflow" not in " ".join(pip[1][0])
    path.write_text("tensorflow\nrouge-score\n")
    assert install_missing(path) == [] and len(pip[1]) == 1


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


def test_what_was_found_prints_in_two_lines():
    machine = runtime.detect()
    first, second = str(machine).splitlines()
    assert "CPU cores" in first and machine.precision in first
    assert machine.cores >= 1 and machine.memory_gb > 0 and "Keras" in second


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


def test_compiled_functions_and_seeds_repeat():
    import keras

    double = runtime.compiled(lambda x: keras.ops.sum(x) * 2)
    assert float(double(np.ones(3, np.float32))) == 6
    runtime.set_seeds(3)
    first = np.asarray(keras.random.normal((4,)))
    runtime.set_seeds(3)
    np.testing.assert_array_equal(first, np.asarray(keras.random.normal((4,))))
