"""Losses reach TensorBoard, MLflow and Weights & Biases, each epoch once, wherever it stopped."""

import subprocess
import sys
from pathlib import Path

import pytest

from roco_caption.core import progress as tracking
from roco_caption.core.errors import UserError
from roco_caption.core.progress import CURVES, show_curves, tracked

ROWS = [
    {"epoch": n, "loss": 4.0 / n, "val_loss": 5.0 / n, "learning_rate": 0.1 / n} for n in (1, 2, 3)
]
SETTINGS = {"epochs": 3, "learning_rate": 0.1, "model": [["lstm", None, [4, 4]]]}


def curve(folder: Path, split: str, tag: str) -> list:
    """Return a curve as TensorBoard itself reads it."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = events.EventAccumulator(str(folder / CURVES / split))
    found.Reload()
    read = pytest.importorskip("tensorboard.util.tensor_util").make_ndarray
    return [(e.step, pytest.approx(float(read(e.tensor_proto)))) for e in found.Tensors(tag)]


def test_tensorboard_gets_each_epoch_once_although_training_was_stopped(tmp_path):
    with tracked(tmp_path, SETTINGS, []) as log:
        log(ROWS[0])
        log(ROWS[1])  # killed before its state was saved, so it comes again
    with tracked(tmp_path, SETTINGS, ROWS[:1]) as log:
        log(ROWS[1])
        log(ROWS[2])
    assert curve(tmp_path, "training", "loss") == [(1, 4.0), (2, 2.0), (3, 4 / 3)]
    assert curve(tmp_path, "validation", "loss") == [(1, 5.0), (2, 2.5), (3, 5 / 3)]
    assert curve(tmp_path, "training", "learning_rate") == [(1, 0.1), (2, 0.05), (3, 0.1 / 3)]


def test_without_tensorboard_training_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with tracked(tmp_path, SETTINGS, []) as log:
        log(ROWS[0])
    assert list(tmp_path.iterdir()) == []
    show_curves(tmp_path)
    assert capsys.readouterr().out.endswith(f"tensorboard --logdir {tmp_path}\n")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_curves_that_cannot_be_written_stop_no_training(tmp_path, capsys):
    pytest.importorskip("tensorboard")
    (tmp_path / CURVES).write_text("a file where a folder should be")
    with tracked(tmp_path, SETTINGS, []) as log:
        for row in ROWS:
            log(row)
    assert capsys.readouterr().out.count("No more curves for TensorBoard (") == 1


def test_nobody_there_to_look(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("ROCO_PROGRESS", raising=False)
    started = []
    notebook = pytest.importorskip("tensorboard.notebook")
    monkeypatch.setattr(notebook, "start", started.append)
    show_curves(tmp_path / "a run", "local")
    assert started == [f"--logdir '{tmp_path}/a run' --reload_interval 5"]
    show_curves(tmp_path, "kaggle")
    monkeypatch.setenv("ROCO_PROGRESS", "text")
    show_curves(tmp_path, "local")
    assert len(started) == 1 and capsys.readouterr().out.count("tensorboard --logdir") == 2


@pytest.mark.parametrize("service", ["mlflow", "wandb"])
def test_a_service_that_is_not_installed_is_named(tmp_path, monkeypatch, service):
    monkeypatch.setitem(sys.modules, service, None)
    with (
        pytest.raises(UserError, match=f"pip install {service}"),
        tracked(tmp_path, {}, [], service),
    ):
        pass


def test_an_unknown_service_is_refused_and_training_asks_for_it(tmp_path):
    from helpers.toy_training import run

    with pytest.raises(UserError, match=r"'mlflow', 'wandb'"):
        run(tmp_path, tracking="visdom")
    history, _ = run(tmp_path)
    losses = list(zip(history.index, history.val_loss, strict=True))
    assert curve(tmp_path, "validation", "loss") == losses


def test_no_service_is_imported_unasked(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "for name in ('mlflow', 'wandb'): sys.modules[name] = None\n"
        "from roco_caption.tracking import tracked\n"
        "with tracked(Path(sys.argv[1]), {}, []) as log: pass\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, check=True)


def test_mlflow_gets_them(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(tmp_path.as_uri())
    with tracked(tmp_path / "run", SETTINGS, ROWS[:1], "mlflow") as log:
        log(ROWS[1])
    (run,) = mlflow.MlflowClient().search_runs(
        [mlflow.get_experiment_by_name("roco-caption").experiment_id]
    )
    assert run.info.run_name == "run" and run.info.status == "FINISHED"
    assert run.data.params == {"epochs": "3", "learning_rate": "0.1"}
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "val_loss")
    assert [(point.step, point.value) for point in history] == [(1, 5.0), (2, 2.5)]


def test_weights_and_biases_gets_them(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "run"
    folder.mkdir()
    with tracked(folder, SETTINGS, ROWS[:1], "wandb") as log:
        log(ROWS[1])
        run = wandb.run
        assert run.name == "run" and dict(run.config)["epochs"] == 3
    assert run.summary["val_loss"] == 2.5 and run.summary["epoch"] == 2
    assert list((folder / "wandb").glob("offline-run-*/*.wandb"))
