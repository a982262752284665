"""Settings from environment variables, the machine, and folders on Colab and Kaggle."""

import subprocess
import sys
import types
from pathlib import Path

import keras
import pytest
from helpers.git import git

from roco_caption.core import machine
from roco_caption.core.backup import backed_up, bring_back
from roco_caption.core.errors import UserError
from roco_caption.core.machine import (
    attached,
    drive_folder,
    find_platform,
    install_missing,
    mount_drive,
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
    """Record pip's commands, each with the lines of its constraints file at its end."""
    calls = []

    def run(command, **options):
        calls.append([*command[:-2], *Path(command[-1]).read_text().split()])
        return subprocess.CompletedProcess(command, run.code, "", run.stderr)

    run.code, run.stderr = 0, "first\nERROR: no network\n"
    monkeypatch.setattr(machine.subprocess, "run", run)
    return run, calls


@pytest.fixture
def versions(monkeypatch):
    """Pretend that these packages are installed, in these versions, and no others."""
    installed = {"tensorflow": "2.19.0", "keras": "3.13.2", "numpy": "2.0.2", "pandas": "2.2.2"}
    monkeypatch.setattr(machine, "_installed_version", lambda name: installed.get(name, ""))
    return installed


KEPT = ["tensorflow==2.19.0", "keras==3.13.2", "numpy==2.0.2", "pandas==2.2.2"]


def write(folder, *lines):
    path = folder / "requirements.txt"
    path.write_text("\n".join(lines))
    return path


def test_missing_and_old_packages_are_installed_and_the_kept_ones_stay(tmp_path, pip, versions):
    versions |= {"kaggle": "1.7.4.5", "Pillow": "11.0", "tqdm": "4.70rc1"}
    path = write(
        tmp_path, "  # all of it", "", "tensorflow>=2.19,<3", "numpy>=1.26,<3", "kaggle>=2.0,<3",
        "Pillow>=10  # images", "tqdm>=4.66", "rouge-score>=0.1.2",
    )  # fmt: skip
    needed = ["kaggle>=2.0,<3", "rouge-score>=0.1.2"]
    assert install_missing(path) == needed
    assert pip[1] == [[sys.executable, "-m", "pip", "install", "-q", *needed, *KEPT]]
    versions |= {"kaggle": "2.0.0", "rouge-score": "0.1.2"}
    assert install_missing(path) == [] and len(pip[1]) == 1


@pytest.mark.parametrize(
    ("name", "line", "version"),
    [
        ("tensorflow", "tensorflow>=2.19,<3", "2.15.0"),
        ("keras", "keras>=3.10,<4", "2.15.0"),
        ("keras", "keras>=3.10,<4", "3.8.0"),
        ("numpy", "numpy>=1.26,<3", "1.23.5"),
        ("pandas", "pandas>=2.2,<4", "2.1.4"),
    ],
)
def test_an_old_tensorflow_is_named_and_never_changed(tmp_path, pip, versions, name, line, version):
    versions[name] = version
    path = write(tmp_path, "no-such-thing", line)
    with pytest.raises(UserError) as caught:
        install_missing(path)
    for text in (line, version, "Change runtime type", "Environment: latest"):
        assert text in str(caught.value)
    assert pip[1] == []


@pytest.mark.parametrize(
    ("python", "tensorflow", "works"),
    [
        ((3, 10, 12), "2.19.0", False), ((3, 14, 0), "", False), ((3, 15, 0), "", False),
        ((3, 14, 0), "2.30.0", True), ((3, 11, 0), "", True), ((3, 13, 9), "", True),
    ],
)  # fmt: skip
def test_a_python_that_does_not_work_is_named(
    tmp_path, monkeypatch, pip, versions, python, tensorflow, works
):
    versions["tensorflow"] = tensorflow
    monkeypatch.setattr(machine.sys, "version_info", python)
    monkeypatch.setattr(machine, "python_version", lambda: ".".join(map(str, python)))
    path = write(tmp_path, "tensorflow>=2.19,<3")
    if works:
        assert install_missing(path) == ([] if tensorflow else ["tensorflow>=2.19,<3"])
        return
    with pytest.raises(UserError, match=rf"3\.11, 3\.12 or 3\.13, got 3\.{python[1]}\."):
        install_missing(path)
    assert pip[1] == []


def test_an_upgraded_package_that_is_loaded_needs_a_new_kernel(tmp_path, pip, versions, capsys):
    versions |= {"pytest": "0.1"}
    install_missing(write(tmp_path, "pytest>=8", "no-such-thing"))
    printed = capsys.readouterr().out
    assert "Restart the kernel" in printed and "pytest>=8" in printed and "no-such" not in printed


def test_wheels_beside_the_requirements_replace_the_network(tmp_path, pip, versions):
    (tmp_path / "wheels").mkdir()
    install_missing(write(tmp_path, "no-such-thing"))
    offline = ["--no-index", f"--find-links={tmp_path / 'wheels'}", "no-such-thing"]
    assert pip[1][0][5:8] == offline


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [("\n", "no reason given"), ("first\nERROR: no network\n", "ERROR: no network")],
)
def test_a_failing_pip_says_why_and_what_to_do(tmp_path, pip, versions, stderr, reason):
    pip[0].code, pip[0].stderr = 1, stderr
    with pytest.raises(UserError, match=rf"no-such-thing \({reason}\).*internet"):
        install_missing(write(tmp_path, "no-such-thing"))


