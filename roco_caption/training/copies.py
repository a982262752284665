"""Two copies of one run, as on a Drive that two sessions share: which of them did more."""

from __future__ import annotations

import contextlib
import filecmp
import os
import time
from pathlib import Path
from typing import Any

from roco_caption.core.backup import bring_back, put_back_all
from roco_caption.core.files import aside_of
from roco_caption.training.checkpoint import (
    BUNDLE,
    HISTORY,
    PREVIOUS,
    STATE,
    WEIGHTS,
    notes_in,
    notes_of,
)


def is_behind(folder: Path, copy: Path) -> bool:
    """Return whether a training in a run's folder did less than the same one in a copy.

    A finished one is never behind.
    """
    return bool(_members_behind(folder, copy))


def bring_back_run(copy: Path, folder: Path) -> None:
    """`bring_back` a run's folder; of each member's training, the one that did more counts.

    A captioner without a state, as from a run's zip, stays until there is a finished training.
    """
    put_back_all(copy)
    unzipped = (folder / BUNDLE).exists() and not (folder / STATE).exists()
    if unzipped and not notes_of(copy).get("finished"):
        return
    behind = _members_behind(folder, copy)
    for member in behind:
        _date(member, 0)  # if they cannot be replaced, they stay
    for member in _members_behind(copy, folder):
        newest = max((path.stat().st_mtime for path in member.glob("*")), default=0.0)
        try:
            _date(member, 0)
        except OSError:  # an attached folder cannot be written
            _date(folder / member.relative_to(copy), max(time.time(), newest + 1))
    bring_back(copy, folder)
    for member in behind:
        if notes_in(member / STATE):
            (member / PREVIOUS).unlink(missing_ok=True)


def _date(member: Path, seconds: float) -> None:
    """Give a member's files a time: a newer file replaces an older one."""
    for name in (STATE, WEIGHTS, HISTORY):
        with contextlib.suppress(FileNotFoundError):
            os.utime(member / name, (seconds, seconds))


def _members_behind(folder: Path, copy: Path) -> list[Path]:
    """Return the folders of the members whose training did less than in the copy."""
    behind = []
    for theirs in (copy, *copy.glob("member*")):
        ours = folder / theirs.relative_to(copy)
        own, other = notes_of(ours), notes_in(theirs / STATE)  # all that is copied
        same = own.get("settings", other.get("settings")) == other.get("settings")
        aside, state = aside_of(ours / STATE), theirs / STATE
        damaged = aside.exists() and state.exists() and filecmp.cmp(aside, state)  # the copy's
        less = not own.get("finished") and _done(own) < _done(other)
        if same and less and not damaged:
            behind.append(ours)
    return behind


def _done(notes: dict[str, Any]) -> tuple[int, ...]:
    return tuple(int(notes.get(name, 0)) for name in ("finished", "epoch", "step"))
