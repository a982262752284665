"""A run has a folder per configuration, and a finished one is never lost to another."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.toy_training import fresh, run, toy

from roco_caption.core import backup, machine
from roco_caption.core.backup import backed_up
from roco_caption.core.errors import UserError
from roco_caption.training import checkpoint, copies, loop, runs
from roco_caption.training.checkpoint import HISTORY, PREVIOUS, RETRAINING, STATE, WEIGHTS
from roco_caption.training.loop import identify
from roco_caption.training.runs import (
    DECAY_STEPS,
    RECORD,
    CosineByEpoch,
    Schedule,
    list_runs,
    run_folder,
    zip_run,
)

PLAIN = {"trainings": [{"epochs": 1, "seed": 0}]}  # of a run without files


def record(**schedule):
    return {"trainings": [identify(fresh(), toy(96, 0), toy(40, 1), **schedule)], "note": (1, 2)}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()
            if path.name in (HISTORY, PREVIOUS, STATE, WEIGHTS)}  # fmt: skip


class Stopped(BaseException):
    pass


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = run_folder(tmp_path_factory.mktemp("runs"), "toy", record(epochs=1, batch_size=16))
    run(folder, epochs=1, learning_rate=2e-3)
    return folder


@pytest.fixture
def given(finished, tmp_path):
    """A folder with the files of a finished training of one epoch in batches of 16."""
    return Path(shutil.copytree(finished, tmp_path / "given"))


def test_settings_find_their_folder_again_and_others_get_their_own(tmp_path):
    one = run_folder(tmp_path, "toy", record(epochs=4))
    assert one == run_folder(tmp_path, "toy", record(epochs=4))
    others = [{"epochs": 2}, {"epochs": 4, "batch_size": 16}, {"epochs": 4, "seed": 3}]
    folders = {one} | {run_folder(tmp_path, "toy", record(**options)) for options in others}
    assert len(folders) == 4 and {folder.parent for folder in folders} == {tmp_path}
    assert json.loads((one / RECORD).read_text())["trainings"][0]["epochs"] == 4


def commits(folder):
    return json.loads((folder / RECORD).read_text())["commits"]


def test_commits_are_recorded_and_do_not_decide_which_run_it_is(tmp_path, monkeypatch):
    for commit in ("one", "one", "two", "one", "three-dirty"):
        monkeypatch.setattr(runs, "project_commit", lambda project, commit=commit: commit)
        folder = run_folder(tmp_path, "toy", PLAIN)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert commits(folder) == ["one", "two", "three-dirty"]
    (folder / RECORD).write_text("{")
    assert commits(run_folder(tmp_path, "toy", PLAIN)) == ["three-dirty"]


def test_the_commit_is_that_of_the_project_and_not_of_the_working_folder(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(runs, "project_commit", lambda project: asked.append(project) or "x")
    monkeypatch.chdir(tmp_path)
    run_folder(tmp_path, "toy", PLAIN)
    assert asked == [Path(runs.__file__).parents[2]]


LAYOUTS = ("captions", "notebooks/someone/captions", "notebooks/someone/captions/roco-caption")


@pytest.mark.parametrize("place", [*LAYOUTS, "drive"])
def test_what_an_earlier_session_made_is_copied_before_it_is_used(tmp_path, monkeypatch, place):
    monkeypatch.setattr(runs, "project_commit", lambda project: "earlier")
    mount, drive = tmp_path / "input", tmp_path / "drive"
    earlier = drive if place == "drive" else mount / place
    made = run_folder(earlier / "checkpoints", "toy", PLAIN)
    for name in (STATE, WEIGHTS, "member2/" + STATE, "captioner.json"):
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_text("earlier")
        os.utime(made / name, (1e9, 1e9))
    (earlier / "checkpoints" / "toy-other").mkdir()
    before = {path: path.stat().st_mtime_ns for path in earlier.rglob("*")}
    monkeypatch.setattr(machine, "KAGGLE_INPUT", mount)
    monkeypatch.setattr(runs, "project_commit", lambda project: "now")
    options = {"copy": drive} if place == "drive" else {}
    folder = run_folder(tmp_path / "working", "toy", PLAIN, **options)
    assert folder == tmp_path / "working" / made.name
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {STATE, WEIGHTS, f"member2/{STATE}", "captioner.json", RECORD}
    assert commits(folder) == ["earlier", "now"]
    assert [path.name for path in (tmp_path / "working").iterdir()] == [made.name]
    assert {path: path.stat().st_mtime_ns for path in earlier.rglob("*")} == before
    (folder / STATE).write_text("later")
    run_folder(tmp_path / "working", "toy", PLAIN, **options)
    assert (folder / STATE).read_text() == "later"


def test_attached_runs_are_not_mixed_into_a_given_folder(tmp_path, monkeypatch):
    made = run_folder(tmp_path / "input" / "captions" / "checkpoints", "toy", PLAIN)
    (made / STATE).write_text("earlier")
    monkeypatch.setattr(machine, "KAGGLE_INPUT", tmp_path / "input")
    folder = run_folder(tmp_path, "toy", PLAIN, str(tmp_path / "mine"))
    assert [path.name for path in folder.iterdir()] == [RECORD]


def test_a_given_folder_is_used_unless_it_holds_another_training(given, tmp_path, capsys):
    before = contents(given)
    again = run_folder(tmp_path, "toy", record(epochs=1, batch_size=16), str(given))
    assert again == given and "kept" not in capsys.readouterr().out
    quick = run_folder(tmp_path, "toy", record(epochs=2, batch_size=16), str(given))
    assert quick.parent == given
    assert "holds a training with other settings" in capsys.readouterr().out
    run(quick, epochs=2, learning_rate=2e-3)
    assert contents(given) == before
    assert run_folder(tmp_path, "toy", record(epochs=1), str(tmp_path / "free")).name == "free"


@pytest.mark.parametrize("damage", ["missing", "damaged", "of another program"])
def test_without_its_record_the_state_tells_whose_a_folder_is(given, tmp_path, damage):
    texts = {"damaged": "{", "of another program": '["x"]'}
    (given / RECORD).unlink()
    if damage in texts:
        (given / RECORD).write_text(texts[damage])
    options = {"epochs": 1, "batch_size": 16}
    assert run_folder(tmp_path, "toy", record(**options | {"epochs": 2}), str(given)) != given
    assert run_folder(tmp_path, "toy", record(**options), str(given)) == given


def test_weights_without_a_state_are_kept_as_well(tmp_path):
    place = tmp_path / "copied"
    place.mkdir()
    (place / WEIGHTS).write_bytes(b"of a captioner")
    assert run_folder(tmp_path, "toy", record(), str(place)).parent == place


OTHERS = ("captions.csv", "scores.csv", HISTORY, RECORD, "tokenizer.json", "model_card.md",
          "decoder.keras")  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("place", ["chosen", "drive/checkpoints/chosen"])
def test_files_of_others_are_not_replaced(tmp_path, name, place):
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / name).write_text("{}")
    with pytest.raises(UserError, match="empty folder") as error:
        run_folder(tmp_path, "toy", PLAIN, str(tmp_path / "chosen"), tmp_path / "drive")
    assert f"{tmp_path / place} " in str(error.value) and name in str(error.value)
    assert [path.name for path in (tmp_path / place).iterdir()] == [name]
    assert (tmp_path / place / name).read_text() == "{}"


@pytest.mark.parametrize("content", [(), ("x.png", "notes.txt"), ("a-run/captions.csv",)])
def test_a_folder_without_such_files_and_an_own_run_are_used(tmp_path, content):
    for name in content:
        (tmp_path / "chosen" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "chosen" / name).touch()
    for _ in range(2):
        assert run_folder(tmp_path, "toy", PLAIN, str(tmp_path / "chosen")) == tmp_path / "chosen"
        for name in set(OTHERS) - {RECORD}:
            (tmp_path / "chosen" / name).touch()


def test_training_in_the_folder_of_another_training_is_refused(given):
    before = contents(given)
    with pytest.raises(UserError, match=r"other settings .batch_size, patience"):
        run(given, epochs=1, learning_rate=2e-3, batch_size=8, patience=1)
    assert contents(given) == before


def test_a_finished_training_stays_until_the_new_one_is_finished(given, monkeypatch, capsys):
    before = contents(given)
    run_epoch = loop._Run._run_epoch

    def stopping(self, progress, bar):
        if progress.epoch == 1:
            raise Stopped
        run_epoch(self, progress, bar)

    monkeypatch.setattr(loop._Run, "_run_epoch", stopping)
    with pytest.raises(Stopped):
        run(given, retrain=True)
    assert contents(given) == before and (given / RETRAINING / STATE).exists()
    epochs = []
    monkeypatch.setattr(
        loop._Run, "_run_epoch", lambda *a: epochs.append(a[1].epoch) or run_epoch(*a)
    )
    capsys.readouterr()
    history, _ = run(given, retrain=True)
    assert epochs == [1, 2, 3] and len(history) == 4 and "Resumed" in capsys.readouterr().out
    assert not (given / RETRAINING).exists() and contents(given).keys() >= before.keys()
    assert all(contents(given)[name] != content for name, content in before.items())
    monkeypatch.setattr(loop._Run, "_run_epoch", None)  # the new one is reused
    pd.testing.assert_frame_equal(run(given)[0], history)


@pytest.mark.parametrize("moved", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_kill_while_a_run_is_replaced_loses_nothing(given, tmp_path, monkeypatch, moved):
    monkeypatch.setattr(checkpoint.shutil, "rmtree", lambda *a, **o: None)
    replace, done = checkpoint.Path.replace, []

    def stopping(path, target):
        if path.parent.name == RETRAINING != target.parent.name:
            done.append(path)
            if len(done) > moved:
                raise Stopped
        return replace(path, target)

    monkeypatch.setattr(checkpoint.Path, "replace", stopping)
    expected, weights = run(tmp_path / "apart")
    with pytest.raises(Stopped):
        run(given, retrain=True)
    monkeypatch.undo()
    monkeypatch.setattr(loop._Run, "_run_epoch", None)  # nothing is trained again
    history, after = run(given, retrain=True)
    pd.testing.assert_frame_equal(history, expected)
    assert all((a == b).all() for a, b in zip(after, weights, strict=True))
    assert run(given)[0].equals(expected) and not (given / RETRAINING).exists()


@pytest.mark.parametrize("patience", [1, 2])
def test_training_stops_after_epochs_without_improvement_alone(tmp_path, monkeypatch, patience):
    losses = iter([5.0, 4.0, 4.5, 4.4, 4.3])
    monkeypatch.setattr(loop, "_mean_loss", lambda *a, **o: next(losses))
    history, _ = run(tmp_path, epochs=5, patience=patience)
    assert len(history) == 2 + patience


@pytest.mark.parametrize(
    "invalid",
    [{"epochs": 0}, {"batch_size": 0}, {"epochs": 2.5}, {"patience": 0}, {"learning_rate": -1},
     {"learning_rate": float("nan")}, {"epochs": "30"}, {"seed": -1}],
)  # fmt: skip
def test_an_invalid_schedule_is_named(invalid):
    ((name, value),) = invalid.items()
    with pytest.raises(UserError, match=name.upper()) as error:
        Schedule(**invalid)
    assert repr(value) in str(error.value)


def test_runs_are_listed_with_what_is_known_of_them(tmp_path):
    assert list_runs(tmp_path / "none").empty
    one = run_folder(tmp_path, "toy", record(epochs=1, batch_size=16))
    (one / HISTORY).write_text("epoch,val_loss\n1,2.5\n2,2.25\n")
    (one / "captioner.json").write_text("{}")
    (one / "scores.csv").write_text("system,CIDEr\nthis model,0.5\n")
    two = run_folder(tmp_path, "toy", record(epochs=3))
    (two / HISTORY).write_text("\0")
    table = list_runs(tmp_path)
    assert list(table.index) == [one.name, two.name]
    assert (
        table.CIDEr[one.name] == "0.500"
        and table.epochs[one.name] == 2
        and table.val_loss[one.name] == "2.250"
    )
    assert table.finished[one.name] and not table.finished[two.name] and table.epochs[two.name] == 0


def test_a_run_is_zipped_without_what_only_resuming_needs(given, tmp_path, capsys):
    for name in ("captioner.json", ".lock", "tensorboard/events", "member2/" + WEIGHTS,
                 f"member2/{STATE}", f"{RETRAINING}/{WEIGHTS}"):  # fmt: skip
        (given / name).parent.mkdir(exist_ok=True)
        (given / name).write_text("x")
    path = zip_run(given)
    assert path == tmp_path / "given.zip" and "5 files" in capsys.readouterr().out
    with zipfile.ZipFile(path) as archive:
        names = {name.removeprefix("given/") for name in archive.namelist()}
        assert archive.read(f"given/{WEIGHTS}") == (given / WEIGHTS).read_bytes()
    assert names == {"captioner.json", HISTORY, RECORD, WEIGHTS, f"member2/{WEIGHTS}"}


def test_a_zip_of_the_users_own_is_not_replaced(given, tmp_path):
    theirs = tmp_path / "given.zip"
    for content in (b"not even a zip", None):
        if content is None:
            with zipfile.ZipFile(theirs, "w") as archive:
                archive.writestr("given/thesis.txt", "x")
        else:
            theirs.write_bytes(content)
        before = theirs.read_bytes()
        for _ in range(2):
            assert zip_run(given) == tmp_path / "given-captioner.zip"
        assert theirs.read_bytes() == before
    theirs.unlink()
    for _ in range(2):
        assert zip_run(given) == theirs


@pytest.mark.parametrize("place", [".", "runs/..", "runs/deep/.."])
def test_a_chosen_folder_has_its_own_name_in_the_copy(tmp_path, monkeypatch, place):
    (tmp_path / "mine" / "runs" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mine")
    folder = run_folder(tmp_path, "label", PLAIN, checkpoint_dir=place, copy=tmp_path / "drive")
    assert folder == (tmp_path / "mine" / place).resolve() and folder.name in ("mine", "runs")


@pytest.mark.parametrize("name", ["toy-40captions-1a2b3c", "my.data-1a2b3c", "group/toy", "other"])
def test_runs_below_a_run_are_not_in_its_zip(given, name):
    (given / "notes").mkdir()
    (given / "notes" / "figures.zip").touch()
    (given / name).mkdir(parents=True)
    for file in (RECORD, "captioner.json", f"member2/{WEIGHTS}"):
        (given / name / file).parent.mkdir(exist_ok=True)
        (given / name / file).touch()
    zip_run(given / name)
    with zipfile.ZipFile(zip_run(given)) as archive:
        names = {name.removeprefix("given/") for name in archive.namelist()}
    assert names == {HISTORY, RECORD, WEIGHTS, "notes/figures.zip"}


def test_what_else_is_in_the_folder_is_named(tmp_path, capsys):
    (tmp_path / "MyDrive" / "thesis").mkdir(parents=True)
    run_folder(tmp_path, "label", PLAIN, checkpoint_dir=str(tmp_path / "MyDrive"))
    assert f"WARNING: {tmp_path / 'MyDrive'} also has thesis:" in capsys.readouterr().out
    run_folder(tmp_path / "runs", "label", PLAIN)
    run_folder(tmp_path, "label", PLAIN, checkpoint_dir=str(tmp_path / "runs"))
    assert "WARNING" not in capsys.readouterr().out


def test_a_high_learning_rate_is_reached_slowly():
    steps = [10] * 20
    high, low = (
        np.array([CosineByEpoch(rate, steps)(step) for step in range(200)]) for rate in (8e-3, 2e-3)
    )
    assert high[0] == pytest.approx(2e-3) and high.argmax() in range(15, 21)
    np.testing.assert_allclose(high[25:], 4 * low[25:], rtol=1e-5)
    assert low.argmax() == 0 and low[0] == pytest.approx(2e-3) and (np.diff(low) < 0).all()


@pytest.mark.parametrize(("count", "size"), [(1, 32), (19_999, 32), (20_000, 256), (65_450, 256)])
def test_batches_and_learning_rate_follow_the_number_of_captions(count, size):
    chosen, rate = Schedule().for_captions(count), {32: 2e-3, 256: 8e-3}[size]
    assert (chosen.batch_size, chosen.learning_rate) == (size, rate)
    assert Schedule(batch_size=7).for_captions(count) == Schedule(batch_size=7, learning_rate=rate)
    assert Schedule(learning_rate=0.1).for_captions(count).learning_rate == 0.1


def test_weights_decay_as_much_per_epoch_however_many_steps_it_has():
    schedule = Schedule(weight_decay=0.5)
    assert schedule.decay(1) == schedule.decay(DECAY_STEPS) == 0.5
    for steps in (48, 256, 2046):
        assert schedule.decay(steps) * steps == pytest.approx(0.5 * DECAY_STEPS)


def test_a_decoder_that_was_trained_before_starts_afresh(tmp_path):
    """As when the notebook's training cell alone is run again, with RETRAIN or another setting."""
    decoder = fresh()
    history, weights = run(tmp_path / "a", decoder)
    for again in (run(tmp_path / "a", decoder, retrain=True), run(tmp_path / "b", decoder)):
        pd.testing.assert_frame_equal(again[0], history)
        assert all((a == b).all() for a, b in zip(again[1], weights, strict=True))