def test_nothing_is_missing_here(pip):
    """Its tensorflow-cpu counts as tensorflow."""
    assert install_missing(ROOT / "requirements.txt") == [] and pip[1] == []


def test_the_commit_of_a_project_is_known_in_a_clone_only(tmp_path, monkeypatch):
    git(tmp_path, "init", "--quiet")
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    git(tmp_path, "tag", "--annotate", "--message", "a tag", "v1")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert machine.project_commit(tmp_path) == commit and len(commit) == 40
    (tmp_path / "code.py").write_text("2")
    assert machine.project_commit(str(tmp_path)) == f"{commit}-dirty"
    (tmp_path / "unzipped").mkdir()  # in somebody's repository, whose commit is not ours
    assert machine.project_commit(tmp_path / "unzipped") == "unknown"
    assert machine.project_commit(tmp_path / "nowhere") == "unknown"
    monkeypatch.setenv("PATH", "")
    assert machine.project_commit(tmp_path) == "unknown"


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


@pytest.mark.tensorflow("its devices")
def test_a_gpu_that_is_in_use_already_stops_nothing(monkeypatch):
    import tensorflow as tf

    def refuse(device, on):
        raise RuntimeError("Physical devices cannot be modified after being initialized")

    monkeypatch.setattr(
        tf.config, "list_physical_devices", lambda kind: ["gpu0"] if kind == "GPU" else []
    )
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: {})
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", refuse)
    assert machine._accelerators("tensorflow") == ("GPU",)


@pytest.mark.parametrize(
    ("platform", "card", "visible", "words"),
    [
        ("local", True, None, ["NVIDIA", "tensorflow[and-cuda]"]),
        ("colab", True, None, ["NVIDIA"]),
        ("local", True, "-1", []),  # hidden on purpose
        ("local", False, None, []),
        ("colab", False, None, ["Change runtime type", "hours"]),
        ("kaggle", False, None, ["Settings, Accelerator", "hours"]),
    ],
)
def test_a_gpu_that_is_not_used_is_a_warning(monkeypatch, capsys, platform, card, visible, words):
    monkeypatch.setattr(machine, "_accelerators", lambda backend: ())
    monkeypatch.setattr(machine, "_has_nvidia_card", lambda: card)
    monkeypatch.setattr(machine, "find_platform", lambda: platform)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    machine.detect()
    warned = capsys.readouterr().err
    assert bool(warned) == bool(words) and all(word in warned for word in words)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo 'GPU 0: Tesla T4 (UUID: GPU-1)'", True),
        ("echo 'NVIDIA-SMI has failed because it could not reach the driver.'; exit 9", False),
        ("echo 'No devices found.'", False),
        (None, False),
    ],
)
def test_a_card_is_found_by_its_driver(tmp_path, monkeypatch, script, found):
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin" if script else str(tmp_path))
    if script:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    assert machine._has_nvidia_card() == found


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
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    assert machine._precision(()) == "float32"


@pytest.fixture
def kaggle_input(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "KAGGLE_INPUT", tmp_path / "input")
    return tmp_path / "input"


