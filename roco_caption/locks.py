"""One process at a time on a folder: a lock that names its holder and ends with it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

try:
    import fcntl
except ImportError:  # Windows: two notebooks at once are the reader's to avoid there
    fcntl = None  # type: ignore[assignment]

WAIT_SECONDS = 0.5


@contextlib.contextmanager
def lock(path: str | os.PathLike, purpose: str) -> Iterator[None]:
    """Hold a lock for the length of a block; wait for whoever holds it, and say who that is.

    Waiting rather than stopping: the other process makes what this one wants, and then it is
    reused. The lock is the system's (flock), so it ends with its process, however that ends: there
    are no stale ones. The file stays; it only names the holder. Not to be nested on one path.

    Args:
        path: the lock's file; its folder is made when missing. Where it cannot be written, as in a
            read-only folder, there is nothing to protect, and nothing is locked.
        purpose: what the holder does, as "training", for those who wait.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError:
        file = None
    if file is None or fcntl is None:
        yield
        return
    with file:
        _acquire(file, path)
        _sign(file, purpose)
        yield


def _acquire(file: TextIO, path: Path) -> None:
    waiting = False
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not waiting:
                print(f"{path.parent} is in use by {_holder(file)}. Waiting until that ends; stop "
                      "this cell to give up.", flush=True)  # fmt: skip
            waiting = True
            time.sleep(WAIT_SECONDS)
        except OSError as error:  # some network drives know no locks
            print(f"NOTE: {path.parent} cannot be locked ({error.strerror}): run no other notebook "
                  "on it meanwhile.")  # fmt: skip
            return


def _sign(file: TextIO, purpose: str) -> None:
    signature = {"pid": os.getpid(), "host": platform.node(), "purpose": purpose}
    signature["since"] = time.strftime("%Y-%m-%d %H:%M:%S")
    with contextlib.suppress(OSError):  # a full disk: the lock holds without its name
        file.truncate(0)
        file.write(json.dumps(signature))
        file.flush()


def _holder(file: TextIO) -> str:
    for _ in range(20):  # it may be about to sign, unless its disk is full
        file.seek(0)
        try:
            who = json.loads(file.read())
            return f"process {who['pid']} on {who['host']} ({who['purpose']}, since {who['since']})"
        except (ValueError, KeyError, TypeError, OSError):
            time.sleep(0.05)
    return "another notebook"
