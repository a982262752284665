"""The notebook's settings: overridden from outside, and checked together before anything runs."""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import re
from collections.abc import Callable
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

from roco_caption.core.errors import UserError
from roco_caption.core.machine import mount_drive, setting
from roco_caption.data.archive import TREE
from roco_caption.data.images import read_with_note
from roco_caption.data.roco import SOURCES, locate_dataset, parse_counts
from roco_caption.data.texts import ROCO
from roco_caption.features.encoder import ENCODERS, keras_hub

PATHS = (
    "DATA_DIR", "CACHE_DIR", "DRIVE_DIR", "ENCODER_WEIGHTS", "FEATURES_FILE", "GRID_FILE",
    "CHECKPOINT_DIR", "IMAGE", "TEXT_FILE",
)  # fmt: skip
AUTO: dict[str, Callable[[str], Any]] = {"BATCH_SIZE": int, "LEARNING_RATE": float}  # or "auto"
OTHER_NAMES = "PROGRESS", "REPOSITORY", "WEIGHTS_SERVER"  # read elsewhere, but no settings
PLACE = "PROJECT"  # the notebook's name for the project's folder, which is no setting


def read_settings(names: dict[str, Any]) -> None:
    """Override and check the settings in `names`, the notebook's `globals()`.

    `ROCO_<NAME>` overrides a setting, which is printed; `~` is expanded in paths; a variable that
    belongs to no setting is pointed out. Google Drive is mounted for paths on it.

    Raises:
        UserError: settings are invalid; one line for each.
    """
    settings = [
        name for name in names
        if name.isupper() and not name.startswith("_") and name not in (*OTHER_NAMES, PLACE)
    ]  # fmt: skip
    mount_drive(str(setting(name, str(names[name]))) for name in PATHS if name in names)
    problems = {}
    for name in settings:
        try:
            names[name] = _checked(name, names[name])
        except UserError as error:
            problems[name] = str(error)
        else:
            if f"ROCO_{name}" in os.environ:
                print(f"{name} = {names[name]!r}, from ROCO_{name}")
    for variable in sorted(os.environ):
        name = variable.removeprefix("ROCO_")
        if variable.startswith("ROCO_") and name not in (*settings, *OTHER_NAMES):
            close = difflib.get_close_matches(name, settings, n=1)
            hint = f" Did you mean ROCO_{close[0]}?" if close else ""
            print(f"WARNING: {variable} is ignored: there is no setting {name}.{hint}")
    run = "" if "CHECKPOINT_DIR" in problems else names.get("CHECKPOINT_DIR", "")
    for name in ("CACHE_DIR", "DATA_DIR", "DRIVE_DIR"):
        place = "" if name in problems else names.get(name, "")
        if run and place and _is_mixed(run, name, place):
            problems[f"{name} apart"] = (
                f"CHECKPOINT_DIR must be a folder apart from {name} ({place}), got {run!r}: "
                "otherwise the run's files mix with those there. Choose an empty folder elsewhere, "
                "or ''."
            )
    used = ("FEATURES_FILE", "GRID_FILE") if names.get("ATTENTION") else ("FEATURES_FILE",)
    given = [name for name in used if names.get(name)]
    if names.get("IMAGE") and given:
        problems["IMAGE"] = (
            f"IMAGE needs an encoder, and with {given[0]} there is none. Set IMAGE to ''."
        )
    if problems:
        raise UserError("\n".join(problems.values()))


def _checked(name: str, value: Any) -> Any:
    """Return a setting's value, overridden and expanded; a UserError says what it must be."""
    valid, is_valid = CHECKS.get(name, ("a text", lambda value: True))
    with contextlib.suppress(AttributeError, TypeError, ValueError, OSError):  # another type
        value = setting(name, str(value) if name in AUTO else value)
        value = os.path.expanduser(value) if name in PATHS else value
        value = AUTO[name](value) if name in AUTO and value != "auto" else value
        if is_valid(value):
            return value
    there = f" Relative paths start at {os.getcwd()}." if name in PATHS and value else ""
    if os.name == "posix" and there and re.match(r"[A-Za-z]:[\\/]", str(value)):
        drive, rest = str(value)[0].lower(), str(value)[3:].replace("\\", "/")
        there = f" That is a path of Windows. In WSL it is /mnt/{drive}/{rest}; in Colab or on "
        there += "Kaggle, upload the folder."
    raise UserError(f"{name} must be {valid}, got {value!r}.{there}")


