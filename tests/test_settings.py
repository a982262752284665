"""The notebook's settings are read from outside and checked before anything runs."""

import re
import sys
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from roco_caption.core.errors import UserError
from roco_caption.settings import CHECKS, OTHER_NAMES, read_settings

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "roco_captioning.ipynb"


@pytest.fixture
def names(monkeypatch, tmp_path):
    """The notebook's own settings, with folders that exist."""
    settings: dict = {}
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "code" and re.match(
            "DATA_SOURCE|ENCODER|MIN_FREQUENCY|BEAMS", cell.source
        ):
            exec(
                re.sub("CACHE_DIR = .*", f"CACHE_DIR = {str(tmp_path)!r}", cell.source), found := {}
            )
            settings.update({name: value for name, value in found.items() if name.isupper()})
    return dict(settings)


def test_the_notebooks_defaults_are_valid_and_all_are_checked(names, capsys):
    before = dict(names)
    read_settings(names)
    assert names == before and len(names) >= 22
    assert names.keys() - CHECKS.keys() <= {"DRIVE_DIR"}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("given", [None, "auto", "64", "1"])
@pytest.mark.parametrize(
    ("name", "kind", "inside"),
    [("BATCH_SIZE", int, "auto"), ("BATCH_SIZE", int, 16), ("LEARNING_RATE", float, "auto"),
     ("LEARNING_RATE", float, 1e-3), ("LEARNING_RATE", float, 1)],
)  # fmt: skip
def test_what_may_follow_the_captions_is_a_number_or_auto(
    names, monkeypatch, name, kind, inside, given
):
    names[name] = inside
    if given:
        monkeypatch.setenv(f"ROCO_{name}", given)
    read_settings(names)
    expected = given or inside
    assert names[name] == (expected if expected == "auto" else kind(expected))
    assert type(names[name]) in (str, kind)


@pytest.mark.parametrize("value", [0, 2.5, True, None, "many", "-3", "2.5", "²"])
def test_a_batch_size_that_is_none_is_named(names, value):
    names["BATCH_SIZE"] = value
    with pytest.raises(UserError, match="BATCH_SIZE must be 'auto' or a whole number"):
        read_settings(names)


def test_settings_are_overridden_from_outside_and_printed(names, monkeypatch, capsys):
    monkeypatch.setenv("ROCO_EPOCHS", "5")
    monkeypatch.setenv("ROCO_ATTENTION", "yes")
    monkeypatch.setenv("ROCO_epochs", "7")
    names |= {"epochs": 2, "np": object()}
    read_settings(names)
    assert (names["EPOCHS"], names["ATTENTION"], names["SEED"], names["epochs"]) == (5, True, 1, 2)
    assert "EPOCHS = 5, from ROCO_EPOCHS" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "0") for name in ("BEAMS", "EPOCHS", "BATCH_SIZE", "MEMBERS", "MAX_WORDS")),
        *(("EPOCHS", value) for value in ("many", "-3", "2.5", "")),
        *(("LEARNING_RATE", value) for value in ("0", "nan", "inf")),
        *(("PHANTOMS", value) for value in ("48 8 8", "48,8", "0,8,8", "4,8,-8")),
        ("SEED", "2147483648"), ("LIMIT", "-1"), ("MIN_FREQUENCY", "0"),
        ("DATA_SOURCE", "kagle"), ("ENCODER", "vgg61"), ("ENCODER_WEIGHTS", "imagnet"),
        ("ENCODER_WEIGHTS", "/nowhere.h5"), ("DATA_DIR", "/nowhere"), ("FEATURES_FILE", "/no.npz"),
        ("GRID_FILE", "no.npz"), ("IMAGE", "/nowhere.png"), ("ATTENTION", "maybe"),
        ("RETRAIN", "2"), ("CHECKPOINT_DIR", "/dev/null/x"),
    ],
)  # fmt: skip
def test_an_invalid_setting_is_named_with_its_value(names, monkeypatch, name, value):
    monkeypatch.setenv(f"ROCO_{name}", value)
    with pytest.raises(UserError) as error:
        read_settings(names)
    assert name in str(error.value) and value in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("EPOCHS", "30"), ("EPOCHS", 1.5), ("EPOCHS", None), ("BEAMS", True), ("ATTENTION", "False"),
     ("PHANTOMS", (48, 8)), ("LEARNING_RATE", [2e-3]), ("IMAGE", 5), ("DATA_DIR", ["a"]),
     ("COLUMNS", {"image": "scan"}), ("COLUMNS", None), ("COLUMNS", ["image=scan"]), ("COLUMNS", 3),
     ("DATA_DIR", None), ("DRIVE_DIR", None), ("IMAGE", None), ("PHANTOMS", [48, 8, 8]),
     ("ENCODER", ["vgg16"]), ("BEAMS", 10**30), ("DATA_DIR", "a\0b"), ("DATA_DIR", __file__)],
)  # fmt: skip
def test_a_value_of_another_type_is_named(names, name, value):
    with pytest.raises(UserError, match=name):
        read_settings(names | {name: value})