def test_runs_on_drive_and_in_attached_outputs_are_listed_too(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "KAGGLE_INPUT", tmp_path / "input")
    places = (
        tmp_path / "here",
        tmp_path / "drive" / "checkpoints",
        tmp_path / "input/v1/checkpoints",
    )
    made = [run_folder(p, "toy", record(epochs=k + 1, seed=k)) for k, p in enumerate(places)]
    made.append(run_folder(places[1], "toy", record(epochs=1, seed=0)))  # the copy of the first
    table = list_runs(places[0], tmp_path / "drive")
    assert {*table.index} == {folder.name for folder in made} and len(table) == 3
    assert {*table.seed} == {0, 1, 2} and "learning_rate" not in table  # which does not differ


def stopped_in(monkeypatch, epoch, folder, **options):
    """Stop a training at the beginning of an epoch, counted from 0."""
    run_epoch = loop._Run._run_epoch

    def stopping(self, progress, bar):
        if progress.epoch == epoch:
            raise Stopped
        run_epoch(self, progress, bar)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_run_epoch", stopping)
        with pytest.raises(Stopped):
            run(folder, **options)


def test_retrain_left_on_continues_what_was_stopped(tmp_path, monkeypatch, capsys):
    stopped_in(monkeypatch, 2, tmp_path, retrain=True)
    expected, _ = run(tmp_path / "apart")
    capsys.readouterr()
    history, _ = run(tmp_path, retrain=True)
    assert "Resumed the training: 2 epochs done" in capsys.readouterr().out
    pd.testing.assert_frame_equal(history, expected)
    assert not (tmp_path / RETRAINING).exists()


