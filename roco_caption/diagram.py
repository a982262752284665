"""Draws a model: its layers, what they take, and their shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from roco_caption.figures import BLUE, GREY, INK, DescribedFigure, new_figure


def model_diagram(model: Any) -> DescribedFigure:
    """Draw a model's layers from its inputs (above) to its output (below), with their shapes.

    Args:
        model: a `keras.Model` made by the functional API.
    """
    layers = {layer["name"]: layer for layer in model.get_config()["layers"]}
    sources = {name: _sources(layer["inbound_nodes"]) for name, layer in layers.items()}
    takers = {name: [taker for taker in layers if name in sources[taker]] for name in layers}
    height: dict[str, int] = {}  # above the output; a layer stands right above its first taker
    for name in reversed(layers):  # they are listed in the order of data flow
        height[name] = 1 + max((height[taker] for taker in takers[name]), default=-1)
    top = max(height.values())
    widest = max(Counter(height.values()).values())
    figure, axes = new_figure(1, 1, max(7.5, 3.4 * widest), 0.62 * (top + 1))
    place: dict[str, tuple[float, float]] = {}
    for level in range(top + 1):
        row = [name for name in layers if height[name] == level]
        middle = {n: float(np.mean([place[t][0] for t in takers[n]] or [0.5])) for n in row}
        row.sort(key=middle.__getitem__)
        for i, name in enumerate(row):
            x = middle[name] if len(row) == 1 else (i + 0.5) / len(row)
            place[name] = (x, float(level))
            _draw_layer(axes[0, 0], model.get_layer(name), place[name])
    for name, names in sources.items():
        for source in names:
            bend = 0.45 if height[source] - height[name] > 1 else 0  # round the layers between
            arrow = {
                "arrowstyle": "->", "color": GREY, "shrinkA": 11, "shrinkB": 11,
                "connectionstyle": f"arc3,rad={bend}",
            }  # fmt: skip
            axes[0, 0].annotate("", place[name], place[source], arrowprops=arrow, zorder=1)
    axes[0, 0].set(xlim=(0, 1), ylim=(-0.5, top + 0.5))
    axes[0, 0].set_axis_off()
    told = "; ".join(
        f"{name} takes {' and '.join(names)}" if names else f"{name} is an input"
        for name, names in sources.items()
    )
    figure.alt = f"Diagram of the layers of {model.name}. {told}."
    return figure


def _sources(nodes: Any) -> list[str]:
    """Return the names of the layers whose outputs a layer's configuration names."""
    if isinstance(nodes, Mapping):
        history = nodes.get("keras_history")
        return [history[0]] if history else _sources(list(nodes.values()))
    if isinstance(nodes, list | tuple):
        return list(dict.fromkeys(name for node in nodes for name in _sources(node)))
    return []


def _draw_layer(axis: Axes, layer: Any, place: tuple[float, float]) -> None:
    shape = str(tuple(layer.output.shape))
    box = {"boxstyle": "round,pad=0.35", "facecolor": "#eef3f8", "edgecolor": BLUE}
    text = f"{layer.name}  ·  {type(layer).__name__}  {shape}"
    axis.text(*place, text, ha="center", va="center", fontsize=9, color=INK, bbox=box, zorder=3)
