"""Two processes on one folder take turns, whoever waits knows for whom, and no lock outlives."""

import errno
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from helpers.toy_features import SLOW, make_images

from roco_caption.core import files as locks
from roco_caption.core.files import lock

ROOT = Path(__file__).parents[2]
HOLD = (
    "import sys, time; sys.path.insert(0, {root!r})\n"
    "from roco_caption.locks import lock\n"
    "with lock({path!r}, 'training'):\n"
    "    print('held', flush=True); time.sleep({seconds})\n"
)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock; `holder(seconds)` returns once it does."""
    started = []

    def start(seconds):
        code = HOLD.format(root=str(ROOT), path=str(tmp_path / ".lock"), seconds=seconds)
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_second_waits_says_for_whom_and_goes_on_when_the_first_is_done(
    tmp_path, holder, capsys
):
    process = holder(1.5)
    with lock(tmp_path / ".lock", "training"):
        assert process.wait(1) == 0
    out = capsys.readouterr().out
    who = rf"process {process.pid} on \S+ \(training, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\)"
    assert re.fullmatch(rf"{re.escape(str(tmp_path))} is in use by {who}\. Waiting .*\n", out)


def test_a_killed_process_leaves_no_lock(tmp_path, holder, capsys):
    process = holder(600)
    threading.Timer(1, process.send_signal, [signal.SIGKILL]).start()
    started = time.monotonic()
    with lock(tmp_path / ".lock", "training"):
        assert 0.9 < time.monotonic() - started < 10
    assert f"process {process.pid}" in capsys.readouterr().out
    with lock(tmp_path / ".lock", "training"):  # and its file hinders nobody
        assert capsys.readouterr().out == ""


def test_the_stop_button_ends_the_waiting(tmp_path, holder):
    holder(600)
    threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt), lock(tmp_path / ".lock", "training"):
        raise AssertionError("the lock is another's")


def test_an_error_inside_frees_it(tmp_path, capsys):
    with pytest.raises(RuntimeError), lock(tmp_path / ".lock", "training"):
        raise RuntimeError
    with lock(tmp_path / ".lock", "training"):
        assert capsys.readouterr().out == ""


def test_where_nothing_can_be_written_nothing_is_locked(tmp_path):
    (tmp_path / "file").write_text("")
    with lock(tmp_path / "file" / ".lock", "training"):
        pass


def test_a_drive_that_knows_no_locks_is_named(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with lock(tmp_path / ".lock", "training"):
        pass
    assert "run no other notebook" in capsys.readouterr().out
    monkeypatch.setattr(locks, "fcntl", None)  # Windows
    with lock(tmp_path / ".lock", "training"):
        pass


# Two real processes on the same folders


def both(code: str) -> list[str]:
    """Run the code in two processes at once; return what each printed."""
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    return outputs


def test_two_that_encode_the_same_images_make_them_once(tmp_path):
    make_images(tmp_path / "images", 24)
    code = SLOW.format(
        root=str(ROOT), tests=str(ROOT / "tests"), images=str(tmp_path / "images"),
        folder=str(tmp_path / "features"),
    )  # fmt: skip
    first, second = sorted(both(textwrap.dedent(code)), key=lambda out: "reused" in out)
    assert "Features of 24 images made" in first and "is in use" not in first
    assert "is in use by process" in second and "Features of 24 images reused" in second


def test_two_that_train_in_one_folder_train_once(tmp_path):
    tests = str(ROOT / "tests")
    code = (
        f"import sys, time; sys.path[:0] = [{tests!r}, {str(ROOT)!r}]\n"
        "from roco_caption import training; import test_training\n"
        "step = training._step\n"
        "def slow(*a):\n    time.sleep(0.2); return step(*a)\n"
        "training._step = slow\n"
        f"toy_training.run({str(tmp_path)!r})\n"
    )
    first, second = sorted(both(code), key=lambda out: "reused" in out)
    assert "reused" not in first
    assert "(training, since" in second and "Training was finished and is reused" in second


def test_two_that_draw_the_same_phantoms_draw_them_once(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from roco_caption import phantoms\n"
        "draw = phantoms._draw_all\n"
        "def drawing(images, *a):\n    print(len(images), 'drawn'); draw(images, *a)\n"
        "phantoms._draw_all = drawing\n"
        f"phantoms.make_phantoms({str(tmp_path / 'p')!r}, train=60, validation=1, test=1, "
        "progress=False)\n"
    )
    first, second = sorted(both(code), key=lambda out: "in use" in out)
    assert first == "62 drawn\n"
    assert "drawing phantoms, since" in second and "drawn\n" not in second