def test_retrain_replaces_a_training_with_other_settings_that_was_stopped(given, monkeypatch):
    other = {"learning_rate": 3e-3}
    expected, _ = run(given.parent / "apart", **other)
    with pytest.raises(UserError, match="RETRAIN = True"):
        run(given, **other)
    stopped_in(monkeypatch, 1, given, retrain=True, learning_rate=9e-3)  # leaves a retraining
    assert run(given, retrain=True, **other)[0].equals(expected)
    assert run(given, **other)[0].equals(expected)


def test_retrain_helps_where_no_epoch_was_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0)
    step, done = loop.Replicas.train_on_batch, []

    def stopping(*arguments):
        done.append(1)
        if len(done) == 3:
            raise Stopped
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Replicas, "train_on_batch", stopping)
        with pytest.raises(Stopped):
            run(tmp_path)
    assert (tmp_path / STATE).exists() and not (tmp_path / WEIGHTS).exists()
    other = {"learning_rate": 3e-3}
    with pytest.raises(UserError, match=r"other settings.*RETRAIN = True"):
        run(tmp_path, **other)
    assert run(tmp_path, retrain=True, **other)[0].equals(run(tmp_path / "apart", **other)[0])


def test_folders_of_other_programs_are_no_runs(tmp_path):
    (tmp_path / ".vscode").mkdir()
    (tmp_path / ".vscode" / RECORD).write_text("{}")
    assert list_runs(tmp_path).empty


