"""Cases: which images are of one patient or article, so that they stay in one split."""

import pandas as pd

IMAGES_PER_CASE = 10  # if id prefixes average more images than this, they are not case ids
NEARLY_ALL = 0.9  # of the prefixes have a digit if they are case ids; the others are no case's
MIN_FOLDERS = 20  # fewer are rather kinds of images, years or parts of a data set than patients
SESSIONS = 5  # folders in a patient's folder, at most on average;
MANY, MIN_PATIENTS = 10, 5  # if they are called sessions, and are in so many folders at least
SESSION = r"(?i)(?:s|se|ses|session|st|study|series|visit)[-_ ]?\d+"
BEFORE_DASH = (  # but not of T1, T2 or b-values
    r"^(?P<folder>(?:.*/)?)(?P<name>(?!(?:[Tt][12]|[Bb](?:0|50|[1-9]\d*00))-)[^\W\d_]+\d+)-\d+$"
)
PATIENT = r"(?i)(?:patients?|pat|pt|subjects?|sub|subj|proband|person|case)[-_ ]?\d+"
DATE = r"(?:19|20)\d\d[-_.]?\d\d[-_.]?\d\d"


def cases_of(ids: pd.Series) -> pd.Series:
    """Return the patient or article of each image id: its name before the first `_`, with a digit.

    Where none has `_`, it is what is before the `-` of names such as `P17-2`. If those are not case
    ids, as in `ROCO_00001` or `CT_1`, each image is its own case.
    """
    parts = ids.str.extract(r"^(?P<folder>(?:.*/)?)(?P<name>[^/_]*)_")
    if parts["name"].isna().all():
        parts = ids.str.extract(BEFORE_DASH)
    known = parts.dropna()
    folders = known.groupby("name").folder.nunique().mean()
    # a name in many folders is a slice's number in a patient's folder
    cases = parts.folder + parts["name"] if folders > 3 else parts["name"]
    numbered = parts["name"].str.contains(r"\d", na=False)
    if numbered.sum() < NEARLY_ALL * max(1, len(known)):
        return ids
    prefixes, cases = cases[numbered].nunique(), cases.where(numbered, ids)
    several = 1 < prefixes >= ids[numbered].nunique() / IMAGES_PER_CASE
    dated = parts["name"][numbered].str.fullmatch(rf"{DATE}|(?:19|20)\d\d").mean() > 0.5
    return cases if several or (prefixes >= MIN_FOLDERS and not dated) else ids


def spelled(patients: pd.Series) -> pd.Series:
    """Return patients (str or missing) in one spelling: 17, 017 and 17.0 are one."""
    same = patients.str.split().str.join(" ").str.casefold()
    return same.str.replace(r"^0*(\d+)([.,]0+)?$", r"\1", regex=True)


def cases_in(frame: pd.DataFrame) -> pd.Series:
    """Return the patient or article of each image: what the table says, else what its id says."""
    return frame["case"].fillna(frame.id) if "case" in frame else cases_of(frame.id)


def folder_cases(rows: pd.DataFrame) -> pd.Series | None:
    """Return each row's folder where folders may be patients, else None.

    So it is if ids name no cases, and there are at least `MIN_FOLDERS`, most of them with a digit,
    none in several of the given splits; of nested ones, as `p1/study2/`, the outer. Or fewer, such
    as `patient1/`.
    """
    used = rows[rows.reason == ""].drop_duplicates("file")
    cases = cases_of(used.id.astype(str))
    named = cases.duplicated().any() and not cases.str.contains("/").any()
    if used.empty or (named and cases.str.fullmatch(DATE).mean() <= 0.5):
        return None
    folders = _patients_folders(used.file, used.split)
    if folders is None or folders.is_unique or folders.value_counts(normalize=True).max() > 0.5:
        return None
    print("NOTE: no known column names the patients, so images of one folder, such as "
          f"{folders.iloc[0]}/, count as one patient's. COLUMNS = 'patient=…' names their "
          "column.")  # fmt: skip
    case = dict(zip(used.file, folders.reindex(used.index).fillna(used.file), strict=True))
    return rows.file.map(case).fillna(rows.file)


def row_cases(rows: pd.DataFrame) -> pd.Series | None:
    """Return the first image of each one's row where rows name several images, else None.

    Such are the views of one examination, if they are few. Not if ids name cases, or a row is in
    several of the given splits.
    """
    used = rows[rows.reason == ""]
    images = used.groupby("row").file.nunique()
    few = len(images) and images.max() > 1 and images[images > 1].mean() <= IMAGES_PER_CASE
    if not few or (used.groupby("row").split.nunique() > 1).any():
        return None
    if cases_of(used.drop_duplicates("file").id).duplicated().any():
        return None
    print("NOTE: no known column names the patients, so images of one row count as one patient's. "
          "COLUMNS = 'patient=…' names their column.")  # fmt: skip
    first = used.groupby("row").file.min()  # unlike a row's number it stays if rows are added
    return rows.groupby("file").row.transform("first").map(first).fillna(rows.file)


def _patients_folders(files: pd.Series, splits: pd.Series) -> pd.Series | None:
    """Return the folder of each file in the level of folders that may be patients, or None."""
    parts = files.str.split("/").str[:-1]
    above = outer = 0  # folders of the level above; those that may be patients too

    def crossing(folders: pd.Series) -> bool:
        return bool((splits[folders.index].groupby(folders).nunique() > 1).any())

    for depth in range(1, int(parts.map(len).max()) + 1):
        deep = parts[parts.map(len) >= depth]
        folders = deep.str[:depth].str.join("/")
        names = folders.drop_duplicates().str.rpartition("/")[2]
        numbered = names.str.contains(r"\d").mean() > 0.5 >= names.str.fullmatch(DATE).mean()
        called = names.str.fullmatch(SESSION).mean() > 0.5 and above >= MIN_PATIENTS
        numerous = numbered and len(names) >= MIN_FOLDERS
        if (called and len(names) <= MANY * above) or (numerous and len(names) <= SESSIONS * outer):
            dated = depth > 2 and deep.str[depth - 2].str.fullmatch(DATE).mean() > 0.5
            return deep.str[: depth - 2 if dated else depth - 1].str.join("/")
        if numerous and not crossing(folders):
            # a patient's folder may be below several others, as of kinds or of dates
            below = folders.str.rpartition("/")[2]
            repeated = MIN_FOLDERS <= below.nunique() < len(names) and not crossing(below)
            return below if repeated else folders
        if len(names) >= 3 and names.str.fullmatch(PATIENT).mean() > NEARLY_ALL:
            return None if crossing(folders) else folders
        above = len(names)
        enough = MIN_FOLDERS // 2 if numbered else MIN_FOLDERS
        outer = above if above >= enough and not crossing(folders) else 0
    return None
