"""The model card reports the files of its run."""

import pandas as pd
import pytest

from roco_caption.core.errors import UserError
from roco_caption.core.files import write_json
from roco_caption.show.model_card import write_model_card

COUNTS = pd.DataFrame({"listed": [9, 3], "used": [8, 3]}, index=["train", "test"])


@pytest.fixture
def run(tmp_path):
    encoder = {"name": "vgg16", "layer": "fc2", "weights": "imagenet md5 1"}
    bundle = {"sizes": {"vocab_size": 1234}, "encoder": encoder, "search": {"beams": 3}}
    write_json(tmp_path / "captioner.json", bundle)
    (tmp_path / "history.csv").write_text("epoch,loss,val_loss\n1,5,4\n2,3,2.5\n3,2,2.75\n")
    metrics = ("CIDEr", "ROUGE-L", "BLEU-1", "BLEU-4")
    columns = [f"{metric}{end}" for metric in metrics for end in ("", "_low", "_high")]
    rows = [f"this model,{','.join(map(str, range(12)))},", f"nearest,{','.join('7' * 12)},0.25"]
    header = f"system,{','.join(columns)},p_vs_first"
    (tmp_path / "scores.csv").write_text("\n".join([header, *rows]) + "\n")
    return tmp_path


def test_every_number_is_from_the_run(run):
    path = write_model_card(run, data="roco", counts=COUNTS)
    card = path.read_text("utf-8")
    assert path == run / "model_card.md"
    assert "1,234 words, trained for 3 epochs, weights of epoch 2 kept" in card
    assert "(validation loss 2.500 nats per word)" in card
    assert "vgg16, fc2, weights imagenet md5 1" in card and "beam width 3" in card
    assert "| split | listed | used |" in card
    assert "| train | 9 | 8 |\n| test | 3 | 3 |" in card
    row = "| this model | 0.000 [1.000, 2.000] | 3.000 [4.000, 5.000] | 6.000 [7.000, 8.000] |"
    assert f"{row} 9.000 [10.000, 11.000] |  |" in card
    assert "| nearest | 7.000 [7.000, 7.000] |" in card and card.count("| 0.250 |") == 1
    assert "Not for clinical use" in card and "## Limits" in card and "## Intended use" in card
    assert "CC BY-NC-ND" in card and "synthetic" not in card


@pytest.mark.parametrize(
    ("data", "synthetic", "phrase"),
    [
        ("phantoms-1-1-1-seed0", True, "trained only on synthetic images"),
        ("mine-12ab", False, "`mine-12ab`"),
    ],
)
def test_other_data_sets_have_other_licences(run, data, synthetic, phrase):
    card = write_model_card(run, data=data, counts=COUNTS, synthetic=synthetic).read_text("utf-8")
    assert phrase in card and "CC BY-NC-ND" not in card


@pytest.mark.parametrize("name", ["captioner.json", "history.csv", "scores.csv"])
def test_a_missing_file_is_named(run, name):
    (run / name).unlink()
    with pytest.raises(UserError, match=name):
        write_model_card(run, data="roco", counts=COUNTS)


def test_a_damaged_table_is_named(run):
    (run / "scores.csv").write_text("")
    with pytest.raises(UserError, match=r"scores\.csv is missing or damaged"):
        write_model_card(run, data="roco", counts=COUNTS)