def test_a_member_that_has_nothing_yet_does_not_excuse_the_others_from_retrain(given, tmp_path):
    assert not checkpoint.is_begun(given) and not checkpoint.is_begun(tmp_path / "none")


@pytest.mark.parametrize("early", [False, True])
def test_a_second_session_on_one_drive_keeps_what_the_first_did(
    tmp_path, monkeypatch, capsys, early
):
    """It began before the first one finished, and was stopped later or, if `early`, at once."""
    notes = record(epochs=3, batch_size=16)
    options = {"epochs": 3, "batch_size": 16, "learning_rate": 2e-3}
    drive, ours, theirs = tmp_path / "drive", tmp_path / "ours", tmp_path / "theirs"
    second = run_folder(theirs, "toy", notes, copy=drive)
    copy = drive / "checkpoints" / second.name
    with backed_up(second, copy, unless=copies.is_behind):
        first = run_folder(ours, "toy", notes, copy=drive)
        with backed_up(first, copy, unless=copies.is_behind):
            run(first, **options)
        stopped_in(monkeypatch, 0 if early else 2, second, **options)
        if not early:  # as a session that goes on is newer
            for path in second.iterdir():
                os.utime(path, (4e9, 4e9))
    out = capsys.readouterr().out
    assert "another session has done more there, which stays" in out
    expected = contents(first)
    del expected[PREVIOUS]
    assert contents(copy) == expected
    assert contents(run_folder(theirs, "toy", notes, copy=drive)) == expected
    assert contents(first)[STATE] == contents(run_folder(ours, "toy", notes, copy=drive))[STATE]


