"""Tests the download against Kaggle's real client and a Kaggle on localhost."""

from __future__ import annotations

import base64
import builtins
import errno
import io
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from helpers.kaggle_server import KaggleServer

from roco_caption.core.errors import UserError
from roco_caption.data import kaggle as download
from roco_caption.data import kaggle as kaggle_client
from roco_caption.data.archive import DamagedArchive, unpack_radiology
from roco_caption.data.kaggle import download_roco

SECRET = "s3cret-token-never-to-be-shown"
SPLITS = {"train": "train", "validation": "val", "test": "test"}
WANTED = {
    path
    for split, short in SPLITS.items()
    for path in (
        f"all_data/{split}/radiology/images/PMC1_{split}.jpg",
        f"all_data/{split}/radiology/captions.txt",
        f"all_data/{split}/radiology/{short}data.csv",
        f"all_data/{split}/radiology{short}data.csv",
    )
}
UNWANTED = {
    path
    for split in SPLITS
    for path in (
        f"all_data/{split}/non-radiology/images/PMC2.jpg",
        f"all_data/{split}/non-radiologytraindata.csv",
    )
} | {"all_data/readme.txt", "other/train/radiology/x.jpg"}


def make_zip(*extra: tuple[zipfile.ZipInfo | str, bytes], size: int = 30_000) -> bytes:
    """ROCO in small: members of random bytes, then `extra` ones."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for path in sorted(WANTED | UNWANTED):
            zipped.writestr(path, os.urandom(size))
        zipped.mkdir("all_data/train/radiology/empty")
        for member, content in extra:
            with warnings.catch_warnings(action="ignore"):  # "Duplicate name"
                zipped.writestr(member, content)
    return buffer.getvalue()


def files_below(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def assert_unpacked(folder: Path, archive: bytes) -> None:
    zipped = zipfile.ZipFile(io.BytesIO(archive))
    assert files_below(folder / "all_data") == {p.removeprefix("all_data/") for p in WANTED}
    for path in WANTED:
        assert (folder / path).read_bytes() == zipped.read(path)
    assert json.loads((folder / ".complete.json").read_text()) == {
        "dataset": "virajbagal/roco-dataset",
        "files": len(WANTED),
    }


@pytest.fixture(autouse=True)
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, no credentials, no proxy, no waiting for disks."""
    home = tmp_path / "home"
    home.mkdir()
    for name in [name for name in os.environ if name.startswith(("KAGGLE_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setitem(sys.modules, "google.colab", None)
    monkeypatch.setattr(download, "CHUNK", 4096)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # waits for everyone's writes on a busy disk
    return home


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(download.time, "sleep", slept.append)
    return slept


@pytest.fixture
def kaggle(monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleServer]:
    server = KaggleServer(archive=make_zip())
    point_client_at(server.url, monkeypatch)
    yield server
    server.close()


def point_client_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from kagglesdk import kaggle_env

    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, url)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "roco"


# Accounts


def test_downloads_without_an_account(kaggle, folder, capsys):
    assert download_roco(str(folder)) == folder

    assert_unpacked(folder, kaggle.archive)
    assert not (folder / "roco-dataset.zip").exists()
    assert [r["authorization"] for r in kaggle.requests] == [None, None]
    body = json.loads(kaggle.api_calls[0]["body"])
    assert (body["ownerSlug"], body["datasetSlug"]) == ("virajbagal", "roco-dataset")
    out = capsys.readouterr().out
    assert "without an account" in out
    assert f"made {folder}: virajbagal/roco-dataset, {len(WANTED)} radiology files" in out
    assert "authenticate" not in out and "Dataset URL" not in out and "outdated" not in out


def test_second_call_downloads_nothing(kaggle, folder, capsys):
    download_roco(folder)
    asked = len(kaggle.requests)
    capsys.readouterr()

    assert download_roco(folder) == folder

    assert len(kaggle.requests) == asked
    out, err = capsys.readouterr()
    assert out == f"reused {folder}: virajbagal/roco-dataset, {len(WANTED)} radiology files\n"
    assert err == ""


def test_another_process_is_waited_for_and_its_download_reused(kaggle, folder, capsys):
    kaggle.hold_after = 100_000
    process = in_new_process(kaggle, folder)
    deadline = time.monotonic() + 20
    while download._size(folder / "roco-dataset.zip") < 90_000:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        threading.Event().wait(0.02)  # time.sleep is patched
    kaggle.hold_after = None
    # let go, the first one resumes; whoever comes meanwhile asks the API for nothing
    threading.Timer(0.5, kaggle._released.set).start()
    download_roco(folder)
    process.communicate()
    out = capsys.readouterr().out
    assert f"{folder.parent} is in use by process {process.pid}" in out
    assert f"reused {folder}" in out and process.returncode == 0
    assert_unpacked(folder, kaggle.archive)


def in_environment(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", f"{SECRET}\n")  # as `echo` into a file leaves it


def in_token_file(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    write(home / ".kaggle" / "access_token", SECRET + "\n")


def as_user_and_key(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("KAGGLE_USERNAME", "someone")
    monkeypatch.setenv("KAGGLE_KEY", SECRET)


def in_kaggle_json(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    write(home / ".kaggle" / "kaggle.json", json.dumps({"username": "someone", "key": SECRET}))


def in_other_kaggle_json(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(home / "config"))
    write(home / "config" / "kaggle.json", json.dumps({"username": "someone", "key": SECRET}))


def in_colab_secrets(monkeypatch: pytest.MonkeyPatch, home: Path, **secrets: str) -> None:
    def get(name: str) -> str:
        if name not in secrets:
            raise PermissionError(f"NotebookAccessError: {name}")
        return secrets[name]

    userdata = types.SimpleNamespace(get=get)
    fake = types.SimpleNamespace(userdata=userdata)
    monkeypatch.setitem(sys.modules, "google.colab", fake)


def as_colab_token(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    in_colab_secrets(monkeypatch, home, KAGGLE_API_TOKEN=SECRET)


def as_colab_key(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    in_colab_secrets(monkeypatch, home, KAGGLE_USERNAME="someone", KAGGLE_KEY=SECRET)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


BEARER = f"Bearer {SECRET}"
BASIC = "Basic " + base64.b64encode(f"someone:{SECRET}".encode()).decode()
ACCOUNTS = [  # where it lies, and the header that it becomes
    (in_environment, BEARER),
    (in_token_file, BEARER),
    (as_user_and_key, BASIC),
    (in_kaggle_json, BASIC),
    (in_other_kaggle_json, BASIC),
    (as_colab_token, BEARER),
    (as_colab_key, BASIC),
]
NAMES = [give.__name__ for give, _ in ACCOUNTS]


@pytest.mark.parametrize(("give", "header"), ACCOUNTS, ids=NAMES)
def test_uses_an_account(kaggle, folder, bare_machine, monkeypatch, capfd, give, header):
    give(monkeypatch, bare_machine)
    download_roco(folder)
    assert [r["authorization"] for r in kaggle.api_calls] == [header]
    assert [r["authorization"] for r in kaggle.downloads] == [None]  # not for the storage's eyes
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(("give", "header"), ACCOUNTS, ids=NAMES)
def test_refused_account_falls_back_to_none(
    kaggle, folder, bare_machine, monkeypatch, capfd, give, header, status
):
    kaggle.refuse_accounts = status
    give(monkeypatch, bare_machine)
    download_roco(folder)
    assert [r["authorization"] for r in kaggle.api_calls] == [header, None]
    assert_unpacked(folder, kaggle.archive)
    printed = "".join(capfd.readouterr())
    assert printed.count("Kaggle refused the account from ") == 1
    assert SECRET not in printed


@pytest.mark.parametrize("broken", [f"{SECRET}\nX-Injected: 1", f"“{SECRET}”"])
def test_account_that_no_header_can_hold_is_left_out_and_not_shown(
    kaggle, folder, monkeypatch, capfd, broken
):
    monkeypatch.setenv("KAGGLE_API_TOKEN", broken)
    download_roco(folder)
    assert [r["authorization"] for r in kaggle.api_calls] == [None]
    printed = "".join(capfd.readouterr())
    assert "The account from KAGGLE_API_TOKEN holds stray characters" in printed
    assert SECRET not in printed


def test_next_account_is_taken_where_one_is_left_out(kaggle, folder, bare_machine, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", "two\nlines")
    in_kaggle_json(monkeypatch, bare_machine)
    download_roco(folder)
    assert [r["authorization"] for r in kaggle.api_calls] == [BASIC]


@pytest.mark.parametrize("text", ["{not JSON", "[]", "{}", '{"username": "someone"}'])
def test_kaggle_json_without_an_account_is_passed_over(kaggle, folder, bare_machine, text):
    write(bare_machine / ".kaggle" / "kaggle.json", text)
    download_roco(folder)
    assert [r["authorization"] for r in kaggle.api_calls] == [None]


def test_colab_without_secrets_needs_no_account(kaggle, folder, bare_machine, monkeypatch):
    in_colab_secrets(monkeypatch, bare_machine)
    download_roco(folder)
    assert [r["authorization"] for r in kaggle.api_calls] == [None]


def test_verbose_client_shows_no_secret(kaggle, folder, monkeypatch, capfd):
    from kaggle.api.kaggle_api_extended import KaggleApi

    monkeypatch.setattr(KaggleApi, "args", ["--verbose"])  # what VERBOSE=1 does at import
    monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET)
    monkeypatch.setattr("requests.Response.text", property(lambda _: ""))  # printing reads it all
    download_roco(folder)
    assert SECRET not in "".join(capfd.readouterr())


def test_credentials_hide_their_secret():
    assert SECRET not in repr(kaggle_client.Credentials("KAGGLE_API_TOKEN", {"token": SECRET}))


# A fresh interpreter, since the client authenticates when it is first imported

SCRIPT = """
import sys
from kagglesdk import kaggle_env
kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.PROD] = sys.argv[1]
from roco_caption.data import kaggle as download
download.CHUNK = 4096
download.download_roco(sys.argv[2])
assert not {"keras", "tensorflow"} & set(sys.modules)
assert not sys.stdin.closed
"""


def in_new_process(server: KaggleServer, folder: Path, **environment: str) -> subprocess.Popen:
    root = str(Path(download.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, server.url, str(folder)],
        env={**os.environ, "PYTHONPATH": root, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("token", [None, SECRET])
def test_importing_the_client_shows_nothing(kaggle, folder, token):
    kaggle.refuse_accounts = 401
    process = in_new_process(kaggle, folder, **({"KAGGLE_API_TOKEN": token} if token else {}))
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    expected = ["Downloading", "Kaggle refused", "made"] if token else ["Downloading", "made"]
    lines = out.splitlines()
    assert len(lines) == len(expected)
    assert all(line.startswith(start) for line, start in zip(lines, expected, strict=True))
    assert SECRET not in out + err
    assert all("B/s" in line for line in err.replace("\r", "\n").splitlines() if line)  # bars only


def test_missing_client_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaggle", None)
    for name in [name for name in sys.modules if name.startswith("kaggle.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=r"pip install 'kaggle>=2.0' six"):
        download_roco(folder)


# Interrupted downloads


def test_dropped_connection_continues_with_the_remaining_bytes(kaggle, folder, waits, capsys):
    kaggle.drop_after = [100_000, 50_000]
    download_roco(folder)
    total = len(kaggle.archive)
    # Each attempt asks the API anew, whose answer is the whole archive; what follows is the rest.
    ranges = [r["range"] for r in kaggle.downloads]
    assert ranges[0] is None and ranges[1] is None
    start = int(ranges[2][len("bytes=") : -1])
    assert 0 < start <= 100_000
    assert kaggle.sent[2] == total - start
    assert kaggle.downloads[2]["if_range"] == '"first"'
    assert_unpacked(folder, kaggle.archive)
    assert waits == [2]
    assert "trying again in 2 s" in capsys.readouterr().out


def test_killed_process_continues_with_exactly_the_remaining_bytes(kaggle, folder):
    archive = folder / "roco-dataset.zip"
    kaggle.hold_after = 200_000
    process = in_new_process(kaggle, folder)
    deadline = time.monotonic() + 20
    while download._size(archive) < 190_000:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        threading.Event().wait(0.02)  # time.sleep is patched
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    have = archive.stat().st_size
    first_bytes = archive.read_bytes()
    assert first_bytes == kaggle.archive[:have]
    kaggle.hold_after = None
    kaggle.requests.clear()
    kaggle.sent.clear()

    download_roco(folder)

    assert [r["range"] for r in kaggle.downloads] == [None, f"bytes={have}-"]
    # the connection that was killed may report later than this one
    assert len(kaggle.archive) - have in kaggle.sent
    assert_unpacked(folder, kaggle.archive)
    assert not (folder / "roco-dataset.zip.kaggle-partial").exists()


def test_flaky_network_is_endured_while_bytes_arrive(kaggle, folder, waits):
    total = len(kaggle.archive)
    # The storage is asked twice a call from the second on; the unread answer is dropped at once.
    kaggle.drop_after = [total // 12] + [0, total // 12] * 9
    download_roco(folder)
    assert_unpacked(folder, kaggle.archive)
    assert waits == [2] * 10


def leave_partial(folder: Path, content: bytes, validator: str, size: int) -> None:
    folder.mkdir(parents=True)
    (folder / "roco-dataset.zip").write_bytes(content)
    marker = {"validator": validator, "size": size}
    write(folder / "roco-dataset.zip.kaggle-partial", json.dumps(marker))


def test_continues_what_the_client_itself_began(kaggle, folder):
    leave_partial(folder, kaggle.archive[:70_000], '"first"', len(kaggle.archive))
    download_roco(folder)
    assert kaggle.downloads[-1]["range"] == "bytes=70000-"
    assert_unpacked(folder, kaggle.archive)


@pytest.mark.parametrize(
    ("validator", "longer"), [('"older"', 0), ('"first"', 1), (None, 0)], ids=str
)
def test_bytes_of_another_version_are_not_continued(kaggle, folder, validator, longer):
    leave_partial(folder, b"PK" + bytes(70_000), validator, len(kaggle.archive) + longer)
    download_roco(folder)
    assert [r["range"] for r in kaggle.downloads] == [None]
    assert_unpacked(folder, kaggle.archive)


def test_partial_without_marker_is_not_continued(kaggle, folder):
    leave_partial(folder, b"PK" + bytes(70_000), '"first"', len(kaggle.archive))
    (folder / "roco-dataset.zip.kaggle-partial").unlink()
    download_roco(folder)
    assert [r["range"] for r in kaggle.downloads] == [None]
    assert_unpacked(folder, kaggle.archive)


def test_partial_with_damaged_marker_is_not_continued(kaggle, folder):
    leave_partial(folder, b"PK" + bytes(70_000), '"first"', len(kaggle.archive))
    (folder / "roco-dataset.zip.kaggle-partial").write_text("")
    download_roco(folder)
    assert [r["range"] for r in kaggle.downloads] == [None]
    assert_unpacked(folder, kaggle.archive)


def test_another_part_than_asked_for_is_not_appended(kaggle, folder):
    leave_partial(folder, kaggle.archive[:70_000], '"first"', len(kaggle.archive))
    kaggle.shift = 1
    with pytest.raises(UserError, match=r"broke off.*What was downloaded is kept"):
        download_roco(folder)
    assert (folder / "roco-dataset.zip").read_bytes() == kaggle.archive[:70_000]


def test_archive_that_ignores_ranges_is_taken_whole(kaggle, folder):
    leave_partial(folder, kaggle.archive[:70_000], '"first"', len(kaggle.archive))
    kaggle.ranges = False
    download_roco(folder)
    assert [r["range"] for r in kaggle.downloads] == [None, "bytes=70000-"]
    assert_unpacked(folder, kaggle.archive)


def test_file_of_full_size_that_is_no_archive_is_downloaded_anew(kaggle, folder):
    """What a crash of the machine can leave: the size is there, the bytes are not."""
    content = kaggle.archive[:100_000].ljust(len(kaggle.archive), b"\0")
    leave_partial(folder, content, '"first"', len(content))
    download_roco(folder)
    assert [r["range"] for r in kaggle.downloads] == [None]
    assert_unpacked(folder, kaggle.archive)


def test_weak_etag_is_not_sent_as_a_condition(kaggle, folder):
    kaggle.etag = 'W/"first"'
    leave_partial(folder, kaggle.archive[:70_000], kaggle.etag, len(kaggle.archive))
    download_roco(folder)
    assert (kaggle.downloads[-1]["range"], kaggle.downloads[-1]["if_range"]) == (
        "bytes=70000-",
        None,
    )
    assert_unpacked(folder, kaggle.archive)


def test_answer_that_ends_early_without_an_error_is_noticed(folder):
    folder.mkdir(parents=True)
    answer = types.SimpleNamespace(
        headers={"Content-Length": "10"}, iter_content=lambda _: iter([b"PK\3\4"])
    )
    with pytest.raises(requests.ConnectionError, match="ended early"):
        download._receive(answer, folder / "roco-dataset.zip")


def test_without_etag_the_date_identifies_the_archive(kaggle, folder):
    kaggle.etag = None
    kaggle.drop_after = [100_000]
    download_roco(folder)
    assert kaggle.downloads[-1]["if_range"] == "Mon, 04 May 2020 12:00:00 GMT"
    assert_unpacked(folder, kaggle.archive)


def test_refusal_in_the_middle_does_not_touch_what_is_there(kaggle, folder, monkeypatch):
    """An error page must be neither appended (the client 2.0) nor written over it all (2.2)."""
    leave_partial(folder, kaggle.archive[:70_000], '"first"', len(kaggle.archive))
    open_archive = kaggle_client.open_archive

    def open_then_refuse(*arguments):
        answer = open_archive(*arguments)
        kaggle.storage_status = 403
        return answer

    monkeypatch.setattr(kaggle_client, "open_archive", open_then_refuse)
    with pytest.raises(UserError, match=r"403.*What was downloaded is kept"):
        download_roco(folder)
    assert (folder / "roco-dataset.zip").read_bytes() == kaggle.archive[:70_000]
    assert (folder / "roco-dataset.zip.kaggle-partial").exists()


# Archives that are not what they should be


def test_truncated_archive_is_downloaded_once_more(kaggle, folder, capsys):
    whole, kaggle.archive = kaggle.archive, kaggle.archive[:-50_000]
    with pytest.raises(DamagedArchive, match=r"roco-dataset\.zip is damaged .*run this cell again"):
        download_roco(folder)
    assert len(kaggle.api_calls) == 2
    assert "is downloaded anew, once" in capsys.readouterr().out
    assert not (folder / "all_data").exists()

    kaggle.archive, kaggle.etag = whole, '"second"'
    download_roco(folder)
    assert_unpacked(folder, whole)


def test_damaged_archive_on_disk_is_replaced_and_unpacked_files_are_kept(kaggle, folder):
    path = "all_data/validation/radiology/images/PMC1_validation.jpg"
    content = zipfile.ZipFile(io.BytesIO(kaggle.archive)).read(path)
    at = kaggle.archive.index(content) + 100
    damaged = kaggle.archive[:at] + b"damaged!" + kaggle.archive[at + 8 :]
    folder.mkdir(parents=True)
    (folder / "roco-dataset.zip").write_bytes(damaged)
    with pytest.raises(DamagedArchive, match=r"Bad CRC-32.*PMC1_validation\.jpg"):
        unpack_radiology(folder / "roco-dataset.zip", folder)
    kept = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    unpacked = files_below(folder / "all_data.unpacking")
    assert 0 < len(unpacked) < len(WANTED)

    download_roco(folder)

    assert len(kaggle.api_calls) == 1
    assert_unpacked(folder, kaggle.archive)
    for path in unpacked:
        before = kept[folder / "all_data.unpacking" / path]
        assert (folder / "all_data" / path).stat().st_mtime_ns == before


def test_archive_put_there_by_hand_is_used(kaggle, folder, capsys):
    folder.mkdir(parents=True)
    (folder / "roco-dataset.zip").write_bytes(kaggle.archive)
    download_roco(folder, keep_archive=True)
    assert kaggle.requests == []
    assert_unpacked(folder, kaggle.archive)
    assert (folder / "roco-dataset.zip").read_bytes() == kaggle.archive
    assert f"reused {folder / 'roco-dataset.zip'}" in capsys.readouterr().out


def test_web_page_instead_of_the_archive(kaggle, folder):
    kaggle.archive, kaggle.content_type = b"<html>Log in</html>", "text/html"
    with pytest.raises(UserError, match=r"roco-dataset\.zip.*text/html.*<html>Log in"):
        download_roco(folder)
    assert files_below(folder) == set()


def test_zip_of_something_else(kaggle, folder):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr("cats/cat.jpg", b"meow")
    kaggle.archive = buffer.getvalue()
    with pytest.raises(UserError, match="holds no all_data/train/radiology, so it is not ROCO"):
        download_roco(folder)


def test_folder_of_another_data_set_is_left_alone(kaggle, folder):
    download_roco(folder)
    with pytest.raises(UserError, match="holds virajbagal/roco-dataset, not other/set"):
        download_roco(folder, dataset="other/set")


@pytest.mark.parametrize("name", ["roco-dataset", "a/b/c", "a/../b", "", "a/"])
def test_dataset_without_owner_and_name(folder, name):
    with pytest.raises(UserError, match="owner/name"):
        download_roco(folder, dataset=name)
    assert not folder.exists()


# Refusals and networks


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "KAGGLE_API_TOKEN"),
        (403, "KAGGLE_API_TOKEN.*kaggle.com/datasets/virajbagal/roco-dataset.*roco-dataset.zip"),
        (404, "no data set virajbagal/roco-dataset: check the name"),
        (429, "Too many requests: wait some minutes"),
        (500, "Try again later"),
    ],
)
def test_refusals(kaggle, folder, waits, status, says):
    kaggle.api_status = status
    with pytest.raises(UserError, match=f"Kaggle answered {status}.*{says}.*again"):
        download_roco(folder)
    assert waits == ([2, 4] if status in (429, 500) else [])
    assert len(kaggle.api_calls) == len(waits) + 1


@pytest.mark.parametrize(("asked", "waited"), [("7", [7, 7]), ("900", [])])
def test_too_many_requests_waits_as_told_or_says_how_long(kaggle, folder, waits, asked, waited):
    kaggle.api_status, kaggle.retry_after = 429, asked
    with pytest.raises(UserError, match=f"wait {asked} s"):
        download_roco(folder)
    assert waits == waited


def test_recovers_from_a_passing_error(kaggle, folder, monkeypatch):
    kaggle.api_status = 503
    monkeypatch.setattr(download.time, "sleep", lambda _: setattr(kaggle, "api_status", 0))
    download_roco(folder)
    assert_unpacked(folder, kaggle.archive)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (lambda: f"http://localhost:{free_port()}", "connection was refused"),
        (lambda: "http://kaggle.invalid", "name of Kaggle's server was not found"),
    ],
)
def test_no_network(folder, monkeypatch, waits, url, says):
    point_client_at(url(), monkeypatch)
    with pytest.raises(UserError, match=f"{says}.*Check the network"):
        download_roco(folder)
    assert waits == [2, 4]


def test_silent_api(kaggle, folder, monkeypatch):
    kaggle.silent = True
    monkeypatch.setattr(kaggle_client, "TIMEOUT", (1, 0.1))
    with pytest.raises(UserError, match="did not answer in time"):
        download_roco(folder)


def test_download_that_falls_silent_keeps_what_came(kaggle, folder, monkeypatch, waits):
    kaggle.hold_after = 30_000
    monkeypatch.setattr(kaggle_client, "TIMEOUT", (1, 0.1))

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        kaggle.hold_after = 0  # nothing more from here on

    monkeypatch.setattr(download.time, "sleep", sleep)
    with pytest.raises(UserError, match=r"did not answer in time.*What was downloaded is kept"):
        download_roco(folder)
    assert waits == [2, 4, 8, 16, 32]
    kept = (folder / "roco-dataset.zip").read_bytes()
    assert 0 < len(kept) <= 30_000 and kaggle.archive.startswith(kept)
    kaggle.hold_after = None
    download_roco(folder)
    assert kaggle.downloads[-1]["range"] == f"bytes={len(kept)}-"
    assert_unpacked(folder, kaggle.archive)


# Disks


def pretend_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = shutil._ntuple_diskusage(10**12, 10**12 - free, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


def test_not_enough_room_is_said_before_anything_is_written(kaggle, folder, monkeypatch):
    pretend_free(monkeypatch, 2 * len(kaggle.archive))
    with pytest.raises(UserError, match=r"Not enough room on .*data/roco: .* needed, .* free"):
        download_roco(folder)
    assert files_below(folder) == set()


def test_real_sizes_are_named(folder, monkeypatch):
    folder.mkdir(parents=True)
    pretend_free(monkeypatch, 3_210_000_000)
    answer = types.SimpleNamespace(
        headers={"Content-Length": "6190000000", "ETag": '"x"'}, iter_content=None
    )
    with pytest.raises(UserError, match=r"13\.19 GB are needed, 3\.21 GB are free"):
        download._receive(answer, folder / "roco-dataset.zip")


def test_downloaded_bytes_count_as_present(kaggle, folder, monkeypatch):
    have = len(kaggle.archive) - 10_000
    leave_partial(folder, kaggle.archive[:have], '"first"', len(kaggle.archive))
    pretend_free(monkeypatch, 2 * len(kaggle.archive))  # not enough for all of it: see above
    download_roco(folder)
    assert_unpacked(folder, kaggle.archive)


class FullDisk(io.FileIO):
    """A file on a disk with room for 50,000 bytes."""

    def write(self, data) -> int:
        if self.tell() + len(data) > 50_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.name)
        return super().write(data)


def fill_disk(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    def limited(path, mode="r", *arguments, **keywords):
        if "b" in mode and "r" not in mode:
            return FullDisk(path, mode.replace("b", ""))
        return builtins.open(path, mode, *arguments, **keywords)

    monkeypatch.setattr(f"roco_caption.{module}.open", limited, raising=False)


def test_disk_that_fills_while_downloading(kaggle, folder, waits):
    with pytest.MonkeyPatch.context() as patch:
        fill_disk(patch, "download")
        with pytest.raises(UserError, match=r"The disk is full at .*roco-dataset\.zip.*Free some"):
            download_roco(folder)
    assert waits == []
    have = (folder / "roco-dataset.zip").stat().st_size
    assert 40_000 < have <= 50_000
    download_roco(folder)
    assert kaggle.downloads[-1]["range"] == f"bytes={have}-"
    assert_unpacked(folder, kaggle.archive)


def test_disk_that_fills_while_unpacking(kaggle, folder):
    kaggle.archive = make_zip(size=60_000)
    with pytest.MonkeyPatch.context() as patch:
        fill_disk(patch, "archive")
        with pytest.raises(UserError, match=r"The disk is full at .*Free some room"):
            download_roco(folder)
    assert (folder / "roco-dataset.zip").read_bytes() == kaggle.archive
    assert files_below(folder / "all_data.unpacking") == set()
    download_roco(folder)
    assert len(kaggle.api_calls) == 1
    assert_unpacked(folder, kaggle.archive)


def test_folder_that_cannot_be_made(tmp_path, kaggle):
    write(tmp_path / "file", "")
    with pytest.raises(UserError, match="Choose a folder that you may write to"):
        download_roco(tmp_path / "file" / "roco")


# Unpacking


@pytest.fixture
def unpack(tmp_path: Path, folder: Path) -> Callable[[bytes], int]:
    folder.mkdir(parents=True)

    def run(archive: bytes) -> int:
        (tmp_path / "roco.zip").write_bytes(archive)
        return unpack_radiology(tmp_path / "roco.zip", folder)

    return run


def test_unpacks_radiology_only(unpack, folder):
    assert unpack(make_zip()) == len(WANTED)
    assert files_below(folder) == WANTED


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/evil",
        "all_data/train/radiology/../../../../evil",
        "all_data/train/radiology/images/..",
        "C:/evil",
        "c:evil",
        "all_data/train/radiology/D:/evil",
        "all_data\\train\\radiology\\evil",
        "all_data/train/radiology/..\\..\\evil",
        "all_data/train/radiology/evil\0.jpg",
    ],
)
def test_names_that_lead_elsewhere_are_refused(unpack, folder, tmp_path, name):
    info = zipfile.ZipInfo("x" * len(name))
    archive = make_zip((info, b"evil")).replace(b"x" * len(name), name.encode())
    with pytest.raises(UserError, match="would be written outside") as caught:
        unpack(archive)
    assert repr(name) in str(caught.value)
    assert not isinstance(caught.value, DamagedArchive)
    assert files_below(tmp_path) == {"roco.zip"}


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_that_the_archive_does_not_have_are_damage(unpack, method):
    info = zipfile.ZipInfo("all_data/train/radiology/images/a.jpg")
    info.compress_type = method
    with pytest.raises(DamagedArchive, match=rf"a\.jpg' is compressed by method {method}"):
        unpack(make_zip((info, b"pixels")))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(unpack, folder, tmp_path, kind):
    info = zipfile.ZipInfo("all_data/train/radiology/images/link.jpg")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    with pytest.raises(UserError, match=r"images/link\.jpg' is a link or a device"):
        unpack(make_zip((info, b"/etc/passwd")))
    assert files_below(tmp_path) == {"roco.zip"}


def with_stated_size(archive: bytes, path: str, size: int) -> bytes:
    """Change the size that the table of contents states for an entry."""
    at = archive.rindex(path.encode()) - 46  # its record in the central directory
    assert archive[at : at + 4] == b"PK\1\2"
    return archive[: at + 24] + size.to_bytes(4, "little") + archive[at + 28 :]


@pytest.mark.parametrize("size", [10, 29_999, 30_001, 50_000])
def test_entries_that_lie_about_their_size_are_refused(unpack, folder, size):
    path = "all_data/train/radiology/images/PMC1_train.jpg"
    with pytest.raises(DamagedArchive, match=r"PMC1_train\.jpg"):
        unpack(with_stated_size(make_zip(), path, size))
    assert not any("PMC1_train" in name for name in files_below(folder))


def test_stated_sizes_must_fit_on_the_disk(unpack, folder):
    path = "all_data/train/radiology/images/PMC1_train.jpg"
    with pytest.MonkeyPatch.context() as patch:
        pretend_free(patch, 4 * 10**9)
        with pytest.raises(UserError, match=r"4\.2\d GB are needed, 4\.00 GB are free"):
            unpack(with_stated_size(make_zip(), path, 2**32 - 100_000_000 + 20_000_000))
    assert files_below(folder) == set()


def test_encrypted_entry_is_an_error(unpack):
    archive = make_zip()
    at = archive.rindex(b"all_data/train/radiology/captions.txt") - 46
    flagged = archive[: at + 8] + b"\1" + archive[at + 9 :]
    with pytest.raises(DamagedArchive, match=r"captions\.txt.*encrypted"):
        unpack(flagged)


def test_interrupted_unpacking_continues(unpack, folder, monkeypatch):
    archive = make_zip()
    copy, copied = shutil.copyfileobj, []

    def interrupted(source, file, length):
        copied.append(source.name)
        file.write(b"half a file")
        if len(copied) == 5:
            raise KeyboardInterrupt
        file.seek(0)
        copy(source, file, length)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", interrupted)
        with pytest.raises(KeyboardInterrupt):
            unpack(archive)
    assert not (folder / "all_data").exists()
    assert len(files_below(folder)) == 4

    again = []
    monkeypatch.setattr(
        shutil, "copyfileobj", lambda s, *rest: (again.append(s.name), copy(s, *rest))
    )
    assert unpack(archive) == len(WANTED)
    assert set(again) == WANTED - set(copied[:4])
    assert files_below(folder) == WANTED


def test_killed_between_the_last_steps_continues(kaggle, folder, monkeypatch):
    """All is unpacked and named, but nothing says so yet: neither redone nor downloaded again."""
    with monkeypatch.context() as patch:
        patch.setattr(download, "write_json", killed_for(".complete.json", download.write_json))
        with pytest.raises(KeyboardInterrupt):
            download_roco(folder)
    times = {p: p.stat().st_mtime_ns for p in (folder / "all_data").rglob("*.jpg")}
    download_roco(folder)
    assert len(kaggle.api_calls) == 1
    assert_unpacked(folder, kaggle.archive)
    assert times == {p: p.stat().st_mtime_ns for p in times}


def killed_for(name: str, write_json: Callable) -> Callable:
    def run(path: Path, value: object) -> None:
        if path.name == name:
            raise KeyboardInterrupt
        write_json(path, value)

    return run
