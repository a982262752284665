"""TensorBoard gets the losses of every epoch once, and its curves are shown where they can be."""

from pathlib import Path
from types import SimpleNamespace

import IPython
import pytest

from roco_caption.core import progress
from roco_caption.core.progress import (
    is_unattended,
    progress_bar,
    show_curves,
    tensorboard,
)

ROWS = [
    {"epoch": n, "loss": 4.0 / n, "val_loss": 5.0 / n, "learning_rate": 0.1 / n} for n in (1, 2, 3)
]


def curve(folder: Path, split: str, tag: str) -> list:
    """Return a curve as TensorBoard itself reads it."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = events.EventAccumulator(str(folder / split))
    run.Reload()
    make_ndarray = pytest.importorskip("tensorboard.util.tensor_util").make_ndarray
    return [(e.step, pytest.approx(float(make_ndarray(e.tensor_proto)))) for e in run.Tensors(tag)]


def test_tensorboard_gets_each_epoch_once_although_training_was_stopped(tmp_path):
    (tmp_path / "captioner.json").touch()
    write = tensorboard(tmp_path)
    write(ROWS[0])
    write(ROWS[1])  # killed before its state was saved, so this epoch comes again
    write = tensorboard(tmp_path)
    for row in ROWS:
        write(row)
    assert curve(tmp_path, "training", "loss") == [(1, 4.0), (2, 2.0), (3, 4 / 3)]
    assert curve(tmp_path, "validation", "loss") == [(1, 5.0), (2, 2.5), (3, 5 / 3)]
    assert curve(tmp_path, "training", "learning_rate") == [(1, 0.1), (2, 0.05), (3, 0.1 / 3)]
    assert (tmp_path / "captioner.json").exists()  # only the curves are removed


def test_a_callback_that_is_never_called_writes_nothing(tmp_path):
    tensorboard(tmp_path / "curves")
    assert list(tmp_path.iterdir()) == []


def test_curves_are_shown_below_the_cell_of_a_live_notebook(tmp_path, monkeypatch):
    monkeypatch.delenv("ROCO_PROGRESS", raising=False)
    started = []
    monkeypatch.setattr(pytest.importorskip("tensorboard.notebook"), "start", started.append)
    show_curves(tmp_path / "a run", "local")
    assert started == [f"--logdir '{tmp_path}/a run' --reload_interval 5"]


@pytest.mark.parametrize("reason", ["unattended", "kaggle", "not installed"])
def test_elsewhere_the_command_is_printed(tmp_path, monkeypatch, capsys, reason):
    monkeypatch.setenv("ROCO_PROGRESS", "text" if reason == "unattended" else "")
    if reason == "not installed":
        monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: None)
    show_curves(tmp_path / "a run", "kaggle" if reason == "kaggle" else "local")
    assert capsys.readouterr().out.endswith(f": tensorboard --logdir '{tmp_path}/a run'\n")


def test_an_unattended_bar_is_text_on_standard_output(monkeypatch, capsys):
    monkeypatch.setenv("ROCO_PROGRESS", "text")
    assert list(progress_bar(range(3), desc="encoding", unit="image")) == [0, 1, 2]
    out = capsys.readouterr().out
    assert "encoding: 100%" in out and "3/3" in out and "image/s" in out


def test_a_live_bar_can_be_moved_by_hand(monkeypatch, capsys):
    monkeypatch.delenv("ROCO_PROGRESS", raising=False)
    with progress_bar(total=3, desc="encoding") as bar:
        bar.update(2)
        assert bar.n == 2
    assert capsys.readouterr().out == ""


@pytest.fixture
def platform(monkeypatch):
    for name in ("ROCO_PROGRESS", "KAGGLE_KERNEL_RUN_TYPE", "COLAB_RELEASE_TAG", "COLAB_GPU"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("names", "is_text"),
    [
        ({}, False),
        ({"COLAB_GPU": ""}, False),
        ({"ROCO_PROGRESS": "text"}, True),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, True),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch"}, True),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Interactive", "COLAB_GPU": ""}, True),
    ],
)
def test_bars_are_text_where_widgets_are_not_shown(platform, capsys, names, is_text):
    for name, value in names.items():
        platform.setenv(name, value)
    list(progress_bar(range(3)))
    assert ("3/3" in capsys.readouterr().out) == is_text
    watched = is_text and names.get("KAGGLE_KERNEL_RUN_TYPE") == "Interactive"
    assert is_unattended() == (is_text and not watched)


@pytest.mark.parametrize(
    ("shell", "unattended"),
    [
        (None, False),  # a script
        (SimpleNamespace(), False),  # IPython in a terminal
        (SimpleNamespace(kernel=SimpleNamespace()), False),  # a kernel of another kind
        (SimpleNamespace(kernel=SimpleNamespace(_allow_stdin=True)), False),  # JupyterLab, Colab
        (SimpleNamespace(kernel=SimpleNamespace(_allow_stdin=False)), True),  # nbconvert, papermill
    ],
)
def test_a_notebook_that_cannot_ask_is_unattended(platform, shell, unattended):
    platform.setattr(IPython, "get_ipython", lambda: shell)
    assert is_unattended() == unattended