def test_a_finished_run_replaces_an_older_one_on_drive(given, tmp_path):
    copy = Path(shutil.copytree(given, tmp_path / "drive" / "given"))
    assert not copies.is_behind(given, copy) and not copies.is_behind(copy, given)
    assert copies.is_behind(tmp_path / "new", copy)  # nothing there yet
    assert not copies.is_behind(copy, tmp_path / "new")
    stop = np.load(given / STATE, allow_pickle=False)
    notes = json.loads(str(stop["progress"])) | {"settings": {"another": 1}, "epoch": 9}
    with open(copy / STATE, "wb") as file:
        np.savez(file, progress=np.array(json.dumps(notes)))
    assert not copies.is_behind(given, copy)


def notes(folder, **changes):
    """Write a state with other notes than it has; its arrays stay."""
    with np.load(folder / STATE) as file:
        arrays = dict(file)
    known = json.loads(str(arrays.pop("progress"))) | changes
    with open(folder / STATE, "wb") as file:
        np.savez(file, progress=np.array(json.dumps(known)), **arrays)


def test_a_newer_copy_does_not_replace_what_did_more(given, tmp_path):
    copy = Path(shutil.copytree(given, tmp_path / "drive" / "checkpoints" / "given"))
    notes(copy, finished=False, epoch=0, step=3)
    (copy / WEIGHTS).write_bytes(b"of its first epoch")
    for path in copy.iterdir():
        os.utime(path, (4e9, 4e9))
    before = contents(given)
    for place in (copy, tmp_path / "nothing there yet"):
        copies.bring_back_run(place, given)
        assert contents(given) == before
    with backed_up(given, copy, unless=copies.is_behind):
        pass
    assert contents(copy)[WEIGHTS] == before[WEIGHTS]


