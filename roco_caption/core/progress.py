"""Progress bars, and TensorBoard's curves of a training."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # tqdm.auto warns without ipywidgets, where text is fine
    from tqdm.auto import tqdm as _live
    from tqdm.std import tqdm as _text

Row = dict[str, float]


def is_unattended() -> bool:
    """Tell whether the notebook runs without a reader: `ROCO_PROGRESS=text`, as `make` sets it."""
    return os.environ.get("ROCO_PROGRESS") == "text"


def progress_bar(iterable: Iterable | None = None, **options: Any) -> Any:
    """Return a tqdm bar with rate and remaining time.

    Args:
        iterable: what to iterate over, or None for a bar that is moved by `update`.
        options: of tqdm, such as `total`, `desc`, `unit`.

    Returns:
        A widget in a live notebook, text on standard output in an unattended one: widgets are not
        kept in files.
    """
    if is_unattended():
        options = {"file": sys.stdout, "ncols": 90, "mininterval": 2.0, "ascii": " ━"} | options
        return _text(iterable, **options)
    return _live(iterable, **options)


def tensorboard(folder: Path) -> Callable[[Row], None]:
    """Return a callback for `train` that writes its losses for TensorBoard.

    Its first call removes the curves of an earlier run in `folder`: `train` passes the finished
    epochs again.

    Args:
        folder: takes the curves, in the sub-folders `training` and `validation`.
    """
    writers: dict[str, Any] = {}

    def write(row: Row) -> None:
        from tensorboard.summary import Writer

        if not writers:
            shutil.rmtree(folder, ignore_errors=True)
            # two runs with one tag: TensorBoard draws them in one plot
            writers.update(
                {name: Writer(str(folder / name)) for name in ("training", "validation")}
            )
        epoch = int(row["epoch"])
        writers["training"].add_scalar("loss", row["loss"], epoch)
        writers["validation"].add_scalar("loss", row["val_loss"], epoch)
        writers["training"].add_scalar("learning_rate", row["learning_rate"], epoch)
        for writer in writers.values():
            writer.flush()

    return write


def show_curves(folder: str | os.PathLike, platform: str = "local") -> None:
    """Show the curves of a run, or of all runs in a folder, in TensorBoard below the cell.

    Prints the command to see them instead where TensorBoard is missing, the notebook runs
    unattended, or its page cannot be reached (on Kaggle).

    Args:
        folder: of the run.
        platform: of `machine.detect`.
    """
    arguments = f"--logdir {shlex.quote(str(folder))}"
    if is_unattended() or platform == "kaggle" or not importlib.util.find_spec("tensorboard"):
        print(f"The curves of this training: tensorboard {arguments}")
        return
    from tensorboard import notebook

    program = Path(sys.executable).with_name("tensorboard")
    if program.exists():  # the kernel's environment may not be on PATH
        os.environ.setdefault("TENSORBOARD_BINARY", str(program))
    notebook.start(f"{arguments} --reload_interval 5")
