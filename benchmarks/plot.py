"""Draws what `make benchmark` printed: `python -m benchmarks.plot figure.png < lines.jsonl`.

Several runs may be given one after the other; each stage is then drawn at its median.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure

from roco_caption.show.figures import BLUE, GREY, INK, ORANGE


def _rounded(value: float) -> str:
    return f"{float(f'{value:.3g}'):,.10g}"


def main() -> None:
    """Read JSON lines, and write the picture of how many times the classic loop each stage is."""
    stages: dict[str, list[dict]] = defaultdict(list)
    for line in sys.stdin:
        if line.startswith("{"):
            result = json.loads(line)
            stages[result["name"]].append(result)
    figure = Figure(figsize=(8, 0.6 * len(stages) + 1.2), layout="constrained")
    axis = figure.add_subplot()
    for y, (name, results) in enumerate(stages.items()):
        times = statistics.median(result["ratio"] for result in results)
        limit = statistics.median(result["limit"] / result["classic"] for result in results)
        rate = statistics.median(result["ours"] for result in results)
        axis.barh(y, times - 1, left=1, color=BLUE, height=0.3)
        axis.plot([limit, limit], [y - 0.2, y + 0.2], color=ORANGE, linewidth=2)
        said = f"{name}: {_rounded(times)} times, {_rounded(rate)} {results[0]['unit']}"
        axis.text(1, y - 0.25, said, va="bottom", color=INK, fontsize=10)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.set_yticks([])
    axis.invert_yaxis()
    axis.set_xlabel(
        "times the classic loop (bars); the line is what the machine's arithmetic allows",
        color=GREY,
    )
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    figure.savefig(sys.argv[1], dpi=150)


if __name__ == "__main__":
    main()