def test_a_copy_that_did_more_and_cannot_be_read_costs_nothing(given, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(given, tmp_path / "drive"))
    notes(given, finished=False, epoch=0, step=3)
    before = contents(given)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="could not be copied"):
        patch.setattr(backup.shutil, "copy2", lambda *a: os.stat("/nowhere"))
        patch.setattr(backup, "_replace", lambda *a: os.listdir(copy / "none"))
        copies.bring_back_run(copy, given)
    assert contents(given) == before
    copies.bring_back_run(copy, given)
    assert contents(given)[STATE] == contents(copy)[STATE]


def test_a_copy_whose_state_proved_damaged_did_not_do_more(given, tmp_path):
    copy, ours = Path(shutil.copytree(given, tmp_path / "copy")), tmp_path / "ours"
    for path in (copy / PREVIOUS, copy / WEIGHTS):
        path.unlink(missing_ok=True)
    content = bytearray((copy / STATE).read_bytes())
    place = content.index(b"best_0.npy") + 200
    content[place : place + 8] = b"damaged!"
    (copy / STATE).write_bytes(content)
    assert checkpoint.notes_of(copy)["finished"]
    copies.bring_back_run(copy, ours)
    options = {"epochs": 1, "batch_size": 16, "learning_rate": 2e-3}
    run(ours, **options)
    again = Path(shutil.copytree(ours, tmp_path / "again"))
    notes(again, finished=False, epoch=0, step=1)
    assert not copies.is_behind(again, copy)
    copies.bring_back_run(copy, again)
    assert checkpoint.notes_of(again)["step"] == 1


