"""`make torture` in short: a handful of kills, each run ends as if none had been."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 3


@pytest.mark.first
def test_killed_at_random_moments_it_ends_where_an_undisturbed_run_ends():
    environment = os.environ | {
        "ROCO_KILLS": str(KILLS), "ROCO_IMAGES": "0", "ROCO_EXAMPLES": "0", "ROCO_FAULTS": "0",
        "ROCO_SEED": "7",
    }  # fmt: skip
    script = Path(__file__).with_name("torture.py")
    result = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    kills, survived = result.stdout.split("| kills (SIGKILL) | ")[1].split(" |\n")[0].split(" | ")
    assert int(kills) >= KILLS and kills == survived
    assert result.stdout.endswith("| failures | 0 | |\n")