def _is_mixed(run: str, name: str, place: str) -> bool:
    """Return whether a run's folder is or holds the place, is read as a part of DATA_DIR, or holds
    its own copy in DRIVE_DIR or is held by it."""
    folder = Path(run).resolve()
    if Path(place).resolve().is_relative_to(folder):
        return True
    if name == "DRIVE_DIR":
        copy = (Path(place) / "checkpoints" / folder.name).resolve()
        return copy != folder and (copy.is_relative_to(folder) or folder.is_relative_to(copy))
    if name == "DATA_DIR":
        with contextlib.suppress(UserError, OSError):  # no data set, which is said later
            root = locate_dataset("", data_dir=place).root.resolve()
            read = root / TREE if (root / TREE).is_dir() else root
            return read.is_relative_to(folder) or folder.is_relative_to(read)
    return False


def _is_whole(least: int, value: Any) -> bool:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and least <= value < 2**31  # a member's seed is SEED and its number


def _is_writable(value: str) -> bool:
    """Return whether this is a folder to write to, or one that can be made."""
    place = Path(value).absolute()
    while not os.path.lexists(place) and place != place.parent:  # a drive may be missing
        place = place.parent
    return not value or (place.is_dir() and os.access(place, os.W_OK))


def _is_image(value: str) -> bool:
    return not value or (os.path.exists(value) and bool(read_with_note(value)))


LEAST = {
    "LIMIT": 0, "SEED": 0, "MIN_FREQUENCY": 1, "MAX_WORDS": 1, "MEMBERS": 1, "EPOCHS": 1,
    "BEAMS": 1,
}  # fmt: skip
SWITCH = "True or False", (True, False).__contains__
FILE = "a file or folder that exists or ''", lambda value: not value or os.path.exists(value)
FOLDER = "a folder to write to", _is_writable
# What a value must be, and its check, which may also raise an error
CHECKS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    **{name: (f"a whole number from {least} to 2,147,483,647", partial(_is_whole, least))
       for name, least in LEAST.items()},
    "BATCH_SIZE": (
        "'auto' or a whole number from 1 to 2,147,483,647",
        lambda value: value == "auto" or _is_whole(1, value),
    ),
    "ATTENTION": SWITCH, "RETRAIN": SWITCH, "FEATURES_FILE": FILE, "GRID_FILE": FILE,
    "DATA_DIR": ("a folder that exists or ''", lambda value: not value or os.path.isdir(value)),
    "TEXT_FILE": (
        f"a file or folder of captions, {ROCO!r} or ''",
        lambda value: value in ("", ROCO) or os.path.exists(value),
    ),
    "COLUMNS": ("a text such as 'image=scan, caption=report' or ''", lambda v: isinstance(v, str)),
    "CACHE_DIR": FOLDER, "CHECKPOINT_DIR": FOLDER,
    "DATA_SOURCE": (f"one of {', '.join(SOURCES)}", SOURCES.__contains__),
    "ENCODER": (
        f"one of {', '.join(ENCODERS)}",
        lambda name: name in ENCODERS and (not ENCODERS[name].preset or keras_hub(name)),
    ),
    "ENCODER_WEIGHTS": (
        "'imagenet', 'random' or the path of a weights file",
        lambda value: value in ("imagenet", "random") or os.path.isfile(value),
    ),
    "LEARNING_RATE": (
        "'auto' or a number above 0", lambda value: value == "auto" or 0 < value < math.inf,
    ),
    "PHANTOMS": ("three whole numbers above 0 such as '768,48,300'", parse_counts),
    "IMAGE": ("the path of an image file or ''", _is_image),
}  # fmt: skip
