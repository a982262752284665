"""The notebook's pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from roco_caption.data.images import ImageError, read_image
from roco_caption.decoder.word_maps import PIXELS, upsampled
from roco_caption.show.figures import BLUE, GREY, INK, ORANGE, DescribedFigure, brief, new_figure


def draw_image(axis: Axes, path: str, size: int = 320) -> None:
    """Draw an image file on an axis, `size` by `size` pixels, or say that it has no image."""
    axis.set_axis_off()
    try:
        axis.imshow(read_image(path, size))
    except ImageError:
        axis.text(0.5, 0.5, "cannot be decoded", ha="center", va="center", color=GREY)


def _write_below(axis: Axes, lines: Sequence[tuple[str, str]], width: int = 42) -> None:
    """Write texts below an image, each in its colour."""
    y = -0.03
    for text, color in lines:
        wrapped = textwrap.wrap(text, width) or ["(no words)"]
        wrapped = [*wrapped[:6], "…"] if len(wrapped) > 7 else wrapped
        axis.text(
            0, y, "\n".join(wrapped), transform=axis.transAxes, va="top", fontsize=9, color=color
        )
        y -= 0.058 * len(wrapped) + 0.025
    axis.text(0, y, " ", transform=axis.transAxes, va="top", fontsize=6)  # room before what follows


def sample_images(
    frame: pd.DataFrame, count: int = 6, seed: int = 0, note: str = ""
) -> DescribedFigure:
    """Show some images with their captions.

    Args:
        frame: DataFrame[id, image, caption].
        count: images shown.
        seed: of the choice.
        note: written above, such as that the images are synthetic.
    """
    chosen = frame.sample(min(count, len(frame)), random_state=seed)
    pairs = zip(chosen.image, chosen.caption, strict=True)
    figure = _image_grid([(image, [(caption, INK)]) for image, caption in pairs], note)
    captions = "; ".join(f"“{brief(caption)}”" for caption in chosen.caption)
    figure.alt = f"{len(chosen)} training images with their captions: {captions}."
    return figure


def _image_grid(
    cells: Sequence[tuple[str, list[tuple[str, str]]]],
    note: str = "",
    height: float = 4.6,
    columns: int = 3,
) -> DescribedFigure:
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    figure, axes = new_figure(rows, columns, 3.6 * columns, height * rows)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (image, lines) in zip(axes.flat, cells, strict=False):
        draw_image(axis, image)
        _write_below(axis, lines)
    if note:
        figure.suptitle(note, color=ORANGE, fontsize=11)
    return figure


def gallery(
    frame: pd.DataFrame,
    captions: pd.DataFrame,
    scores: Sequence[float],
    each: int = 3,
    note: str = "",
) -> DescribedFigure:
    """Show the best, typical and worst captions under their images, with the references.

    Args:
        frame: DataFrame[id, image, caption] of the test split.
        captions: DataFrame[id, reference, caption, log_probability] in the same order.
        scores: one an image; the higher, the better.
        each: images of a kind.
        note: written above, such as that the images are synthetic.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    middle = max(0, len(order) // 2 - each // 2)
    kinds = {"best": 0, "typical": middle, "worst": max(0, len(order) - each)}
    cells, told = [], []
    for kind, start in kinds.items():
        for i in order[start : start + each]:
            heading = f"{kind}: CIDEr {scores[i]:.2f}"
            caption, reference = captions.caption.iloc[i], frame.caption.iloc[i]
            lines = [(heading, GREY), (caption, BLUE), (f"reference: {reference}", INK)]
            cells.append((frame.image.iloc[i], lines))
            told.append(f"{heading}, “{brief(caption)}”, reference “{brief(reference)}”")
    figure = _image_grid(cells, note, height=5.2)
    figure.alt = f"{len(cells)} test images with generated captions. {'; '.join(told)}."
    return figure


def image_beside(
    image: str, caption: str, reference: str, note: str, others: pd.DataFrame, title: str = ""
) -> DescribedFigure:
    """Show an image with its caption, and beside it the training images nearest to it.

    Args:
        image: path of the image file.
        caption: what the model says.
        reference: the true caption, if known.
        note: on how the image is shown, if there is one.
        others: DataFrame[id, image, caption] of the nearest, nearest first.
        title: written above, such as that images are synthetic.
    """
    lines = [("this image", GREY), (caption, BLUE)]
    lines += [(f"reference: {reference}", INK)] * bool(reference) + [(note, GREY)] * bool(note)
    cells = [(image, lines)]
    for rank, row in enumerate(others.itertuples(), 1):
        cells.append((row.image, [(f"training image, nearest {rank}", GREY), (row.caption, INK)]))
    figure = _image_grid(cells, title, height=5.0, columns=2)  # two read well on a phone
    near = "; ".join(f"“{brief(text)}”" for text in others.caption)
    figure.alt = (
        f"An image with the generated caption “{brief(caption)}”"
        + f", reference “{brief(reference)}”" * bool(reference)
        + f", beside the nearest training images: {near}."
    )
    return figure


def caption_lengths(frames: Mapping[str, pd.DataFrame], max_words: int) -> DescribedFigure:
    """Show how long captions are, and how many words longer ones lose.

    Args:
        frames: {split: DataFrame[id, image, caption]}.
        max_words: words kept of a caption.
    """
    figure, axes = new_figure(1, 1, 7.5, 3)
    axis = axes[0, 0]
    lengths = {split: frame.caption.str.split().str.len() for split, frame in frames.items()}
    longest = int(np.percentile(np.concatenate(list(lengths.values())), 99.5)) + 1
    bins = np.linspace(0, longest, min(longest, 60) + 1)
    colors = dict(zip(lengths, (BLUE, ORANGE, GREY), strict=False))
    for split, values in lengths.items():
        label = f"{split}: {len(values):,}, median {values.median():.0f} words"
        axis.hist(
            values.clip(upper=longest), bins, density=True, histtype="step", linewidth=1.8,
            color=colors[split], label=label,
        )  # fmt: skip
    if max_words < longest:
        axis.axvline(max_words, color=INK, linestyle=":", label=f"MAX_WORDS = {max_words}")
    axis.set(xlabel="words in a caption", ylabel="share of captions")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    told = "; ".join(
        f"{split}: {len(values):,} captions, median {values.median():.0f} words, "
        f"{(values > max_words).mean():.0%} longer than {max_words}"
        for split, values in lengths.items()
    )
    figure.alt = f"Histogram of the captions' lengths. {told}."
    return figure


def training_curves(history: pd.DataFrame) -> DescribedFigure:
    """Show the loss of every epoch, and which epoch's weights were kept.

    Args:
        history: of `train`: `loss`, `val_loss` by epoch.
    """
    figure, axes = new_figure(1, 1, 7.5, 3)
    axis = axes[0, 0]
    axis.plot(history.index, history.loss, color=BLUE, marker=".", label="training (dropout on)")
    axis.plot(history.index, history.val_loss, color=ORANGE, marker=".", label="validation")
    best = history.val_loss.idxmin()
    axis.scatter(
        [best], [history.val_loss[best]], s=90, facecolors="none", edgecolors=INK, zorder=3
    )
    label = f"kept: epoch {best}, {history.val_loss[best]:.3f}"
    axis.annotate(
        label, (best, history.val_loss[best]), xytext=(0, 14), textcoords="offset points",
        ha="right", color=INK,
    )  # fmt: skip
    axis.set(xlabel="epoch", ylabel="loss (nats a word)")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.alt = (
        "Curves of the loss, in nats a word, by epoch. "
        + ". ".join(
            f"{name}: from {curve.iloc[0]:.3f} to {curve.iloc[-1]:.3f} after {len(curve)} epochs"
            for name, curve in (("Training", history.loss), ("Validation", history.val_loss))
        )
        + f". The weights of epoch {best} were kept, validation loss {history.val_loss[best]:.3f}."
    )
    return figure


FAINTLY = 0.25  # of the strongest word's evidence: less would hardly be seen, and gets no map

# What is said of no place in the image; a map for each would hide the others.
FUNCTION_WORDS = {
    "a", "an", "the", "of", "on", "in", "with", "by", "to", "from", "at", "for", "and", "or",
    "is", "are", "that", "which", "this", "as", "over", "into", "along", "through", "beside",
    "near", "keeping", "shows", "showing", "demonstrates", "demonstrating", "reveals", "seen",
    "visible", "consistent", "suggesting", "sided", "<unk>",
}  # fmt: skip


def evidence_maps(
    image: str, words: Sequence[str], weights: np.ndarray, note: str = "", panels: int = 12
) -> DescribedFigure:
    """Show which parts of the image speak for each word of a caption.

    Args:
        image: the image's file.
        words: the caption's; function words, and words that nothing in the image speaks for, get
            no map, and one that comes again no second one, which would be the same.
        weights: float (words, cells), as `evidence` returns them.
        note: written above, such as that the images are synthetic.
        panels: the image and the first words shown.
    """
    telling = [i for i, w in enumerate(words) if w not in FUNCTION_WORDS and w not in words[:i]]
    # one scale for all words, so that one that the image says little of stays pale
    top = max((float(weights[i].max()) for i in telling), default=0.0)
    shown = [i for i in telling if weights[i].max() > FAINTLY * top][: panels - 1]
    columns = min(6, len(shown) + 1)
    rows = -(-(len(shown) + 1) // columns)
    figure, axes = new_figure(rows, columns, 2.1 * columns, 2.4 * rows)
    for axis in axes.flat:
        axis.set_axis_off()
    draw_image(axes.flat[0], image, PIXELS)
    axes.flat[0].set_title("the image", fontsize=10, color=GREY)
    for axis, i in zip(axes.flat[1:], shown, strict=False):
        draw_image(axis, image, PIXELS)
        heat = np.minimum(upsampled(weights[i]) / top, 1)
        axis.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.7 * heat)
        axis.set_title(words[i], fontsize=11, color=INK)
    if note:
        figure.suptitle(note, color=ORANGE, fontsize=11)
    told = "; ".join(f"“{words[i]}” most {_place(weights[i])}" for i in shown)
    figure.alt = f"Heat maps of what in an image speaks for each word: {told or 'for none'}."
    return figure


def _place(weights: np.ndarray) -> str:
    """Say in which ninth of the image the largest weight is."""
    side = round(len(weights) ** 0.5)
    row, column = (int(3 * (k + 0.5) / side) for k in divmod(int(weights.argmax()), side))
    height = ("at the top", "half-way down", "at the bottom")[row]
    return f"{height}{(' left', '', ' right')[column]}"
