"""`make notebook` keeps the executed notebook, also where a cell fails."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

SCRIPT = Path(__file__).parents[2] / "tools" / "run_notebook.py"
BAR = "for n in range(3): print(f'\\r{n} of 3', end='')"


def write(folder, *sources):
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    folder.mkdir()
    nbformat.write(notebook, folder / "a.ipynb")
    return [sys.executable, str(SCRIPT), str(folder / "a.ipynb"), str(folder / "executed")]


def texts(folder):
    """Return what each cell of the executed notebook shows, by cell."""
    cells = json.loads((folder / "executed" / "a.ipynb").read_text("utf-8"))["cells"]
    return [json.dumps(cell["outputs"]) for cell in cells]


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("open('/nowhere.png')", "/nowhere.png"),
        ("import sys; sys.exit('Three ways to go on')", "Three ways"),
    ],
)
def test_a_notebook_that_fails_is_kept_with_its_error(tmp_path, cell, shown):
    command = write(tmp_path / "n", BAR, cell, "print('never reached')")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and shown in done.stderr and "a.html" in done.stderr
    first, failed, never = texts(tmp_path / "n")
    assert "2 of 3" in first and "0 of 3" not in first and shown in failed and never == "[]"
    assert shown in (tmp_path / "n" / "executed" / "a.html").read_text("utf-8")


def test_a_notebook_that_succeeds_says_where_it_is(tmp_path):
    command = write(tmp_path / "n", "import os; print('WARNING: odd\\nin', os.getcwd())")
    executed = tmp_path / "n" / "executed"
    executed.mkdir()
    (executed / "a.html").write_text("of the run before")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "a.html" in done.stdout
    assert done.stdout.startswith("WARNING: odd\n")
    assert (executed / "a.previous.html").read_text() == "of the run before"
    assert str(tmp_path / "n") in texts(tmp_path / "n")[0]  # it runs beside the notebook


@pytest.mark.slow
def test_a_kernel_that_dies_leaves_what_was_before(tmp_path):
    command = write(tmp_path / "n", "print('before')", "import os; os.kill(os.getpid(), 9)")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "kernel died" in done.stderr
    assert "before" in texts(tmp_path / "n")[0]


@pytest.mark.slow
def test_an_interrupted_notebook_is_kept(tmp_path):
    mark = tmp_path / "begun"
    command = write(
        tmp_path / "n", "print('before')", f"open({str(mark)!r}, 'w'); import time; time.sleep(60)"
    )
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not mark.exists() and time.monotonic() < end:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    assert process.wait(30) == 1
    assert "before" in texts(tmp_path / "n")[0]