@pytest.mark.parametrize("name", ["IMAGE", "DATA_DIR", "FEATURES_FILE", "TEXT_FILE"])
def test_where_a_relative_path_was_looked_for_is_said(names, name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"{name} must be .*Relative paths start at {tmp_path}"):
        read_settings(names | {name: "x.png"})


def test_a_setting_without_a_value_is_overridden_or_named(names, monkeypatch):
    monkeypatch.setenv("ROCO_DATA_DIR", "/")
    with pytest.raises(UserError, match="DATA_DIR must be a folder"):
        read_settings(names | {"DATA_DIR": None})


def test_all_problems_come_in_one_message(names, monkeypatch, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG")
    for name, value in {"BEAMS": 0, "EPOCHS": 0, "SEED": "x", "IMAGE": broken}.items():
        monkeypatch.setenv(f"ROCO_{name}", str(value))
    with pytest.raises(UserError) as error:
        read_settings(names)
    lines = str(error.value).splitlines()
    assert len(lines) == 4
    assert all(
        any(name in line for line in lines) for name in ("BEAMS", "EPOCHS", "SEED", "broken")
    )


def test_a_home_folder_is_expanded_in_every_path(names, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    (tmp_path / "f.npz").touch()
    names |= {"CACHE_DIR": "~/roco", "IMAGE": "~/x.png", "GRID_FILE": "~/f.npz"}
    names |= {"CHECKPOINT_DIR": "~/runs", "DATA_DIR": "~", "DRIVE_DIR": "~/drive"}
    read_settings(names)
    assert names["CACHE_DIR"] == f"{tmp_path}/roco" and names["DATA_DIR"] == str(tmp_path)
    assert not any("~" in str(value) for value in names.values())


def own_data(folder):
    """A folder of images with a table, which `DATA_DIR` may name."""
    (folder / "deep" / "er").mkdir(parents=True)
    Image.new("L", (8, 8)).save(folder / "x.png")
    (folder / "captions.csv").write_text("image,caption\nx.png,no mass\n")
    return folder


def roco_data(folder):
    (folder / "roco" / "all_data" / "train" / "radiology").mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("make", "data", "run"),
    [(own_data, "data", run) for run in ("data", "data/", "data/../data", "data/runs", ".",
                                         "data/deep/er", "link", "link/new")]
    + [(roco_data, "data", run) for run in ("data", "data/roco", "data/roco/all_data",
                                            "data/roco/all_data/train/runs", ".")],
)  # fmt: skip
def test_a_run_cannot_be_mixed_with_the_data(names, tmp_path, make, data, run):
    make(tmp_path / "data")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    chosen = {"DATA_DIR": f"{tmp_path}/{data}", "CHECKPOINT_DIR": f"{tmp_path}/{run}"}
    with pytest.raises(UserError) as error:
        read_settings(names | chosen | {"EPOCHS": 0})
    epochs, *mixed = str(error.value).splitlines()
    assert "EPOCHS" in epochs
    assert any(all(text in line for text in (*chosen, *chosen.values())) for line in mixed)
    read_settings(names | chosen | {"DATA_DIR": "", "CACHE_DIR": "/tmp/elsewhere"})


@pytest.mark.parametrize(
    "run", ["", "drive", ".", "drive/roco/checkpoints", "drive/roco/checkpoints/x/x"]
)
def test_a_run_cannot_hold_its_own_copy(names, tmp_path, run):
    chosen = {"DRIVE_DIR": f"{tmp_path}/drive/roco", "CHECKPOINT_DIR": f"{tmp_path}/{run}"}
    with pytest.raises(UserError, match=r"CHECKPOINT_DIR must be .* apart from DRIVE_DIR"):
        read_settings(names | chosen)
    read_settings(names | chosen | {"CHECKPOINT_DIR": f"{tmp_path}/drive/roco/checkpoints/x"})


def test_a_run_cannot_hold_the_cache(names, tmp_path):
    """Its zip would pack ROCO's images and features."""
    chosen = {"CACHE_DIR": f"{tmp_path}/data", "CHECKPOINT_DIR": str(tmp_path)}
    with pytest.raises(UserError, match=r"CHECKPOINT_DIR must be .* apart from CACHE_DIR"):
        read_settings(names | chosen)


def test_a_run_beside_the_data_is_accepted(names, tmp_path):
    own, roco = own_data(tmp_path / "data"), roco_data(tmp_path / "kaggle")
    for data, run in ((own, tmp_path / "data2"), (own, tmp_path / "runs" / "new"),
                      (roco, roco / "runs"), (roco, roco / "roco" / "run")):  # fmt: skip
        chosen = {"DATA_DIR": str(data), "CHECKPOINT_DIR": str(run)}
        read_settings(names | chosen | {"DRIVE_DIR": str(data), "CACHE_DIR": str(data)})


@pytest.mark.parametrize(
    ("variable", "hint"),
    [("ROCO_EPOCH", "ROCO_EPOCHS?"), ("ROCO_BEAM", "ROCO_BEAMS?"), ("ROCO_XYZZY", "")],
)
def test_a_variable_of_no_setting_is_pointed_out(names, monkeypatch, capsys, variable, hint):
    monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("ROCO_PROGRESS", "text")
    read_settings(names)
    (line,) = capsys.readouterr().out.splitlines()
    assert variable in line and line.endswith(hint or ".")


def test_an_encoder_that_needs_a_missing_package_is_refused_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(UserError, match=r"'vit_base' needs KerasHub.*pip install keras-hub"):
        read_settings({"ENCODER": "vit_base"})
    read_settings(names := {"ENCODER": "vgg16_pool"})
    assert names == {"ENCODER": "vgg16_pool"}


def test_no_variable_that_the_package_reads_is_called_unknown(names):
    root, read, constants = NOTEBOOK.parents[1], set(), set()
    for path in (root / "roco_caption").rglob("*.py"):
        text = path.read_text("utf-8")
        read |= {*re.findall(r'\bsetting\("([A-Z_]+)"', text)}
        read |= {*re.findall(r"\bROCO_([A-Z]+(?:_[A-Z]+)*)\b(?!_)", text)}
        constants |= {*re.findall(r"^ROCO_([A-Z_]+) =", text, re.M)}
    assert {*OTHER_NAMES} - {"REPOSITORY"} <= read  # that is read by the notebook
    assert read - constants <= {*names, *OTHER_NAMES}


@pytest.mark.parametrize("kind", ["FEATURES_FILE", "GRID_FILE"])
def test_an_image_without_an_encoder_is_refused_at_once(names, tmp_path, kind):
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    (tmp_path / "f.npz").touch()
    given = {"IMAGE": str(tmp_path / "x.png"), kind: str(tmp_path / "f.npz"), "ATTENTION": True}
    with pytest.raises(UserError, match=f"IMAGE needs an encoder, and with {kind} there is none"):
        read_settings(names | given)
    if kind == "GRID_FILE":  # unused without attention
        read_settings(names | given | {"ATTENTION": False})


def test_a_whole_learning_rate_can_be_overridden_by_another(names, monkeypatch):
    monkeypatch.setenv("ROCO_LEARNING_RATE", "0.001")
    given = names | {"LEARNING_RATE": 1}
    read_settings(given)
    assert given["LEARNING_RATE"] == 0.001


def test_a_windows_path_is_translated_for_wsl(names):
    with pytest.raises(UserError, match="In WSL it is /mnt/c/Daten/Bilder; in Colab"):
        read_settings(names | {"DATA_DIR": "C:\\Daten\\Bilder"})
