"""Writes a model card beside a captioner, from its run's own figures."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from roco_caption import __version__
from roco_caption.core.errors import UserError
from roco_caption.core.files import read_json, write_text
from roco_caption.search.bundle import BUNDLE

CARD = "model_card.md"
SHOWN = ("CIDEr", "ROUGE-L", "BLEU-1", "BLEU-4")

PHANTOMS = (
    "Phantoms: synthetic radiographs, CT, MR and ultrasound images drawn by roco_caption (MIT)."
)
ROCO = """ROCO, the radiology part of Kaggle's `virajbagal/roco-dataset` (Pelka et al. 2018, doi
10.1007/978-3-030-01364-6_20). Its Kaggle page says CC0, but the images carry the licences of the
articles that they come from (CC BY, CC BY-NC, CC BY-NC-ND and others, in `licences.txt`)."""
OTHER = "`{name}`, brought by the user of this run: its licence is the user's to state."

USE = """\
## Intended use

Research and teaching: how captions are learned from images, and how far they can be trusted.
**Not for clinical use**: not for diagnosis, reports, triage or any decision about a patient.

## Limits

- Captions are what a small decoder learned from figure legends. They can be fluent and wrong, also
  in side, number and negation, and a caption's probability does not say that it is right.
- What the captions owe to the image is the distance to the systems above that see another image or
  none. If it is small, they hardly depend on the image.
- Nothing is known of images from other sources, devices or patient groups than the data's."""
SYNTHETIC = "- It was trained on synthetic images alone: of real ones its captions mean nothing."


def write_model_card(
    folder: str | os.PathLike, *, data: str, counts: pd.DataFrame, synthetic: bool = False
) -> Path:
    """Write `model_card.md` into a run's folder.

    Args:
        folder: of the run, with `captioner.json`, `history.csv` and `scores.csv`.
        data: the data set's name, as in `Source.name`; "roco" is ROCO.
        counts: of `read_dataset`: one row a split, how many images are used and left out.
        synthetic: whether the data are phantoms.

    Returns:
        The card's path.

    Raises:
        UserError: a file of the run is missing or damaged.
    """
    folder = Path(folder)
    bundle = read_json(folder / BUNDLE)
    history, scores = (_read_table(folder / name) for name in ("history.csv", "scores.csv"))
    encoder, sizes = bundle["encoder"], bundle["sizes"]
    best = history.val_loss.idxmin()
    licence = PHANTOMS if synthetic else ROCO if data == "roco" else OTHER.format(name=data)
    parts = [
        "# Model card: captions for radiology images",
        f"Written by roco_caption {__version__} from the figures of the run in this folder.",
        "## Model",
        "- Decoder: Embedding + LSTM, merged with the image after the LSTM; "
        f"{sizes['vocab_size']:,} words, trained for {len(history)} epochs, kept from epoch {best}"
        f" (validation loss {history.val_loss[best]:.3f} nats a word).\n"
        f"- Encoder: {encoder['name']}, {encoder['layer']}, weights {encoder['weights']}.\n"
        f"- Search: {bundle['search']['beams']} beams.",
        "## Data and licence",
        licence,
        _markdown(counts.rename_axis("split").astype(str)),
        "## Scores on the test split",
        "Each with its 95 % bootstrap interval; `p` tests CIDEr against this model's.",
        _markdown(_shown(scores)),
        USE + (f"\n{SYNTHETIC}" if synthetic else ""),
    ]
    write_text(folder / CARD, "\n\n".join(parts) + "\n")
    return folder / CARD


def _read_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, index_col=0)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(
            f"{path} is missing or damaged ({type(error).__name__}). Run the notebook's cells that "
            "train and score again."
        ) from error


def _shown(scores: pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame(index=scores.index)
    for name in SHOWN:
        ends = zip(*(scores[f"{name}{end}"] for end in ("", "_low", "_high")), strict=True)
        table[name] = [f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in ends]
    table["p"] = [f"{p:.3f}" if p == p else "" for p in scores["p_vs_first"]]
    return table


def _markdown(table: pd.DataFrame) -> str:
    """Return a table of texts in Markdown; pandas' own wants another package."""
    rows = [[str(table.index.name or ""), *map(str, table)], ["---"] * (table.shape[1] + 1)]
    rows += [[str(name), *cells] for name, cells in zip(table.index, table.to_numpy(), strict=True)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
