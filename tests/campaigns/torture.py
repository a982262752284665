"""`make torture`: kills, faults, bad images and fuzzed readers, more than the tests have time for.

`ROCO_KILLS` (100), `ROCO_IMAGES` (2,000) and `ROCO_EXAMPLES` per reader (2,000) set how many,
`ROCO_FAULTS` (1) whether faults are injected; 0 leaves a part out. Prints a table of all parts, and
exits with status 1 after any failure.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Each test of these injects a fault, or several, and ends with what an undisturbed run would have.
FAULTS = {
    "disk full, folder read-only": "campaigns/test_disk_full.py",
    "network and archives": "data/test_kaggle.py data/test_archive.py",
    "files damaged, pickles hostile": "core/test_pickles.py core/test_files.py "
    "features/test_grids.py training/test_checkpoint.py campaigns/test_fuzz.py",
    "out of memory, stop button, two at once": "core/test_out_of_memory.py core/test_locks.py "
    "training/test_loop.py",
}


class Row(NamedTuple):
    """A line of the table."""

    what: str
    number: int
    survived: int


def kills(folder: Path, count: int) -> tuple[list[Row], float]:
    """Print a line a stage; return the sum of them, and the seconds of the largest loss of work."""
    from campaigns.kills import kill_often

    started = time.monotonic()
    rows, failures = kill_often(folder, count, int(os.environ.get("ROCO_SEED", "0")))
    print("| SIGKILL during | kills | survived | most work redone |\n| --- | --- | --- | --- |")
    for stage, row in rows.items():
        print(f"| {stage} | {row.kills} | {row.survived} | {row.redone:.1f} s |", flush=True)
    print(f"{time.monotonic() - started:.0f} s", *failures, sep="\n")
    total = (sum(getattr(row, name) for row in rows.values()) for name in ("kills", "survived"))
    made = Row("kills (SIGKILL)", *total)
    if not rows or failures:
        made = made._replace(number=made.number + 1)  # as where the undisturbed run failed
    return [made], max((row.redone for row in rows.values()), default=0)


def images(folder: Path, count: int) -> list[Row]:
    """Print what became of the bad images; each is to be decoded or skipped in time."""
    output, status = _shown([sys.executable, TESTS / "campaigns" / "bad_images.py", folder, count])
    (numbers,) = re.findall(r"\| together \| (\d+) \| (\d+) \|", output) or [(0, 0)]
    survived = sum(map(int, numbers))
    return [Row("image files fuzzed", survived + status, survived)]


def tests(what: str, files: str, **environment: int) -> Row:
    """Run some tests; return how many there are and how many passed."""
    paths = [TESTS / name for name in files.split()]
    output, status = _shown(
        [
            sys.executable,
            "-m",
            "pytest",
            "--no-header",
            "--durations=0",
            "--durations-min=60",
            *paths,
        ],
        **environment,
    )
    counts = dict((kind, int(n)) for n, kind in re.findall(r"(\d+) (passed|failed|error)", output))
    passed = counts.get("passed", 0)
    return Row(what, max(sum(counts.values()), passed + bool(status)), passed)


def readers(examples: int) -> list[Row]:
    """Run the property tests of the readers with many examples."""
    row = tests("other files fuzzed", "campaigns/test_readers.py", ROCO_EXAMPLES=examples)
    return [row._replace(number=row.number * examples, survived=row.survived * examples)]


def _shown(command: list, **environment: int) -> tuple[str, int]:
    """Run a command, and print what it prints."""
    variables = os.environ | {name: str(value) for name, value in environment.items()}
    process = subprocess.Popen(
        list(map(str, command)), env=variables, cwd=TESTS.parent, stdout=subprocess.PIPE, text=True
    )
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    return "".join(lines), process.wait()


def main() -> int:
    """Run the parts that are asked for."""
    counts = {"ROCO_KILLS": 100, "ROCO_IMAGES": 2000, "ROCO_EXAMPLES": 2000, "ROCO_FAULTS": 1}
    counts = {name: int(os.environ.get(name, default)) for name, default in counts.items()}
    rows, loss = [], 0.0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if counts["ROCO_KILLS"]:
            killed, loss = kills(Path(folder) / "kills", counts["ROCO_KILLS"])
            rows += killed
        if counts["ROCO_FAULTS"]:
            rows += [tests(f"faults: {what}", files) for what, files in FAULTS.items()]
        if counts["ROCO_IMAGES"]:
            rows += images(Path(folder) / "images", counts["ROCO_IMAGES"])
        if counts["ROCO_EXAMPLES"]:
            rows += readers(counts["ROCO_EXAMPLES"])
    failures = sum(row.number - row.survived for row in rows)
    print("\n| torture | number | survived |\n| --- | --- | --- |")
    for row in rows:
        print(f"| {row.what} | {row.number:,} | {row.survived:,} |")
    print(f"| largest loss of work | {loss:.1f} s | |\n| failures | {failures} | |")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
