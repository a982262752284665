"""The notebook's figures: images with captions, caption lengths, losses, and heat maps.

`image` is as for `read_image`, `frame` a DataFrame[id, image, caption], `note` a line above all.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from roco_caption.data.images import ImageError, read_image
from roco_caption.decoder.word_maps import PIXELS, upsampled
from roco_caption.show.figures import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    RED,
    DescribedFigure,
    brief,
    new_figure,
    plain,
)  # fmt: skip
from roco_caption.text.words import JOINER, clean

Line = tuple[str, str]  # a text below an image, and its colour
SHOWN = 3  # references below an image that has more
WIDTH, LINES = 42, 7  # of a text below an image, letters and at most so many lines
MIN_SUPPORT = 0.25  # share of the strongest word's support: weaker maps would hardly be visible
# No part of an image supports these words; maps for them would crowd out the others.
FUNCTION_WORDS = {
    "a", "an", "the", "of", "on", "in", "with", "by", "to", "from", "at", "for", "and", "or",
    "is", "are", "that", "which", "this", "as", "over", "into", "along", "through", "beside",
    "near", "keeping", "shows", "showing", "demonstrates", "demonstrating", "reveals", "seen",
    "visible", "consistent", "suggesting", "sided", "<unk>", "'s", "’s",
}  # fmt: skip


def sample_images(frame: pd.DataFrame, seed: int = 0, note: str = "") -> DescribedFigure:
    """Show six random training images with their captions."""
    sample = frame.sample(min(6, len(frame)), random_state=seed)
    cells = [(row.image, [(row.caption, INK)]) for row in sample.itertuples()]
    return _image_grid(f"{len(cells)} training images with their captions.", cells, note)


def caption_under_image(
    image: str, caption: str, reference: str | Sequence[str] = "", note: str = ""
) -> DescribedFigure:
    """Show one image with its generated caption in blue and the reference below it."""
    lines = _caption_lines("generated caption", caption, reference)
    return _image_grid("An image with its generated caption.", [(image, lines)], note, 5.2)


def gallery(
    frame: pd.DataFrame, captions: pd.DataFrame, scores: np.ndarray, each: int = 3, note: str = "",
    right: pd.DataFrame | None = None,
) -> DescribedFigure:  # fmt: skip
    """Show `each` of the best, typical and worst captions under their images, with the references.

    `frame` is that of the test images; `captions` has a column `caption` in its order; `scores` is
    CIDEr, float (n,). Where the truth is known, `right` of `claims_right` comes first in the order,
    and is shown.
    """
    right = pd.DataFrame(index=range(len(scores))) if right is None else right
    order = np.lexsort((-scores, -right.sum(axis=1)))
    middle = max(0, len(order) // 2 - each // 2)
    groups: dict[int, str] = {}  # of a few images, each is shown once
    for group, start in (("best", 0), ("typical", middle), ("worst", max(0, len(order) - each))):
        for i in order[start : start + each]:
            groups.setdefault(i, f"{group}: CIDEr {scores[i]:.2f}")
    references = list(frame.references if "references" in frame else frame.caption)
    cells = []
    for i, group in groups.items():
        claims = right.iloc[i].to_dict()
        lines = _caption_lines(group, captions.caption.iloc[i], references[i], claims)
        cells.append((frame.image.iloc[i], lines))
    return _image_grid(f"{len(cells)} test images with generated captions.", cells, note, 5.2)


def image_beside(
    image: Any,
    caption: str,
    reference: str | Sequence[str],
    rendering: str,
    nearest: pd.DataFrame,
    note: str = "",
) -> DescribedFigure:
    """Show an image with its generated caption, beside the `nearest` training images, if any.

    Two columns fit a phone. `rendering` says how a DICOM file's values are shown.
    """
    lines = _caption_lines("this image", caption, reference)
    cells = [(image, [*lines, *([(rendering, GREY)] if rendering else [])])]
    for rank, row in enumerate(nearest.itertuples(), 1):
        cells.append((row.image, [(f"training image, nearest {rank}", GREY), (row.caption, INK)]))
    beside = ", beside the nearest training images" if len(nearest) else ""
    return _image_grid(f"An image with its generated caption{beside}.", cells, note, 5.0, columns=2)


def caption_lengths(frames: Mapping[str, pd.DataFrame], max_words: int) -> DescribedFigure:
    """Show caption lengths per split; a dotted line marks where longer ones are truncated.

    Words are the tokenizer's, signs included, as `max_words` counts them.
    """
    figure, axis = _chart("words per caption", "share of captions")
    used = {split: frame.caption for split, frame in frames.items() if len(frame)}
    lengths = {split: captions.map(clean).map(len) for split, captions in used.items()}
    longest = int(np.percentile(np.concatenate(list(lengths.values())), 99.5)) + 1
    descriptions = []
    for (split, words), color in zip(lengths.items(), (BLUE, ORANGE, GREY), strict=False):
        median = f"median {words.median():.0f} words"
        axis.hist(
            words.clip(upper=longest), bins=min(longest, 60), range=(0, longest), density=True,
            histtype="step", linewidth=1.8, color=color, label=f"{split}: {len(words):,}, {median}",
        )  # fmt: skip
        share = f"{(words > max_words).mean():.0%} longer than {max_words}"
        descriptions.append(f"{split}: {len(words):,} captions, {median}, {share}")
    if max_words < longest:
        axis.axvline(max_words, color=INK, linestyle=":", label=f"MAX_WORDS = {max_words}")
    axis.legend(frameon=False)
    figure.alt = f"Histogram of caption lengths. {'; '.join(descriptions)}."
    return figure


def training_curves(history: pd.DataFrame) -> DescribedFigure:
    """Show what `train` returned: the losses per epoch, and which epoch's weights were kept."""
    figure, axis = _chart("epoch", "loss (nats per word)")
    axis.plot(history.index, history.loss, color=BLUE, marker=".", label="training (with dropout)")
    axis.plot(history.index, history.val_loss, color=ORANGE, marker=".", label="validation")
    best = history.val_loss.idxmin()
    lowest = history.val_loss[best]
    label = f"kept: epoch {best}, {lowest:.3f}"
    axis.scatter([best], [lowest], 90, "none", edgecolors=INK, zorder=3, label=label)
    axis.set_ylim(bottom=0)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))  # also with one epoch
    axis.legend(frameon=False)
    first, last = history.iloc[0], history.iloc[-1]
    figure.alt = (
        f"Loss in nats per word over {len(history)} epoch{'s' if len(history) > 1 else ''}. "
        f"Training: from {first.loss:.3f} to {last.loss:.3f}. "
        f"Validation: from {first.val_loss:.3f} to {last.val_loss:.3f}. "
        f"The weights of epoch {best} were kept, validation loss {lowest:.3f}."
    )
    return figure


