"""The notebook itself, executed unedited with tiny settings."""

import ast
import os
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

from roco_caption.core.backup import backed_up

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "roco_captioning.ipynb"
SMALL = {
    "ROCO_PHANTOMS": "24,8,8", "ROCO_EPOCHS": "2", "ROCO_ENCODER_WEIGHTS": "random",
    "ROCO_PROGRESS": "text", "ROCO_BEAMS": "4",
}  # fmt: skip


def texts(notebook) -> str:
    """Return all that the notebook printed or shows as text or HTML."""
    shown = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            shown.append(output.get("text", ""))
            shown += [v for k, v in output.get("data", {}).items() if k.startswith("text/")]
    return "\n".join(shown)


def execute(folder: Path, **settings: str):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    before = dict(os.environ)
    os.environ.update(SMALL | {"ROCO_CACHE_DIR": str(folder / "data")} | settings)
    os.environ["ROCO_CHECKPOINT_DIR"] = str(folder / "run")
    try:
        client = NotebookClient(
            notebook, timeout=600, resources={"metadata": {"path": NOTEBOOK.parent}}
        )
        return client.execute()
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_no_variable_is_named_like_a_module_of_colab():
    code = [cell.source for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code"]
    names = [n for source in code for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Name)]
    assigned = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    assert "on_drive" in assigned
    assert not assigned & {"auth", "data_table", "drive", "files", "output", "userdata"}


@pytest.mark.parametrize("copied", [True, False])
def test_the_last_cell_names_the_copies_that_there_are(tmp_path, capsys, copied):
    (source,) = (c.source for c in nbformat.read(NOTEBOOK, 4).cells if c.id == "cell-61")
    run, drive = tmp_path / "checkpoints" / "run", tmp_path / "drive"
    run.mkdir(parents=True)
    (run / "settings.json").write_text("{}")
    for folder in (tmp_path, drive) if copied else (tmp_path,):
        (folder / "features" / "mine").mkdir(parents=True)
        (folder / "features" / "mine" / "vgg16.pkl").write_text("x")
        os.utime(folder / "features" / "mine" / "vgg16.pkl", (1e9, 1e9))
    if not copied:
        (drive / "features" / "mine").mkdir(parents=True)  # all that a copy that failed leaves
    data = SimpleNamespace(source=SimpleNamespace(name="mine"))
    exec(source, {
        "folder": run, "on_drive": drive, "copy": drive / "checkpoints" / "run", "data": data,
        "CACHE_DIR": tmp_path, "backed_up": backed_up, "Path": Path,
    })  # fmt: skip
    assert (drive / "checkpoints" / "run" / "settings.json").exists()
    copies = capsys.readouterr().out.splitlines()[-1]
    assert copies == f"Copies in {drive}: checkpoints/run" + " features/mine" * copied


def test_the_captioner_is_on_drive_before_a_later_cell_can_stop(tmp_path):
    (source,) = (
        cell.source for cell in nbformat.read(NOTEBOOK, 4).cells if "captioner.save(" in cell.source
    )

    def stop(*_):
        raise KeyboardInterrupt

    def save(folder):
        (folder / "captioner.json").write_text("{}")

    run, copy = tmp_path / "run", tmp_path / "drive"
    run.mkdir()
    captioner = SimpleNamespace(save=save)
    pipeline = SimpleNamespace(make_captioner=lambda *_, **__: captioner, caption_test_images=stop)
    given = dict.fromkeys(("decoder", "inputs", "words", "BEAMS"))
    given |= {"folder": run, "copy": copy, "pipeline": pipeline, "backed_up": backed_up}
    with pytest.raises(KeyboardInterrupt):
        exec(source, given)
    assert (copy / "captioner.json").exists()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("notebook")


@pytest.mark.first
@pytest.mark.tensorflow("the notebook's set-up")
def test_it_runs_from_the_top_and_runs_again_from_its_caches(folder):
    first = execute(folder, ROCO_ATTENTION="1")
    assert not [o for c in first.cells for o in c.get("outputs", []) if o.get("name") == "stderr"]
    run = folder / "run"
    assert {
        "captioner.json", "captioner.weights.h5", "tokenizer.json", "history.csv", "captions.csv",
        "scores.csv", "model_card.md", "decoder.keras",
    } <= {path.name for path in run.iterdir()}  # fmt: skip
    scores = pd.read_csv(run / "scores.csv", index_col="system")
    assert scores.index[0] == "this model" and scores.CIDEr.notna().all()
    assert any(name.startswith("images shuffled") for name in scores.index)
    captions = pd.read_csv(run / "captions.csv")
    assert len(captions) == 8 and captions.caption.str.len().gt(0).all()
    shown = texts(first)
    for text in ("image_captioning", "input_grid", "Not for clinical use", captions.caption[0]):
        assert text in shown, text
    pictures = [
        o for c in first.cells for o in c.get("outputs", []) if "text/html" in o.get("data", {})
    ]
    assert sum("<img alt=" in o["data"]["text/html"] for o in pictures) >= 7

    second = execute(folder, ROCO_ATTENTION="1")
    again = texts(second)
    assert "Reused a finished training" in again and "Features of 40 images reused" in again
    assert pd.read_csv(run / "captions.csv").equals(captions)
