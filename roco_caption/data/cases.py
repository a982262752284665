"""Cases: which images are of one patient or article, so that they stay in one split."""

import pandas as pd

IMAGES_PER_CASE = 10  # if id prefixes average more images than this, they are not case ids
MIN_FOLDERS = 20  # fewer are rather kinds of images, years or parts of a data set than patients
SESSIONS = 5  # folders in a patient's folder, at most on average


def cases_of(ids: pd.Series) -> pd.Series:
    """Return the patient or article of each image id: its name before the first `_`, with a digit.

    If those are not case ids, as in `ROCO_00001` or `CT_1`, each image is its own case.
    """
    parts = ids.str.extract(r"^(?P<folder>(?:.*/)?)(?P<name>[^/_]*)_")
    known = parts.dropna()
    folders = known.groupby("name").folder.nunique().mean()
    # a name in many folders is a slice's number in a patient's folder
    cases = (parts.folder + parts["name"] if folders > 3 else parts["name"]).fillna(ids)
    informative = 1 < cases.nunique() >= ids.nunique() / IMAGES_PER_CASE
    numbered = len(known) and known["name"].str.contains(r"\d").all()
    return cases if informative and numbered else ids


def cases_in(frame: pd.DataFrame) -> pd.Series:
    """Return the patient or article of each image: what the table says, else what its id says."""
    return frame["case"].fillna(frame.id) if "case" in frame else cases_of(frame.id)


def folder_cases(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """Return {"case": each image's folder} where folders may be patients, else {}.

    So it is if ids name no cases, and there are at least `MIN_FOLDERS`, most of them with a digit,
    none in several of the given splits; of nested ones, as `p1/study2/`, the outer.
    """
    used = rows[rows.reason == ""]
    cases = cases_of(used.id.astype(str)[~used.file.duplicated()])
    if used.empty or (cases.duplicated().any() and not cases.str.contains("/").any()):
        return {}
    parts = used.file.str.split("/").str[:-1]
    outer = 0
    for depth in range(1, int(parts.map(len).max()) + 1):
        deep = parts[parts.map(len) >= depth]
        folders = deep.str[:depth].str.join("/")
        names = folders.drop_duplicates().str.rpartition("/")[2]
        numbered = names.str.contains(r"\d").mean() > 0.5
        if len(names) < MIN_FOLDERS or not numbered:
            outer = len(names) if numbered and 2 * len(names) >= MIN_FOLDERS else 0
            continue
        if len(names) <= SESSIONS * outer:  # they are sessions of patients
            folders = deep.str[: depth - 1].str.join("/")
        shared = used.split[folders.index].groupby(folders).nunique() > 1
        if folders.is_unique or shared.any():
            return {}
        print("NOTE: nothing names the patients, so images of one folder, such as "
              f"{folders.iloc[0]}/, count as one patient's. COLUMNS = 'patient=…' names their "
              "column.")  # fmt: skip
        return {"case": folders.reindex(rows.index).fillna(rows.file)}
    return {}
