"""The model card reports the files of its run."""

import pytest

from roco_caption.core.errors import UserError
from roco_caption.core.files import read_json, write_json
from roco_caption.show.model_card import write_model_card

RECORD = {"data": "roco", "captions": {"train": 8, "test": 3}}


@pytest.fixture
def run(tmp_path):
    encoder = {"name": "vgg16", "layer": "fc2", "weights": "imagenet md5 1"}
    bundle = {"sizes": {"vocab_size": 1234}, "encoder": encoder, "search": {"beams": 3}}
    write_json(tmp_path / "captioner.json", bundle)
    write_json(tmp_path / "settings.json", RECORD)
    (tmp_path / "history.csv").write_text("epoch,loss,val_loss\n1,5,4\n2,3,2.5\n3,2,2.75\n")
    metrics = ("CIDEr", "ROUGE-L", "BLEU-1", "BLEU-4")
    columns = [f"{metric}{end}" for metric in metrics for end in ("", "_low", "_high")]
    rows = [f"this model,{','.join(map(str, range(12)))},", f"nearest,{','.join('7' * 12)},0.25"]
    header = f"system,{','.join(columns)},p_vs_first"
    (tmp_path / "scores.csv").write_text("\n".join([header, *rows]) + "\n")
    return tmp_path


def test_every_number_is_from_the_run(run):
    path = write_model_card(run)
    card = path.read_text("utf-8")
    assert path == run / "model_card.md"
    assert "1,234 words, trained for 3 epochs, weights of epoch 2 kept" in card
    assert "(validation loss 2.500 nats per word)" in card
    assert "vgg16, fc2, weights imagenet md5 1" in card and "beam width 3" in card
    assert "| split | captions |" in card and "| train | 8 |\n| test | 3 |" in card
    row = "| this model | 0.000 [1.000, 2.000] | 3.000 [4.000, 5.000] | 6.000 [7.000, 8.000] |"
    assert f"{row} 9.000 [10.000, 11.000] |  |" in card
    assert "| nearest | 7.000 [7.000, 7.000] |" in card and card.count("| 0.250 |") == 1
    assert "Not for clinical use" in card and "## Limits" in card and "## Intended use" in card
    assert "CC BY-NC-ND" in card and "synthetic" not in card


@pytest.mark.parametrize(
    ("data", "phrase"),
    [
        ("phantoms-1-1-1-seed0", "trained only on synthetic images"),
        ("phantoms-1-1-1-seed0-a1b2c3", "trained only on synthetic images"),  # by DATA_DIR
        ("mine-12ab", "`mine-12ab`"),
    ],
)
def test_other_data_sets_have_other_licences(run, data, phrase):
    write_json(run / "settings.json", RECORD | {"data": data})
    card = write_model_card(run).read_text("utf-8")
    assert phrase in card and "CC BY-NC-ND" not in card


def described(run, **changes) -> str:
    """The card of a run whose bundle has these values instead."""
    bundle = read_json(run / "captioner.json")
    for key, value in changes.items():
        bundle[key] = bundle[key] | value if isinstance(value, dict) else value
    write_json(run / "captioner.json", bundle)
    return write_model_card(run).read_text("utf-8")


def test_a_plain_model_is_not_credited_with_more(run):
    card = described(run, search={"neighbours": 0, "word_bonus": 0.0, "end_penalty": 0.0})
    for word in ("attention", "ensemble", "reranked", "bonus", "precomputed"):
        assert word not in card.split("## Data")[0], word
    assert "in float32" in card


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"sizes": {"attention": True, "grid_size": [49, 512]}}, "attention over 49 regions"),
        ({"sizes": {"max_len": 51}}, "1,234 words (captions of at most 50)"),
        ({"encoder": {"precision": "mixed_bfloat16"}}, "md5 1, in mixed_bfloat16"),
        ({"encoder": {"grid": "block5_conv3"}}, "regions from block5_conv3"),
        ({"encoder": {"grid_file": "sha256 9"}}, "regions from sha256 9"),
        ({"encoder": {"name": "mine", "layer": "given", "weights": "sha256 7"}},
         "precomputed (FEATURES_FILE), without an encoder: mine, sha256 7."),
        ({"search": {"neighbours": 10}}, "beam width 3, reranked by similarity to the captions of "
         "the 10 nearest"),
        ({"search": {"neighbours": 5, "word_bonus": 0.25}}, "0.250 nats per word"),
        ({"search": {"end_penalty": 0.5}}, "costs 0.50 nats"),
    ],
)  # fmt: skip
def test_what_was_trained_and_searched_is_said(run, changes, phrase):
    assert phrase in described(run, **changes)


def test_each_member_of_an_ensemble_has_its_own_history(run):
    for k, losses in ((2, "1,5,4\n"), (3, "1,5,4\n2,4,3.125\n3,3,3\n4,3,3.5\n")):
        (run / f"member{k}").mkdir()
        (run / f"member{k}" / "history.csv").write_text(f"epoch,loss,val_loss\n{losses}")
    card = described(run, members=3)
    assert "an ensemble of 3 with averaged probabilities: member 1, trained for 3 epochs" in card
    assert "member 2, trained for 1 epochs, weights of epoch 1 kept (validation loss 4.000" in card
    assert "member 3, trained for 4 epochs, weights of epoch 3 kept (validation loss 3.000" in card
    (run / "member2" / "history.csv").unlink()
    with pytest.raises(UserError, match=r"member2.history\.csv"):
        described(run)


@pytest.mark.parametrize("name", ["captioner.json", "settings.json", "history.csv", "scores.csv"])
def test_a_missing_file_is_named(run, name):
    (run / name).unlink()
    with pytest.raises(UserError, match=name):
        write_model_card(run)


def test_a_damaged_table_is_named(run):
    (run / "scores.csv").write_text("")
    with pytest.raises(UserError, match=r"scores\.csv is missing or damaged"):
        write_model_card(run)


@pytest.mark.parametrize(
    ("record", "phrase"),
    [
        ({"commits": ["a1b2"]}, "(commit a1b2) from"),
        ({"commits": ["a1b2", "c3d4-dirty"]}, "(commit a1b2, then c3d4-dirty) from"),
        ({"commits": []}, ""),
        ({"trainings": []}, ""),  # of an earlier version
    ],
)
def test_the_projects_commits_are_on_the_card(run, record, phrase):
    write_json(run / "settings.json", RECORD | record, sealed=True)
    card = described(run)
    assert phrase in card and ("(commit" in card) == bool(phrase)
