"""Two processes on one folder take turns; the one that waits names the other; no lock is stale."""

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
from helpers.toy_features import make_images

from roco_caption.core import files
from roco_caption.core.files import lock

ROOT = Path(__file__).parents[2]
HOLD = (
    "import sys, time; sys.path.insert(0, {root!r})\n"
    "from roco_caption.core.files import lock\n"
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


def test_where_the_file_cannot_be_written_nothing_is_locked(tmp_path):
    (tmp_path / "file").write_text("")
    with lock(tmp_path / "file" / ".lock", "training"):
        pass


def test_a_drive_without_locks_is_named(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with lock(tmp_path / ".lock", "training"):
        pass
    assert "do not run another notebook" in capsys.readouterr().out
    monkeypatch.setattr(files, "fcntl", None)  # Windows
    with lock(tmp_path / ".lock", "training"):
        pass


# Two real processes in the same folder

START = f"""
import sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
def slow(function, seconds):
    def slowed(*arguments, **options):
        time.sleep(seconds)
        return function(*arguments, **options)
    return slowed
"""


def both(code: str, *arguments: str) -> list[str]:
    """Run the code in two processes at once; return what each printed."""
    command = [sys.executable, "-c", START + textwrap.dedent(code), *arguments]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    return sorted(outputs, key=lambda output: "is in use" in output)


def test_two_processes_that_encode_the_same_images_encode_them_once(tmp_path):
    make_images(tmp_path / "images", 24)
    code = """
        from pathlib import Path
        from helpers import toy_features
        from roco_caption.features import extract
        def encoder(*arguments, **options):
            model = toy_features.tiny_encoder(*arguments, **options)
            model.predict_on_batch = slow(model.predict_on_batch, 0.15)
            return model
        extract.build_encoder = encoder
        images = {path.stem: path for path in sorted(Path(sys.argv[1]).glob("*.png"))}
        toy_features.extract(images, sys.argv[2])
    """
    first, second = both(code, str(tmp_path / "images"), str(tmp_path / "features"))
    assert "Features of 24 images" in first and "is in use" not in first
    assert "is in use by process" in second and "reused" in second


@pytest.mark.slow
def test_two_processes_that_train_in_one_folder_train_once(tmp_path):
    code = """
        from helpers import toy_training
        from roco_caption.training import loop
        loop.Replicas.train_on_batch = slow(loop.Replicas.train_on_batch, 0.2)
        toy_training.run(sys.argv[1])
    """
    first, second = both(code, str(tmp_path))
    assert "reused" not in first
    assert "(training, since" in second and "Reused a finished training" in second


def test_two_processes_that_draw_the_same_phantoms_draw_them_once(tmp_path):
    code = """
        from roco_caption.data.phantoms import dataset
        draw = dataset._draw_all
        def drawing(images, *arguments):
            print(len(images), "drawn")
            draw(images, *arguments)
        dataset._draw_all = drawing
        dataset.make_phantoms(sys.argv[1], train=60, validation=1, test=1, progress=False)
    """
    first, second = both(code, str(tmp_path / "p"))
    assert first == "62 drawn\n"
    assert "drawing phantoms, since" in second and "drawn\n" not in second
