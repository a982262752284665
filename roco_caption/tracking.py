"""Sends a training's losses to TensorBoard, and to MLflow or Weights & Biases where asked."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from roco_caption.files import UserError, first_line

CURVES = "tensorboard"  # subfolder of a run
PROJECT = "roco-caption"  # what both services call the runs together, unless their variables do
SERVICES = ("", "mlflow", "wandb")

Row = dict[str, float]
Log = Callable[[Row], None]


@contextlib.contextmanager
def tracked(
    folder: Path, settings: dict[str, Any], history: list[Row], service: str = ""
) -> Iterator[Log]:
    """Yield a function that takes the row of each further epoch.

    Every start begins with the epochs that are done: TensorBoard's files are written anew, and a
    service gets a new run, so that none holds an epoch twice, wherever training was stopped.

    Args:
        folder: of the run; its name is the run's with a service.
        settings: of the training; its numbers and texts go to the service.
        history: rows of the epochs that are done: `epoch`, `loss`, `val_loss`, `learning_rate`.
        service: "mlflow" or "wandb", which its own environment variables tell where to write; none
            when "".

    Raises:
        UserError: the service is unknown, or its package is not installed.
    """
    with contextlib.ExitStack() as stack:
        logs: list[Log] = []
        if service:
            logs.append(stack.enter_context(_service(folder, settings, service)))
        if importlib.util.find_spec("tensorboard"):
            logs.append(stack.enter_context(_tensorboard(folder / CURVES)))

        def log(row: Row) -> None:
            for each in logs:
                each(row)

        for row in history:
            log(row)
        yield log


@contextlib.contextmanager
def _tensorboard(folder: Path) -> Iterator[Log]:
    from tensorboard.summary import Writer

    shutil.rmtree(folder, ignore_errors=True)
    writers: dict[str, Any] = {}
    working = True

    def log(row: Row) -> None:
        nonlocal working
        if not working:
            return
        epoch = int(row["epoch"])
        try:
            if not writers:
                # two runs with one name: TensorBoard draws them into one picture
                splits = ("training", "validation")
                writers.update({split: Writer(str(folder / split)) for split in splits})
            writers["training"].add_scalar("loss", row["loss"], epoch)
            writers["validation"].add_scalar("loss", row["val_loss"], epoch)
            writers["training"].add_scalar("learning_rate", row["learning_rate"], epoch)
            for writer in writers.values():
                writer.flush()
        except Exception as error:  # TensorFlow raises kinds of its own for a disk that is full
            working = False
            print(f"No more curves for TensorBoard ({first_line(error)}); the training goes on.")

    try:
        yield log
    finally:
        for writer in writers.values():
            with contextlib.suppress(Exception):  # what could not be written was said
                writer.close()


@contextlib.contextmanager
def _service(folder: Path, settings: dict[str, Any], name: str) -> Iterator[Log]:
    if name not in SERVICES:
        raise UserError(f"TRACKING is {name!r}: it can be 'mlflow', 'wandb', or empty for neither.")
    try:
        module: Any = importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"TRACKING is {name!r}, and that package is not installed: pip install {name}, or "
            "leave TRACKING empty."
        ) from error
    plain = {k: v for k, v in settings.items() if isinstance(v, int | float | str)}
    if name == "mlflow":
        module.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        with module.start_run(run_name=folder.name):
            module.log_params(plain)
            yield lambda row: module.log_metrics(row, step=int(row["epoch"]))
    else:
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        with module.init(project=project, name=folder.name, config=plain, dir=folder) as run:
            yield lambda row: run.log(row, step=int(row["epoch"]))


def show_curves(folder: str | os.PathLike, platform: str = "local") -> None:
    """Show the curves of a run, or of all in a folder, in TensorBoard below the cell.

    Where TensorBoard is missing, or nobody is there to look (`ROCO_PROGRESS` is `text`, as
    `make notebook` sets it), or its page cannot be reached (on Kaggle), it says how to see them.

    Args:
        folder: of the run.
        platform: of `runtime.detect`.
    """
    arguments = f"--logdir {shlex.quote(str(folder))}"
    unseen = os.environ.get("ROCO_PROGRESS") == "text" or platform == "kaggle"
    if unseen or not importlib.util.find_spec("tensorboard"):
        print(f"The curves of this training: tensorboard {arguments}")
        return
    from tensorboard import notebook

    program = Path(sys.executable).with_name("tensorboard")
    if program.exists():  # PATH may not lead there: the kernel of an environment not activated
        os.environ.setdefault("TENSORBOARD_BINARY", str(program))
    notebook.start(f"{arguments} --reload_interval 5")
