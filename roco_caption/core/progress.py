"""Progress bars, and training curves in TensorBoard."""

import importlib.util
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from roco_caption.core.machine import find_platform

Row = dict[str, float]  # of one epoch
BAR_SECONDS = 10  # after which a bar appears where most waits are short


def is_unattended() -> bool:
    """Return whether nobody watches the notebook run: in `make`, nbconvert or a batch on Kaggle."""
    batch = os.environ.get("KAGGLE_KERNEL_RUN_TYPE") == "Batch"
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    answers = getattr(getattr(shell, "kernel", None), "_allow_stdin", True)  # not in nbconvert
    return os.environ.get("ROCO_PROGRESS") == "text" or batch or not answers


def progress_bar(iterable: Iterable | None = None, **options: Any) -> Any:
    """Return a tqdm bar: a widget, or text in an unattended notebook, which keeps no widgets.

    On Kaggle it is text too: widgets hang there at "Loading widget…".
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns without ipywidgets, but text is fine
        from tqdm import auto, std
    if is_unattended() or find_platform() == "kaggle":
        options = {"file": sys.stdout, "ncols": 90, "mininterval": 2.0, "ascii": " ━"} | options
        return std.tqdm(iterable, **options)
    return auto.tqdm(iterable, **options)


def tensorboard(folder: str | os.PathLike) -> Callable[[Row], None]:
    """Return a callback for `train` that writes TensorBoard curves, in place of earlier ones."""
    writers: dict[str, Any] = {}

    def write(row: Row) -> None:
        from tensorboard.summary import Writer

        for split, loss in (("training", "loss"), ("validation", "val_loss")):
            path = Path(folder) / split  # one run per split: TensorBoard plots them in one chart
            if split not in writers:
                shutil.rmtree(path, ignore_errors=True)
                writers[split] = Writer(str(path))
            writers[split].add_scalar("loss", row[loss], int(row["epoch"]))
            if split == "training":
                writers[split].add_scalar("learning_rate", row["learning_rate"], int(row["epoch"]))
            writers[split].flush()

    return write


def show_curves(folder: str | os.PathLike, platform: str = "local") -> None:
    """Show a folder's runs in TensorBoard below the cell; print its command where it cannot run."""
    arguments = f"--logdir {shlex.quote(str(folder))}"
    if is_unattended() or platform == "kaggle" or not importlib.util.find_spec("tensorboard"):
        print(f"To see the training curves, run: tensorboard {arguments}")
        return
    from tensorboard import notebook

    program = Path(sys.executable).with_name("tensorboard")
    if program.exists():  # the kernel's environment may not be on PATH
        os.environ.setdefault("TENSORBOARD_BINARY", str(program))
    notebook.start(f"{arguments} --reload_interval 5")
