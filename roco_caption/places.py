"""Where files lie on Colab and Kaggle: attached data sets, folders to write to, Google Drive."""

from __future__ import annotations

import os
from pathlib import Path

from roco_caption.files import UserError, first_line, make_folder

KAGGLE_INPUT = Path("/kaggle/input")
DRIVE = Path("/content/drive")
DEPTH = 4  # folders of the attached data sets that are looked through; ROCO's images lie deeper


def attached(name: str) -> list[Path]:
    """Return the files or folders of this name in the data sets attached to a Kaggle notebook.

    Args:
        name: a file's or folder's name.

    Returns:
        Paths, those least deep first; none anywhere else than on Kaggle.
    """
    patterns = ("*/" * depth + name for depth in range(1, DEPTH + 1))
    return [path for pattern in patterns for path in sorted(KAGGLE_INPUT.glob(pattern))]


def writable(project: str | os.PathLike) -> Path:
    """Return the folder for what a run makes.

    Args:
        project: the project's folder.

    Returns:
        It, or the working folder where the project is attached on Kaggle, and so read-only.
    """
    project = Path(project)
    return Path.cwd() if project.is_relative_to(KAGGLE_INPUT) else project


def drive_folder(folder: str, platform: str) -> Path | None:
    """Return the folder that outlives the machine, and mount Google Drive for it in Colab.

    Args:
        folder: such as "/content/drive/MyDrive/roco"; empty where none is wanted.
        platform: `"colab"`, `"kaggle"` or `"local"`; Drive is mounted in Colab only.

    Returns:
        The folder, made where missing; None where none is wanted.

    Raises:
        UserError: Drive was not mounted, or the folder cannot be made.
    """
    if not folder:
        return None
    path = Path(folder).expanduser()
    if platform == "colab" and path.is_relative_to(DRIVE) and not (DRIVE / "MyDrive").is_dir():
        try:
            from google.colab import drive

            drive.mount(str(DRIVE))
        except Exception as error:  # refused by its owner, or timed out
            raise UserError(
                f"Google Drive was not mounted ({first_line(error)}). Run this cell again and "
                "allow it, or set DRIVE_DIR to '' to go without it."
            ) from error
    return make_folder(path)
