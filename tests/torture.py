"""`make torture`: kills, bad images and fuzzed readers, in numbers that the tests have no time for.

`ROCO_KILLS` kills (100), `ROCO_IMAGES` bad images (2,000) and `ROCO_EXAMPLES` examples a reader
(20,000) set how long; 0 leaves a part out. Ends with a table, and with status 1 on any failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def kills(folder: Path, count: int) -> bool:
    """Print a line a stage; return whether every run ended as the undisturbed one."""
    from kills import kill_often

    started = time.monotonic()
    rows, failures = kill_often(folder, count, int(os.environ.get("ROCO_SEED", "0")))
    print("| SIGKILL during | kills | survived | most work redone |\n| --- | --- | --- | --- |")
    for stage, row in rows.items():
        print(f"| {stage} | {row.kills} | {row.survived} | {row.redone:.1f} s |")
    total = [sum(getattr(row, name) for row in rows.values()) for name in ("kills", "survived")]
    most = max((row.redone for row in rows.values()), default=0)
    print(f"| together | {total[0]} | {total[1]} | {most:.1f} s |")
    print(f"{time.monotonic() - started:.0f} s", *failures, sep="\n")
    return bool(rows) and not failures


def images(folder: Path, count: int) -> bool:
    """Print what became of the bad images; return whether each was decoded or skipped in time."""
    result = subprocess.run([sys.executable, HERE / "bad_images.py", str(folder), str(count)])
    return result.returncode == 0


def readers(examples: int) -> bool:
    """Run the property tests of the readers with many examples."""
    environment = os.environ | {"ROCO_EXAMPLES": str(examples)}
    command = [sys.executable, "-m", "pytest", "-p", "no:randomly", HERE / "test_readers.py"]
    return subprocess.run(command, env=environment, cwd=HERE.parent).returncode == 0


def main() -> int:
    """Run the parts that are asked for."""
    counts = {"ROCO_KILLS": 100, "ROCO_IMAGES": 2000, "ROCO_EXAMPLES": 20000}
    counts = {name: int(os.environ.get(name, default)) for name, default in counts.items()}
    good = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if counts["ROCO_IMAGES"]:
            good.append(images(Path(folder) / "images", counts["ROCO_IMAGES"]))
        if counts["ROCO_EXAMPLES"]:
            good.append(readers(counts["ROCO_EXAMPLES"]))
        if counts["ROCO_KILLS"]:
            good.append(kills(Path(folder) / "kills", counts["ROCO_KILLS"]))
    print("torture: all survived" if all(good) else "torture: FAILED")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
