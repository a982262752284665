"""Write a fork's address where readers need it: `make publish REPOSITORY=owner/name`.

The badges of README.md and of the notebook's first cell, and the notebook's REPOSITORY, which an
uploaded notebook clones. With KAGGLE=name also the `id` in kernel-metadata.json. Running it again
with another address replaces the first.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
NOTEBOOK = "notebooks/roco_captioning.ipynb"
METADATA = "notebooks/kernel-metadata.json"
NAME = r"(?a:\w[\w-]*/\w[\w.-]*)"
BADGES = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{page})\n"
    "[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]"
    "(https://kaggle.com/kernels/welcome?src=https://github.com/{page})\n"
)
BADGE = r"\[!\[Open in (?:Colab|Kaggle)\].*\n"
VARIABLE = r'^REPOSITORY = "(.*)"'


def with_badges(text: str, repository: str) -> str:
    """Return a page with the badges below its title, in place of those that it has."""
    title, rest = re.sub(BADGE, "", text).split("\n", 1)
    badges = BADGES.format(page=f"{repository}/blob/main/{NOTEBOOK}")
    return f"{title}\n\n{badges}\n{rest.lstrip()}"


def publish(root: Path, repository: str, kaggle: str = "") -> None:
    """Write the address; raise a SystemExit if it is invalid, before anything is written."""
    if not re.fullmatch(NAME, repository):
        sys.exit(f"REPOSITORY must be owner/name, got {repository!r}: make publish REPOSITORY=…")
    if kaggle and not re.fullmatch(r"[a-z0-9-]+", kaggle):
        sys.exit(f"KAGGLE must be the user name in your profile's address, got {kaggle!r}.")
    notebook = nbformat.read(root / NOTEBOOK, as_version=4)
    first, setup = notebook.cells[0], next(c for c in notebook.cells if c.id == "cell-02")
    first.source = with_badges(first.source, repository)
    setup.source = re.sub(VARIABLE, f'REPOSITORY = "{repository}"', setup.source, flags=re.M)
    (root / NOTEBOOK).write_text(nbformat.writes(notebook) + "\n", "utf-8")
    readme = root / "README.md"
    readme.write_text(with_badges(readme.read_text("utf-8"), repository), "utf-8")
    if kaggle:
        metadata = (root / METADATA).read_text("utf-8")
        metadata = re.sub(r'("id": ")[^/"]*', rf"\g<1>{kaggle}", metadata)
        (root / METADATA).write_text(metadata, "utf-8")


def addresses(root: Path) -> dict[str, set[str]]:
    """Return the repositories that each place names; an empty set where it names none."""
    notebook = nbformat.read(root / NOTEBOOK, as_version=4)
    sources = "\n".join(cell.source for cell in notebook.cells)
    pages = {"README.md": (root / "README.md").read_text("utf-8"), "notebook": sources}
    links = rf"\]\(\S*?github(?:\.com)?/({NAME})/blob/main/{NOTEBOOK}\)"
    found = {name: set(re.findall(links, text)) for name, text in pages.items()}
    return found | {"REPOSITORY": set(filter(None, re.findall(VARIABLE, sources, re.M)))}


if __name__ == "__main__":
    publish(ROOT, *sys.argv[1:])
    print(json.dumps({name: sorted(found) for name, found in addresses(ROOT).items()}, indent=1))
