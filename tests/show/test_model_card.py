"""The model card says what the run's own files say."""

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
    names = [f"{n}{end}" for n in ("CIDEr", "ROUGE-L", "BLEU-1", "BLEU-4") for end in ENDS]
    rows = [f"this model,{','.join(map(str, range(12)))},", f"nearest,{','.join('7' * 12)},0.25"]
    head = f"system,{','.join(names)},p_vs_first"
    (tmp_path / "scores.csv").write_text("\n".join([head, *rows]) + "\n")
    return tmp_path


ENDS = ("", "_low", "_high")


def test_every_figure_is_the_runs_own(run):
    path = write_model_card(run, data="roco", counts=COUNTS)
    card = path.read_text("utf-8")
    assert path == run / "model_card.md"
    assert "1,234 words, trained for 3 epochs, kept from epoch 2" in card
    assert "(validation loss 2.500 nats a word)" in card
    assert "vgg16, fc2, weights imagenet md5 1" in card and "3 beams" in card
    assert "| train | 9 | 8 |\n| test | 3 | 3 |" in card
    row = "| this model | 0.000 [1.000, 2.000] | 3.000 [4.000, 5.000] | 6.000 [7.000, 8.000] |"
    assert f"{row} 9.000 [10.000, 11.000] |  |" in card
    assert "| nearest | 7.000 [7.000, 7.000] |" in card and card.count("| 0.250 |") == 1
    assert "Not for clinical use" in card and "## Limits" in card and "## Intended use" in card
    assert "CC BY-NC-ND" in card and "synthetic" not in card


@pytest.mark.parametrize(
    ("data", "synthetic", "told"),
    [("phantoms-1-1-1-seed0", True, "synthetic images alone"), ("mine-12ab", False, "`mine-12ab`")],
)
def test_other_data_have_other_licences(run, data, synthetic, told):
    card = write_model_card(run, data=data, counts=COUNTS, synthetic=synthetic).read_text("utf-8")
    assert told in card and "CC BY-NC-ND" not in card


@pytest.mark.parametrize("name", ["captioner.json", "history.csv", "scores.csv"])
def test_a_missing_file_is_named(run, name):
    (run / name).unlink()
    with pytest.raises(UserError, match=name):
        write_model_card(run, data="roco", counts=COUNTS)
