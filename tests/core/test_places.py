"""Attached data sets, folders to write to, and Google Drive, imitated."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import pytest

from roco_caption.core import machine as places
from roco_caption.core.errors import UserError
from roco_caption.core.machine import attached, drive_folder, writable

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"


@pytest.fixture
def mount(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "KAGGLE_INPUT", tmp_path / "input")
    return tmp_path / "input"


def test_attached_files_are_found_however_nested(mount):
    assert attached("w.h5") == []
    for folder in ("datasets/someone/vgg16", "vgg16", "a/b/c/d/e"):
        (mount / folder).mkdir(parents=True, exist_ok=True)
        (mount / folder / "w.h5").touch()
    assert attached("w.h5") == [mount / "vgg16/w.h5", mount / "datasets/someone/vgg16/w.h5"]


def test_what_is_attached_is_not_written_to(mount, tmp_path, monkeypatch):
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)
    assert writable(mount / "datasets" / "roco-caption") == working
    assert writable(tmp_path / "roco-caption") == tmp_path / "roco-caption"


@pytest.fixture
def drive(tmp_path, monkeypatch):
    """An imitated google.colab, whose Drive holds what was put there before."""
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
    monkeypatch.setattr(places, "DRIVE", tmp_path / "drive")
    return mount, calls


def test_drive_is_mounted_once_in_colab_and_only_when_asked(drive, tmp_path):
    _, calls = drive
    assert drive_folder("", "colab") is None and calls == []
    wanted = tmp_path / "drive" / "MyDrive" / "roco"
    for _ in range(2):  # the second cell run finds it mounted
        assert drive_folder(str(wanted), "colab") == wanted and wanted.is_dir()
    assert calls == [str(tmp_path / "drive")]


@pytest.mark.parametrize(
    ("platform", "folder"),
    [("local", "drive/MyDrive/roco"), ("kaggle", "drive/MyDrive/roco"), ("colab", "kept")],
)
def test_elsewhere_it_is_a_folder_like_any_other(drive, tmp_path, platform, folder):
    assert drive_folder(str(tmp_path / folder), platform) == tmp_path / folder
    assert (tmp_path / folder).is_dir() and drive[1] == []


@pytest.mark.parametrize("reason", ["mount failed\nsee logs", ""])
def test_a_refused_drive_is_explained(drive, tmp_path, reason):
    drive[0].refuses = reason
    with pytest.raises(UserError, match=f"not mounted .{reason[:5] or 'Val'}.*DRIVE_DIR to ''"):
        drive_folder(str(tmp_path / "drive" / "MyDrive"), "colab")


def cell(name: str) -> str:
    cells = nbformat.read(NOTEBOOKS / "roco_captioning.ipynb", as_version=4).cells
    return next(c.source for c in cells if c.id == name)


@pytest.mark.parametrize("place", ["roco-caption", "datasets/someone/roco-caption/main"])
def test_on_kaggle_without_internet_the_attached_project_is_used(tmp_path, place):
    mount, working = tmp_path / "input", tmp_path / "working"
    (mount / place).mkdir(parents=True)
    working.mkdir()
    (mount / place / "roco_caption").symlink_to(ROOT / "roco_caption")
    code = cell("cell-02").replace("/kaggle/input", str(mount))
    code += "\nimport roco_caption; print(PROJECT); print(roco_caption.__file__)"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=working, env=env | {"PATH": ""},
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == str(mount / place)


def test_features_and_training_go_to_drive_and_images_do_not():
    assert "(drive or Path(CACHE_DIR))" in cell("cell-14")
    assert "kept = drive or places.writable(PROJECT)" in cell("run-folder")
    assert "drive" not in cell("cell-08")


class Sent(Exception):
    """Carries the request that the client would send."""


def test_the_kernel_is_one_that_kaggles_client_pushes(monkeypatch, capsys):
    monkeypatch.setenv("KAGGLE_USERNAME", "someone")  # the client authenticates on import
    monkeypatch.setenv("KAGGLE_KEY", "key")
    from kaggle.api.kaggle_api_extended import KaggleApi

    api = KaggleApi()
    metadata = json.loads((NOTEBOOKS / "kernel-metadata.json").read_text("utf-8"))
    template = {"id", "title", "code_file", "language", "kernel_type", "is_private", "enable_gpu"}
    template |= {"enable_tpu", "enable_internet", "dataset_sources", "competition_sources"}
    assert set(metadata) == template | {"kernel_sources", "model_sources", "machine_shape"}
    assert (NOTEBOOKS / metadata["code_file"]).is_file()

    class Kaggle:
        def __enter__(self):
            self.kernels = self.kernels_api_client = self
            return self

        def __exit__(self, *error):
            return None

        def save_kernel(self, request):
            raise Sent(request)

    monkeypatch.setattr(api, "build_kaggle_client", Kaggle)
    with pytest.raises(Sent) as caught:
        api.kernels_push(str(NOTEBOOKS))
    (request,) = caught.value.args
    assert request.enable_gpu and request.enable_internet and request.is_private
    assert request.dataset_data_sources == ["virajbagal/roco-dataset"]
    assert request.language == "python" and request.kernel_type == "notebook"
    # 2.0.0 knows no machine_shape and leaves it to Kaggle's default GPU
    assert getattr(request, "machine_shape", "NvidiaTeslaT4") == "NvidiaTeslaT4"
    assert len(json.loads(request.text)["cells"]) > 30
    assert "does not resolve" not in capsys.readouterr().out  # title and id fit
