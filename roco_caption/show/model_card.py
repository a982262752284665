"""Writes a model card beside a captioner, from the files of its run."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from roco_caption import __version__
from roco_caption.core.errors import UserError
from roco_caption.core.files import read_json, write_text
from roco_caption.search.bundle import BUNDLE

PHANTOM_LICENCE = "Phantoms: synthetic radiology images, drawn by roco_caption (MIT)."
ROCO_LICENCE = """\
ROCO, the radiology part of Kaggle's `virajbagal/roco-dataset` (Pelka et al. 2018, doi
10.1007/978-3-030-01364-6_20). Its Kaggle page says CC0, but each image keeps the licence of the
article that it comes from (CC BY, CC BY-NC, CC BY-NC-ND and others, in `licences.txt`)."""
USE = """\
## Intended use

Research and teaching: how captions are learned from images, and how far they can be trusted.
**Not for clinical use**: not for diagnosis, reports, triage or any decision about a patient.

## Limits

- A small decoder learned the captions from figure legends. They can be fluent and wrong, including
  side, numbers and negation. A high probability does not mean that a caption is right.
- If the systems that see another image, or none, score nearly as well, the captions hardly depend
  on the image.
- The model is untested on images from other sources, devices or patient groups."""
SYNTHETIC_LIMIT = """
- It was trained only on synthetic images: its captions of real images are meaningless."""


def write_model_card(
    folder: str | os.PathLike, *, data: str, counts: pd.DataFrame, synthetic: bool = False
) -> Path:
    """Write `model_card.md` into a run's folder and return its path.

    `data` is as in `Source.name`, `counts` of images per split as `read_dataset` returns them.
    UserError if `captioner.json`, `history.csv` or `scores.csv` is missing or damaged.
    """
    folder = Path(folder)
    bundle = read_json(folder / BUNDLE)
    history, scores = (_read_table(folder / name) for name in ("history.csv", "scores.csv"))
    encoder, best = bundle["encoder"], history.val_loss.idxmin()
    licence = f"`{data}`, provided by the user of this run, who must state its licence."
    if synthetic or data == "roco":
        licence = PHANTOM_LICENCE if synthetic else ROCO_LICENCE
    table = pd.DataFrame(index=scores.index)
    for name in ("CIDEr", "ROUGE-L", "BLEU-1", "BLEU-4"):
        rows = scores[[name, f"{name}_low", f"{name}_high"]].to_numpy()
        table[name] = ["{:.3f} [{:.3f}, {:.3f}]".format(*row) for row in rows]
    table["p"] = ["" if pd.isna(p) else f"{p:.3f}" for p in scores["p_vs_first"]]
    parts = [
        "# Model card: captions for radiology images",
        f"Written by roco_caption {__version__} from the files of the run in this folder.",
        "## Model",
        "- Decoder: Embedding + LSTM, merged with the image after the LSTM; "
        f"{bundle['sizes']['vocab_size']:,} words, trained for {len(history)} epochs, weights of "
        f"epoch {best} kept (validation loss {history.val_loss[best]:.3f} nats per word).\n"
        f"- Encoder: {encoder['name']}, {encoder['layer']}, weights {encoder['weights']}.\n"
        f"- Search: beam width {bundle['search']['beams']}.",
        "## Data and licence",
        licence,
        _markdown(counts.rename_axis("split")),
        "## Scores on the test split",
        "Each with its 95 % bootstrap interval; `p` tests CIDEr against this model's.",
        _markdown(table),
        USE + (SYNTHETIC_LIMIT if synthetic else ""),
    ]
    write_text(folder / "model_card.md", "\n\n".join(parts) + "\n")
    return folder / "model_card.md"


def _read_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, index_col=0)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(
            f"{path} is missing or damaged ({type(error).__name__}). Run the notebook's cells that "
            "train and score again."
        ) from error


def _markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown; pandas' `to_markdown` needs another package."""
    rows = [[table.index.name, *table], ["---"] * (table.shape[1] + 1)]
    rows += [[name, *row] for name, row in zip(table.index, table.to_numpy(), strict=True)]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)