def word_map_figure(
    image: Any, words: Sequence[str], weights: np.ndarray, note: str = "", panels: int = 12
) -> DescribedFigure:
    """Show which parts of an image support each word of a caption.

    A word has no map if it is a function word, a repetition, or hardly supported by the image.
    `weights` are those of `word_maps`, float (words, cells); at most `panels` are shown in all.
    """
    words = [plain(word.strip(JOINER)) for word in words]
    content = [i for i, w in enumerate(words) if w not in FUNCTION_WORDS and w not in words[:i]]
    # one scale for all words, so that a weakly supported one stays pale
    top = max((float(weights[i].max()) for i in content), default=0.0)
    mapped = [i for i in content if weights[i].max() > MIN_SUPPORT * top][: panels - 1]
    figure, axes = new_figure(len(mapped) + 1, 6, 2.1, 2.4, note)
    draw_image(axes[0], image, PIXELS)
    axes[0].set_title("the image", fontsize=10, color=GREY)
    for axis, i in zip(axes[1:], mapped, strict=False):
        draw_image(axis, image, PIXELS)
        heat = np.minimum(upsampled(weights[i]) / top, 1)
        axis.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.7 * heat)
        axis.set_title(words[i], fontsize=11, color=INK, parse_math=False)
    places = ", ".join(f"“{words[i]}” {_place(weights[i])}" for i in mapped)
    figure.alt = f"Heat maps: where the image supports each word most. {places or 'No maps'}."
    return figure


def draw_image(axis: Axes, image: Any, size: int = 320) -> None:
    """Draw an image at `size` by `size` pixels, or write that it cannot be decoded."""
    axis.set_axis_off()
    try:
        axis.imshow(read_image(image, size))
    except ImageError:
        axis.text(0.5, 0.5, "cannot be decoded", ha="center", va="center", color=GREY)


def _chart(xlabel: str, ylabel: str) -> tuple[DescribedFigure, Axes]:
    figure, (axis,) = new_figure(1, 1, 7.5, 3)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _image_grid(
    alt: str, cells: list[tuple[Any, list[Line]]], note: str, height: float = 4.6, columns: int = 3
) -> DescribedFigure:
    """Return images with texts below them; the texts are added to `alt`."""
    figure, axes = new_figure(len(cells), columns, 3.6, height, note)
    for number, (axis, (image, lines)) in enumerate(zip(axes, cells, strict=True), 1):
        draw_image(axis, image)
        y = -5.0  # points below the image
        for text, color in lines:
            wrapped = textwrap.wrap(plain(text), WIDTH, max_lines=LINES, placeholder=" …")
            axis.annotate(
                "\n".join(wrapped), (0, 0), (0, y), xycoords="axes fraction", va="top", fontsize=9,
                textcoords="offset points", color=color, parse_math=False,  # for a caption with "$"
            )  # fmt: skip
            y -= 12 * len(wrapped) + 3  # a line is 11 to 12 points high
        alt += f" Image {number}: {', '.join(f'“{brief(text)}”' for text, _ in lines)}."
    figure.alt = alt
    return figure


def _caption_lines(
    heading: str, caption: str, reference: str | Sequence[str], right: Mapping[Any, bool] = {}
) -> list[Line]:
    references = [reference] if isinstance(reference, str) else reference[:SHOWN]
    letters = WIDTH * LINES // max(1, len(references))  # they share the lines of one
    texts = [plain(f"reference: {text}") for text in references if text]
    lines = [(textwrap.shorten(text, letters, placeholder=" …"), INK) for text in texts]
    claims = [
        (f"{word}: {', '.join(names)}", color)
        for word, color in (("right", GREY), ("wrong", RED))
        if (names := [name for name in right if right[name] == (word == "right")])
    ]
    return [(heading, GREY), (caption or "(no words)", BLUE), *claims, *lines]


def _place(weights: np.ndarray) -> str:
    """Return the ninth of the image that has the largest weight, such as "top left"."""
    side = round(len(weights) ** 0.5)
    row, column = (int(3 * (k + 0.5) / side) for k in divmod(int(weights.argmax()), side))
    return f"{('top', 'middle', 'bottom')[row]} {('left', 'centre', 'right')[column]}"