def test_a_captioner_from_a_zip_is_not_replaced_by_what_has_just_begun(given, finished, tmp_path):
    copy = Path(shutil.copytree(given, tmp_path / "copy"))
    notes(copy, finished=False, epoch=0, step=3)
    (copy / WEIGHTS).write_bytes(b"of its first epoch")
    for path in (copy / WEIGHTS, copy / STATE):
        os.utime(path, (4e9, 4e9))
    shutil.copytree(copy, copy / "member2")
    (given / STATE).unlink()
    (given / "captioner.json").write_text("{}")
    before = contents(given)
    copies.bring_back_run(copy, given)
    assert contents(given) == before and not (given / "member2").exists()
    shutil.copytree(given, copy, dirs_exist_ok=True)
    (copy / "captioner.json").unlink()
    shutil.copy(finished / STATE, copy / STATE)
    copies.bring_back_run(copy, given)
    assert checkpoint.notes_of(given)["finished"]


def test_only_what_is_copied_counts(given, tmp_path):
    """A copy may have a damaged state beside an older one that is whole."""
    copy = Path(shutil.copytree(given, tmp_path / "copy"))
    shutil.copy(copy / STATE, copy / PREVIOUS)
    (copy / STATE).write_bytes(b"damaged")
    os.utime(copy / STATE, (1e9, 1e9))
    notes(given, finished=False, epoch=0, step=3)
    before = contents(given)
    assert not copies.is_behind(given, copy)
    copies.bring_back_run(copy, given)
    assert contents(given) == before


def test_a_state_that_is_just_being_replaced_counts(given, tmp_path):
    copy = Path(shutil.copytree(given, tmp_path / "copy"))
    notes(given, finished=False, epoch=0, step=3)
    whole = (copy / STATE).read_bytes()
    (copy / STATE).rename(copy / f".{STATE}.replaced.tmp")
    with backed_up(given, copy, unless=copies.is_behind):
        notes(given, finished=False, epoch=0, step=4)
        os.utime(given / STATE, (4e9, 4e9))
        (copy / STATE).rename(copy / f".{STATE}.replaced.tmp")
    assert (copy / STATE).read_bytes() == whole
