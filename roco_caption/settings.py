"""The notebook's settings: overridden from outside, and checked together before anything runs."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from roco_caption.core.errors import UserError, at_least
from roco_caption.core.machine import setting
from roco_caption.data.images import read_with_note
from roco_caption.features.encoder import ENCODERS

SOURCES = "auto", "kaggle", "phantoms"
PATHS = (
    "DATA_DIR", "CACHE_DIR", "DRIVE_DIR", "ENCODER_WEIGHTS", "FEATURES_FILE", "GRID_FILE",
    "CHECKPOINT_DIR", "IMAGE",
)  # fmt: skip
# Read elsewhere: by the package, by `make`, and by its benchmarks and campaigns.
OTHER_NAMES = (
    "PROGRESS", "WEIGHTS_SERVER", "REPOSITORY", "CAPTIONS_FILE", "EXAMPLES", "FAULTS", "FINAL",
    "FOLDS", "FUZZ_SECONDS", "IMAGES", "KILLS", "PRECISION", "SECONDS", "SEEDS", "STAGES",
    "VARIANTS",
)  # fmt: skip
LEAST = {
    "LIMIT": 0, "SEED": 0, "MIN_FREQUENCY": 1, "MAX_WORDS": 1, "MEMBERS": 1, "EPOCHS": 1,
    "BATCH_SIZE": 1, "BEAMS": 1,
}  # fmt: skip


def read_settings(names: dict[str, Any]) -> None:
    """Override and check the settings in `names`, the notebook's `globals()`.

    `ROCO_<NAME>` overrides a setting, which is printed; `~` is expanded in paths; a variable that
    belongs to no setting is pointed out.

    Raises:
        UserError: settings are invalid; one line for each.
    """
    settings = [name for name in names if name.isupper() and not name.startswith("_")]
    problems: dict[str, str] = {}
    for name in settings:
        try:
            value = setting(name, names[name])
            if name in PATHS:
                value = os.path.expanduser(value)
            names[name] = value
            CHECKS.get(name, _anything)(name, value)
        except UserError as error:
            problems[name] = str(error)
        except (TypeError, ValueError, OSError) as error:  # of another type, or no possible path
            problems[name] = f"{name} is invalid, got {names[name]!r} ({error})."
        if f"ROCO_{name}" in os.environ and name not in problems:
            print(f"{name} = {value!r}, from ROCO_{name}")
    for variable in sorted(os.environ):
        name = variable.removeprefix("ROCO_")
        if name not in (variable, *settings, *OTHER_NAMES):
            close = difflib.get_close_matches(name, settings, n=1)
            hint = f" Did you mean ROCO_{close[0]}?" if close else ""
            print(f"WARNING: {variable} is ignored: there is no setting {name}.{hint}")
    if problems:
        raise UserError("\n".join(problems.values()))


def _anything(name: str, value: Any) -> None:
    """Check nothing: for settings that any value is valid for."""


def _whole(name: str, value: Any) -> None:
    at_least(LEAST[name], **{name: value})
    if isinstance(value, bool) or value >= 2**32:
        raise UserError(f"{name} must be a whole number below 4,294,967,296, got {value!r}.")


def _positive(name: str, value: Any) -> None:
    at_least(0.0, **{name: value})
    if value == 0:
        raise UserError(f"{name} must be above 0, got {value!r}.")


def _switch(name: str, value: Any) -> None:
    if value not in (True, False):
        raise UserError(f"{name} must be True or False, got {value!r}.")


def _phantoms(name: str, value: Any) -> None:
    counts = str(value).split(",")
    if len(counts) != 3 or not all(count.strip().isdigit() and int(count) for count in counts):
        raise UserError(
            f"{name} must be three whole numbers above 0 such as '768,48,300', got {value!r}."
        )


def _one_of(*choices: str) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if value not in choices:
            raise UserError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")

    return check


def _existing(name: str, value: Any) -> None:
    paths = [value] if os.path.exists(value) else str(value).split(",")
    for path in paths:
        if value and not os.path.exists(path.strip()):
            raise UserError(f"{name} names {path.strip()!r}, which does not exist.")


def _weights(name: str, value: Any) -> None:
    if value not in ("imagenet", "random") and not os.path.isfile(value):
        raise UserError(
            f"{name} must be 'imagenet', 'random' or the path of a weights file; there is no file "
            f"{value!r}."
        )


def _folder_to_be(name: str, value: Any) -> None:
    place = Path(value).absolute()
    while not os.path.lexists(place):
        place = place.parent
    if value and not (place.is_dir() and os.access(place, os.W_OK)):
        raise UserError(f"{name} is {str(value)!r}, but {place} is not a folder to write to.")


def _image(name: str, value: Any) -> None:
    if value:
        _existing(name, value)
        read_with_note(value)


CHECKS: dict[str, Callable[[str, Any], None]] = {
    **dict.fromkeys(LEAST, _whole),
    **dict.fromkeys(("ATTENTION", "RETRAIN"), _switch),
    **dict.fromkeys(("DATA_DIR", "FEATURES_FILE", "GRID_FILE"), _existing),
    **dict.fromkeys(("CACHE_DIR", "CHECKPOINT_DIR"), _folder_to_be),
    "DATA_SOURCE": _one_of(*SOURCES), "ENCODER": _one_of(*ENCODERS), "LEARNING_RATE": _positive,
    "PHANTOMS": _phantoms, "ENCODER_WEIGHTS": _weights, "IMAGE": _image,
}  # fmt: skip