def test_attached_files_are_found_in_nested_folders(kaggle_input):
    assert attached("w.h5") == []
    for folder in ("datasets/someone/vgg16", "vgg16", "a/b/c/d/e", "a/b/c/d/e/f"):
        (kaggle_input / folder).mkdir(parents=True, exist_ok=True)
        (kaggle_input / folder / "w.h5").touch()
    assert attached("w.h5") == [
        kaggle_input / "vgg16/w.h5",
        kaggle_input / "datasets/someone/vgg16/w.h5",
        kaggle_input / "a/b/c/d/e/w.h5",  # as below notebooks/owner/name/roco-caption/data
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
        (Path(point) / "MyDrive").mkdir(parents=True, exist_ok=True)
        mounts.append(point)

    mounts = mount.mounts = []
    monkeypatch.setattr(machine.os.path, "ismount", lambda path: str(path) in mounts)
    mount.refuses = None
    module = types.ModuleType("google.colab.drive")
    module.mount = mount
    colab = types.ModuleType("google.colab")
    colab.drive = module
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setitem(sys.modules, "google.colab.drive", module)
    monkeypatch.setattr(machine, "DRIVE", tmp_path / "drive")
    monkeypatch.setattr(machine, "find_platform", lambda: "colab")
    return mount, calls


def test_drive_is_mounted_once_in_colab_and_only_when_asked(drive, tmp_path):
    _, calls = drive
    mount_drive(["", str(tmp_path / "kept"), str(tmp_path / "drives")])
    assert drive_folder("") is None and calls == []
    folder = tmp_path / "drive" / "MyDrive" / "roco"
    for _ in range(2):  # the second cell run finds it mounted
        mount_drive(["", str(folder)])
        assert drive_folder(str(folder)) == folder and folder.is_dir()
    assert calls == [str(tmp_path / "drive")]


def test_a_drive_that_was_unmounted_gets_no_copies_on_colabs_disk(drive, tmp_path, capsys):
    mount, calls = drive
    folder, copy = tmp_path / "run", tmp_path / "drive" / "MyDrive" / "roco"
    folder.mkdir()
    (folder / "weights").write_text("1")
    mount_drive([str(copy)])
    with backed_up(folder, copy):
        mount.mounts.clear()  # drive.flush_and_unmount()
    assert "not mounted any more" in capsys.readouterr().out and not copy.exists()
    with pytest.raises(UserError, match=r"not mounted any more\. Run all of part 2"):
        bring_back(copy, folder)
    mount_drive([str(copy)])
    with backed_up(folder, copy):
        pass
    assert len(calls) == 2 and (copy / "weights").read_text() == "1"


def test_a_link_to_the_drive_is_the_drive(drive, tmp_path, monkeypatch):
    (tmp_path / "gdrive" / "MyDrive").mkdir(parents=True)
    (tmp_path / "drive").symlink_to(tmp_path / "gdrive")
    drive[0].mounts.append(str(tmp_path / "gdrive"))
    mount_drive([str(tmp_path / "drive" / "MyDrive" / "roco")])
    machine.refuse_unmounted(tmp_path / "drive" / "MyDrive" / "roco")
    assert drive[1] == []


@pytest.mark.parametrize("paths", [["a.npz", "{}/MyDrive/b.npz"], ["", "{}/MyDrive/images"]])
def test_drive_is_mounted_for_data_on_it(drive, tmp_path, paths):
    mount_drive([path.format(tmp_path / "drive") for path in paths])
    assert drive[1] == [str(tmp_path / "drive")]


@pytest.mark.parametrize("platform", ["local", "kaggle"])
def test_elsewhere_nothing_is_mounted(drive, tmp_path, monkeypatch, platform):
    monkeypatch.setattr(machine, "find_platform", lambda: platform)
    mount_drive([str(tmp_path / "drive" / "MyDrive" / "roco")])
    assert drive[1] == []


@pytest.mark.parametrize("reason", ["mount failed\nsee logs", ""])
def test_a_refused_drive_is_explained(drive, tmp_path, reason):
    drive[0].refuses = reason
    with pytest.raises(UserError, match=f"not mounted .{reason[:5] or 'Val'}.*DRIVE_DIR = ''"):
        mount_drive([str(tmp_path / "drive" / "MyDrive")])


@pytest.mark.parametrize("folder", ["MyDrive/roco", "{}/drvie/MyDrive/roco", "~/roco"])
def test_a_folder_that_is_not_on_drive_is_pointed_out(drive, tmp_path, monkeypatch, capsys, folder):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    drive[0].mounts.append(str(tmp_path / "drive"))
    assert drive_folder(folder.format(tmp_path)).is_dir()
    out = capsys.readouterr().out
    assert "is not on Google Drive" in out and str(tmp_path / "drive" / "MyDrive") in out
    drive_folder(str(tmp_path / "drive" / "MyDrive" / "roco"))
    monkeypatch.setattr(machine, "find_platform", lambda: "local")
    drive_folder(folder.format(tmp_path))  # a folder that is synchronised some other way
    assert capsys.readouterr().out == ""


def test_colab_without_a_drive_says_what_is_lost(drive, capsys, monkeypatch):
    assert drive_folder("") is None
    assert "are lost when this session ends" in capsys.readouterr().out
    monkeypatch.setattr(machine, "find_platform", lambda: "local")
    assert drive_folder("") is None and capsys.readouterr().out == ""
