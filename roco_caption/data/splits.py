"""Holds out images for test and validation where the data do not say which."""

import hashlib

import pandas as pd

from roco_caption.core.errors import UserError
from roco_caption.data.cases import cases_of

HELD_OUT = 0.1  # share of the images, where there is no test or validation split


def complete_splits(rows: pd.DataFrame, seed: int, unit: str = "patient") -> pd.Series:
    """Return each row's split, after holding out images for test and validation if these are empty.

    Whole patients are held out, about a tenth of the training images for each, in the order of a
    hash of the patient and the seed, so that new patients move few of the others. `unit` is what
    cases are called. Raises a UserError if too few are left.
    """
    used = rows[rows.reason == ""].drop_duplicates("file")
    split = rows.split.where(rows.split != "", "train")
    missing = [name for name in ("test", "validation") if name not in set(split[used.index])]
    train = used[split[used.index] == "train"]
    cases = train["case"] if "case" in used else cases_of(used.id.astype(str))[train.index]
    if "case" not in used and cases.nunique() <= len(missing):  # then they are no patients
        cases = train.id
    unit = "image" if "case" not in used and cases.is_unique else unit
    sizes = cases.value_counts()
    if len(sizes) <= len(missing):
        raise UserError(
            f"{len(sizes)} {unit}s are too few to train on and to hold out images for test and "
            f"validation. Give {len(missing) + 1} at least, or a column `split`; or rename the "
            "column of patients if it names something else."
        )
    if not missing:
        return split
    # cases of many images are rather trained on
    hashes = {case: hashlib.sha256(f"{seed} {case}".encode()).hexdigest() for case in sizes.index}
    order = sorted(hashes, key=lambda case: (sizes[case] > HELD_OUT * len(train), hashes[case]))
    middle = (sizes[order].cumsum() - sizes[order] / 2) / len(train)
    taken = 0
    for i, name in enumerate(missing):
        count = max(taken + 1, int((middle < HELD_OUT * (i + 1)).sum()))  # one at least for each
        count = min(count, len(order) - len(missing) + i)
        held = set(train.file[cases.isin(order[taken:count])])
        split[rows.file.isin(held)] = name
        taken = count
    counts = split[used.index].value_counts()
    numbers = ", ".join(f"{counts[name]:,} {name}" for name in ("train", *reversed(missing)))
    print(f"Split by {unit}, SEED = {seed}: {numbers} images.")
    if unit == "image":
        print("NOTE: nothing names the patients, so one may be in training and in test. "
              "COLUMNS = 'patient=…' names their column.")  # fmt: skip
    return split
