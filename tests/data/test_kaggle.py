"""ROCO arrives whole from an imitated Kaggle, whatever interrupts, refuses or damages it."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import zipfile
from pathlib import Path

import pytest
import requests
from helpers.archives import RADIOLOGY, files_below, fill_disk, make_zip, pretend_free
from helpers.kaggle_server import MODIFIED, KaggleServer

from roco_caption.core.errors import UserError
from roco_caption.data import archive as archives
from roco_caption.data import kaggle
from roco_caption.data.account import find_account
from roco_caption.data.archive import DamagedArchive, unpack_radiology
from roco_caption.data.kaggle import download_roco, download_texts

SECRET = "s3cret-token-never-to-be-shown"
BEARER = f"Bearer {SECRET}"
BASIC = "Basic " + base64.b64encode(f"someone:{SECRET}".encode()).decode()
KAGGLE_JSON = json.dumps({"username": "someone", "key": SECRET})


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """An empty home folder on a machine without credentials, proxies and slow disks."""
    (tmp_path / "home").mkdir()
    for name in [name for name in os.environ if name.startswith(("KAGGLE_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setitem(sys.modules, "google.colab", None)
    monkeypatch.setattr(kaggle, "CHUNK", 4096)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def waits(monkeypatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr(kaggle, "time", types.SimpleNamespace(sleep=seconds.append))
    return seconds


@pytest.fixture
def server(monkeypatch):
    server = KaggleServer(archive=make_zip())
    monkeypatch.setattr(kaggle, "SERVER", server.url)
    yield server
    server.close()


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "data" / "roco"


@pytest.fixture
def archive(folder) -> Path:
    return folder / "roco-dataset.zip"


def assert_unpacked(folder: Path, content: bytes) -> None:
    zipped = zipfile.ZipFile(io.BytesIO(content))
    assert {f"all_data/{path}" for path in files_below(folder / "all_data")} == RADIOLOGY
    assert all((folder / path).read_bytes() == zipped.read(path) for path in RADIOLOGY)
    record = json.loads((folder / ".complete.json").read_text())
    assert record == {"dataset": "virajbagal/roco-dataset", "files": len(RADIOLOGY)}
    assert not list(folder.glob("roco-dataset.zip*"))


def values(requests: list[dict], name: str) -> list[str | None]:
    return [request[name] for request in requests]


# Accounts


def test_downloads_without_an_account_and_only_once(server, folder, capsys):
    assert download_roco(str(folder)) == folder
    assert_unpacked(folder, server.archive)
    assert values(server.requests, "Authorization") == [None, None]
    count = f"{folder}: virajbagal/roco-dataset, {len(RADIOLOGY)} radiology files"
    first = "Downloading virajbagal/roco-dataset from Kaggle, without an account"
    assert capsys.readouterr().out.splitlines() == [first, f"made {count}"]

    assert download_roco(folder) == folder
    assert len(server.requests) == 2
    assert capsys.readouterr() == (f"reused {count}\n", "")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def set_colab_secrets(monkeypatch, **secrets: str) -> None:
    userdata = types.SimpleNamespace(get=secrets.__getitem__)  # raises for a missing secret
    monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(userdata=userdata))


PLACES = [  # environment variables, files below the home folder, Colab's secrets
    ({"KAGGLE_API_TOKEN": f"{SECRET}\n"}, {}, {}, BEARER),
    ({"KAGGLE_API_TOKEN": "~/token"}, {"token": SECRET}, {}, BEARER),
    ({}, {".kaggle/access_token": f"{SECRET}\n"}, {}, BEARER),
    ({"KAGGLE_USERNAME": "someone", "KAGGLE_KEY": SECRET}, {}, {}, BASIC),
    ({}, {".kaggle/kaggle.json": KAGGLE_JSON}, {}, BASIC),
    ({"KAGGLE_CONFIG_DIR": "~/config"}, {"config/kaggle.json": KAGGLE_JSON}, {}, BASIC),
    ({}, {".config/kaggle/kaggle.json": KAGGLE_JSON}, {}, BASIC),
    ({}, {}, {"KAGGLE_API_TOKEN": SECRET}, BEARER),
    ({}, {}, {"KAGGLE_USERNAME": "someone", "KAGGLE_KEY": SECRET}, BASIC),
]


@pytest.mark.parametrize(("environment", "files", "secrets", "header"), PLACES)
def test_accounts_are_found(home, monkeypatch, environment, files, secrets, header):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for path, text in files.items():
        write(home / path, text)
    set_colab_secrets(monkeypatch, **secrets)
    source, headers = find_account()
    assert headers == {"Authorization": header}
    assert "account from" in source and SECRET not in source


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(("environment", "files", "secrets", "header"), PLACES[1::2])
def test_accounts_are_looked_for_only_after_kaggle_refuses_to_do_without(
    server, folder, home, monkeypatch, capfd, status, environment, files, secrets, header
):
    asked = []
    find = kaggle.find_account
    monkeypatch.setattr(kaggle, "find_account", lambda: asked.append(1) or find())
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for path, text in files.items():
        write(home / path, text)
    set_colab_secrets(monkeypatch, **secrets)
    download_roco(folder.with_name("first"))
    assert asked == [] and values(server.requests, "Authorization") == [None, None]

    server.refuse_anonymous = status
    server.requests.clear()
    write(home / ".netrc", "machine localhost login other password other\n")
    download_roco(folder)
    assert values(server.api_calls, "Authorization") == [None, header]
    assert values(server.downloads, "Authorization") == [None]  # the storage gets no account
    assert_unpacked(folder, server.archive)
    printed = "".join(capfd.readouterr())
    assert "refused the download without an account. Trying again with the account" in printed
    assert SECRET not in printed


@pytest.mark.parametrize("secrets", [{}, {"KAGGLE_API_TOKEN": "expired"}])
def test_refused_with_and_without_an_account_the_ways_are_named(
    server, folder, home, monkeypatch, secrets
):
    server.refuse_anonymous = server.refuse_accounts = 403
    set_colab_secrets(monkeypatch, **secrets)
    with pytest.raises(UserError, match=r"Kaggle answered 403.*KAGGLE_API_TOKEN.*in a browser"):
        download_roco(folder)
    assert len(server.api_calls) == 1 + len(secrets)


def test_a_refusal_by_the_storage_is_no_reason_to_look_for_an_account(
    server, folder, archive, home, monkeypatch
):
    monkeypatch.setattr(kaggle, "find_account", lambda: pytest.fail("it is not asked for"))
    leave_partial(archive, server.archive[:70_000], len(server.archive))
    server.storage_refuses_ranges = 403
    with pytest.raises(UserError, match="403"):
        download_roco(folder)


# Colab's own copy


def write_kagglehub(monkeypatch, folder: Path, code: str) -> None:
    """Imitate the package, of which Colab's notebook and its processes see only this."""
    package = folder / "site" / "kagglehub"
    write(package / "__init__.py", "")
    write(package / "handle.py", "def parse_dataset_handle(text):\n    return text\n")
    write(package / "colab_cache_resolver.py", code)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("PYTHONPATH", str(package.parent))


ASKING = "Asking Colab for its own copy of ROCO (at most {} seconds)\n"
RESOLVER = """
import os, sys, time
class DatasetColabCacheResolver:
    def is_supported(self, handle):
        print("Mounting files ...")
        return handle == "virajbagal/roco-dataset"
    def __call__(self, handle, path):
        {}
"""


@pytest.mark.parametrize("answer", ["'/kaggle/input/roco'", "('/kaggle/input/roco', 1)"])
def test_colab_mounts_its_own_copy(tmp_path, monkeypatch, capfd, answer):
    write_kagglehub(monkeypatch, tmp_path, RESOLVER.format(f"return {answer}"))
    assert kaggle.mounted_by_colab() == Path("/kaggle/input/roco")
    assert capfd.readouterr() == (ASKING.format(90), "")


@pytest.mark.parametrize(
    "code",
    [
        "raise ImportError('another version')",
        RESOLVER.format("raise OSError('no route')"),
        RESOLVER.format("time.sleep(60)"),
        RESOLVER.format("os.kill(os.getpid(), 9)"),
        RESOLVER.replace("return handle == ", "return handle != ").format("return 'x'"),
    ],
    ids=["another version", "fails", "waits without end", "is killed", "has no copy"],
)
def test_whatever_goes_wrong_with_colabs_copy_is_silent(tmp_path, monkeypatch, capfd, code):
    monkeypatch.setattr(kaggle, "CACHE_SECONDS", 2)
    write_kagglehub(monkeypatch, tmp_path, code)
    start = time.monotonic()
    assert kaggle.mounted_by_colab() is None and time.monotonic() - start < 15
    assert capfd.readouterr() == (ASKING.format(2), "")


def test_without_kagglehub_no_process_is_started(monkeypatch):
    monkeypatch.setattr(kaggle.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(kaggle.subprocess, "run", lambda *_, **__: pytest.fail("a process"))
    assert kaggle.mounted_by_colab() is None


@pytest.mark.parametrize("token", [f"{SECRET}\nX-Injected: 1", f"“{SECRET}”"])
def test_credentials_that_no_header_can_hold_are_ignored_and_not_shown(
    home, monkeypatch, capfd, token
):
    monkeypatch.setenv("KAGGLE_API_TOKEN", token)
    assert find_account() == ("", {})
    printed = "".join(capfd.readouterr())
    assert "The credentials from KAGGLE_API_TOKEN contain invalid characters" in printed
    assert SECRET not in printed
    write(home / ".kaggle" / "kaggle.json", KAGGLE_JSON)
    assert find_account()[1] == {"Authorization": BASIC}


@pytest.mark.parametrize("text", ["{not JSON", "[]", "{}", '{"username": "someone"}'])
def test_kaggle_json_and_colab_without_an_account_are_skipped(home, monkeypatch, text):
    write(home / ".kaggle" / "kaggle.json", text)
    set_colab_secrets(monkeypatch)
    assert find_account() == ("", {})


# Interrupted downloads

SCRIPT = """
import sys
from roco_caption.data import kaggle
kaggle.SERVER, kaggle.CHUNK = sys.argv[1], 4096
kaggle.download_roco(sys.argv[2])
assert not {"kaggle", "keras", "tensorflow"} & set(sys.modules)
"""


def start_process(server: KaggleServer, folder: Path, size: int) -> subprocess.Popen:
    """Start a download in another process; return once the archive has `size` bytes."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, server.url, str(folder)],
        env=os.environ | {"PYTHONPATH": str(Path(kaggle.__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while kaggle._size(folder / "roco-dataset.zip") < size:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.02)
    return process


def test_another_process_is_waited_for_and_its_download_reused(server, folder, capsys):
    server.hold_after = 100_000
    process = start_process(server, folder, 90_000)
    server.hold_after = None
    threading.Timer(0.5, server._released.set).start()
    download_roco(folder)
    _, errors = process.communicate()
    out = capsys.readouterr().out
    assert f"{folder.parent} is in use by process {process.pid}" in out
    assert f"reused {folder}" in out and process.returncode == 0, errors
    assert_unpacked(folder, server.archive)


def test_a_killed_process_continues_with_exactly_the_remaining_bytes(server, folder, archive):
    server.hold_after = 200_000
    process = start_process(server, folder, 190_000)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    size = archive.stat().st_size
    assert archive.read_bytes() == server.archive[:size]
    server.hold_after = None
    server.requests.clear()
    server.sent.clear()

    download_roco(folder)

    assert values(server.downloads, "Range") == [None, f"bytes={size}-"]
    assert len(server.archive) - size in server.sent  # the killed connection may report later
    assert_unpacked(folder, server.archive)


def test_a_dropped_connection_continues_with_the_remaining_bytes(server, folder, waits, capsys):
    server.drop_after = [100_000, 50_000]
    download_roco(folder)
    # Each attempt asks for the whole archive, to learn its version, and then for the rest.
    assert values(server.downloads, "Range")[:2] == [None, None]
    offset = int(server.downloads[2]["Range"][len("bytes=") : -1])
    assert 0 < offset <= 100_000
    assert server.sent[2] == len(server.archive) - offset
    assert server.downloads[2]["If-Range"] == '"first"'
    assert_unpacked(folder, server.archive)
    assert waits == [2]
    assert "Trying again in 2 s" in capsys.readouterr().out


def test_a_flaky_network_is_endured_while_bytes_arrive(server, folder, waits):
    size = len(server.archive) // 12
    server.drop_after = [size] + [0, size] * 9  # 0: the response whose body is not read
    download_roco(folder)
    assert_unpacked(folder, server.archive)
    assert waits == [2] * 10


def leave_partial(
    archive: Path, content: bytes, size: int, validator: str | None = '"first"'
) -> None:
    archive.parent.mkdir(parents=True)
    archive.write_bytes(content)
    marker = {"validator": validator, "size": size}
    write(archive.with_name("roco-dataset.zip.kaggle-partial"), json.dumps(marker))


@pytest.mark.parametrize(
    ("validator", "longer"), [('"older"', 0), ('"first"', 1), (None, 0)], ids=str
)
def test_bytes_of_another_version_are_not_continued(server, folder, archive, validator, longer):
    leave_partial(archive, b"PK" + bytes(70_000), len(server.archive) + longer, validator)
    download_roco(folder)
    assert values(server.downloads, "Range") == [None]
    assert_unpacked(folder, server.archive)


@pytest.mark.parametrize("content", [None, "", "[]"])
def test_bytes_without_a_valid_marker_are_not_continued(server, folder, archive, content):
    leave_partial(archive, b"PK" + bytes(70_000), len(server.archive))
    marker = archive.with_name("roco-dataset.zip.kaggle-partial")
    if content is None:
        marker.unlink()
    else:
        marker.write_text(content)
    download_roco(folder)
    assert values(server.downloads, "Range") == [None]
    assert_unpacked(folder, server.archive)


def test_a_file_of_full_size_that_is_not_an_archive_is_downloaded_again(server, folder, archive):
    """A crash of the machine can leave one: the size is there, the bytes are not."""
    size = len(server.archive)
    leave_partial(archive, server.archive[:100_000].ljust(size, b"\0"), size)
    download_roco(folder)
    assert values(server.downloads, "Range") == [None]
    assert_unpacked(folder, server.archive)


def test_another_range_than_requested_is_not_appended(server, folder, archive):
    leave_partial(archive, server.archive[:70_000], len(server.archive))
    server.shift = 1
    with pytest.raises(
        UserError, match=r"connection to Kaggle failed.*What was downloaded is kept"
    ):
        download_roco(folder)
    assert archive.read_bytes() == server.archive[:70_000]


def test_a_refusal_in_the_middle_keeps_what_was_downloaded(server, folder, archive):
    """Kaggle's client appends the error page (2.0) or replaces the file with it (2.2)."""
    leave_partial(archive, server.archive[:70_000], len(server.archive))
    server.storage_refuses_ranges = 403
    with pytest.raises(UserError, match=r"403.*What was downloaded is kept"):
        download_roco(folder)
    assert archive.read_bytes() == server.archive[:70_000]
    server.storage_refuses_ranges = 0
    download_roco(folder)
    assert server.downloads[-1]["Range"] == "bytes=70000-"
    assert_unpacked(folder, server.archive)


def test_a_server_that_ignores_ranges_sends_all(server, folder, archive):
    leave_partial(archive, server.archive[:70_000], len(server.archive))
    server.ranges = False
    download_roco(folder)
    assert values(server.downloads, "Range") == [None, "bytes=70000-"]
    assert_unpacked(folder, server.archive)


@pytest.mark.parametrize(
    ("etag", "validator", "condition"),
    [('W/"first"', 'W/"first"', None), (None, MODIFIED, MODIFIED)],
    ids=["weak ETag", "date"],
)
def test_the_condition_is_a_strong_etag_or_the_date(
    server, folder, archive, etag, validator, condition
):
    server.etag = etag
    leave_partial(archive, server.archive[:70_000], len(server.archive), validator)
    download_roco(folder)
    last = server.downloads[-1]
    assert (last["Range"], last["If-Range"]) == ("bytes=70000-", condition)
    assert_unpacked(folder, server.archive)


def test_a_response_that_ends_early_without_an_error_is_noticed(folder, archive):
    folder.mkdir(parents=True)
    response = types.SimpleNamespace(
        headers={"Content-Length": "10"}, iter_content=lambda _: iter([b"PK\3\4"])
    )
    with pytest.raises(requests.ConnectionError, match="ended early"):
        kaggle._receive(response, archive)


def test_killed_between_the_last_steps_nothing_is_done_again(server, folder, monkeypatch):
    def killed(path: Path, value: object) -> None:
        if path.name == ".complete.json":
            raise KeyboardInterrupt
        write_json(path, value)

    write_json = kaggle.write_json
    with monkeypatch.context() as patch:
        patch.setattr(kaggle, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            download_roco(folder)
    times = {p: p.stat().st_mtime_ns for p in (folder / "all_data").rglob("*.jpg")}
    download_roco(folder)
    assert len(server.api_calls) == 1
    assert_unpacked(folder, server.archive)
    assert times == {p: p.stat().st_mtime_ns for p in times}


# Wrong and damaged archives


def test_a_truncated_archive_is_downloaded_once_more(server, folder, capsys):
    content, server.archive = server.archive, server.archive[:-50_000]
    with pytest.raises(DamagedArchive, match=r"roco-dataset\.zip is damaged .*run this cell again"):
        download_roco(folder)
    assert len(server.api_calls) == 2
    assert "Downloading it again, once" in capsys.readouterr().out
    assert not (folder / "all_data").exists()

    server.archive, server.etag = content, '"second"'
    download_roco(folder)
    assert_unpacked(folder, content)


def test_a_damaged_archive_is_replaced_and_unpacked_files_are_kept(server, folder, archive):
    path = "all_data/validation/radiology/images/PMC1_validation.jpg"
    content = zipfile.ZipFile(io.BytesIO(server.archive)).read(path)
    at = server.archive.index(content) + 100
    folder.mkdir(parents=True)
    archive.write_bytes(server.archive[:at] + b"damaged!" + server.archive[at + 8 :])
    with pytest.raises(DamagedArchive, match=r"Bad CRC-32.*PMC1_validation\.jpg"):
        unpack_radiology(archive, folder)
    tree = folder / "all_data.unpacking"
    times = {path: (tree / path).stat().st_mtime_ns for path in files_below(tree)}
    assert 0 < len(times) < len(RADIOLOGY)

    download_roco(folder)

    assert len(server.api_calls) == 1
    assert_unpacked(folder, server.archive)
    assert times == {path: (folder / "all_data" / path).stat().st_mtime_ns for path in times}


@pytest.mark.parametrize("by", ["", "moved", "copied"])
def test_an_archive_saved_by_hand_is_used(server, folder, archive, capsys, by):
    if by:  # after an interrupted download
        server.drop_after, server.storage_refuses_ranges = [100_000], 403
        with pytest.raises(UserError, match="What was downloaded is kept"):
            download_roco(folder)
        server.requests.clear()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "by-hand.zip").write_bytes(server.archive)
    os.utime(folder / "by-hand.zip", (1e9, 1e9))
    shutil.copy2(folder / "by-hand.zip", archive)
    if by != "copied":
        (folder / "by-hand.zip").replace(archive)
    download_roco(folder)
    assert server.requests == []
    out = capsys.readouterr().out
    assert f"reused {archive}" in out and f"{archive} is not needed any more, and stays" in out
    archive.unlink()
    assert_unpacked(folder, server.archive)


def test_a_web_page_is_not_an_archive(server, folder):
    server.archive, server.content_type = b"<html>Log in</html>", "text/html"
    with pytest.raises(UserError, match=r"roco-dataset\.zip.*<html>Log in"):
        download_roco(folder)
    assert files_below(folder) == set()


def test_a_zip_of_something_else_is_refused(server, folder):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr("cats/cat.jpg", b"meow")
    server.archive = buffer.getvalue()
    with pytest.raises(UserError, match="has no all_data/train/radiology, so it is not ROCO"):
        download_roco(folder)
    assert not (folder / "all_data").exists()


# Refusals and networks


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "KAGGLE_API_TOKEN"),
        (403, "KAGGLE_API_TOKEN.*/datasets/virajbagal/roco-dataset.*roco-dataset.zip"),
        (404, "/datasets/virajbagal/roco-dataset in a browser"),
        (429, "Wait 300 s"),
        (500, "Wait 300 s"),
    ],
)
def test_refusals_name_the_remedy(server, folder, waits, status, remedy):
    server.api_status = status
    with pytest.raises(UserError, match=f"Kaggle answered {status}.*{remedy}.*again"):
        download_roco(folder)
    assert waits == ([2, 4] if status in (429, 500) else [])
    assert len(server.api_calls) == len(waits) + 1


@pytest.mark.parametrize(("seconds", "expected"), [("7", [7, 7]), ("900", [])])
def test_too_many_requests_waits_as_requested_or_says_how_long(
    server, folder, waits, seconds, expected
):
    server.api_status, server.retry_after = 429, seconds
    with pytest.raises(UserError, match=f"Wait {seconds} s"):
        download_roco(folder)
    assert waits == expected


def test_a_temporary_error_is_overcome(server, folder, monkeypatch):
    server.api_status = 503
    monkeypatch.setattr(kaggle.time, "sleep", lambda _: setattr(server, "api_status", 0))
    download_roco(folder)
    assert_unpacked(folder, server.archive)


@pytest.mark.parametrize("host", ["localhost", "kaggle.invalid"])
def test_without_a_network_the_remedy_comes_soon(folder, monkeypatch, waits, host):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setattr(kaggle, "SERVER", f"http://{host}:{port}")
    with pytest.raises(UserError, match=r"connection to Kaggle failed.*Check the network"):
        download_roco(folder)
    assert waits == [2, 4]


def test_a_silent_api_ends_in_a_message(server, folder, monkeypatch):
    server.silent = True
    monkeypatch.setattr(kaggle, "TIMEOUT", (1, 0.1))
    with pytest.raises(UserError, match="did not answer in time"):
        download_roco(folder)


def test_a_download_that_falls_silent_keeps_what_came(server, folder, archive, monkeypatch, waits):
    server.hold_after = 30_000
    monkeypatch.setattr(kaggle, "TIMEOUT", (1, 0.1))

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        server.hold_after = 0  # nothing more from here on

    monkeypatch.setattr(kaggle.time, "sleep", sleep)
    with pytest.raises(UserError, match=r"did not answer in time.*What was downloaded is kept"):
        download_roco(folder)
    assert waits == [2, 4, 8, 16, 32]
    content = archive.read_bytes()
    assert 0 < len(content) <= 30_000 and server.archive.startswith(content)
    server.hold_after = None
    monkeypatch.setattr(kaggle, "TIMEOUT", (10, 10))  # on a busy machine too
    download_roco(folder)
    assert server.downloads[-1]["Range"] == f"bytes={len(content)}-"
    assert_unpacked(folder, server.archive)


# Disks


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_written(
    server, folder, monkeypatch
):
    pretend_free(monkeypatch, 2 * len(server.archive))
    with pytest.raises(
        UserError, match=r"Not enough disk space for .*data/roco: .* needed, .* free"
    ):
        download_roco(folder)
    assert files_below(folder) == set()


def test_bytes_already_downloaded_need_no_room(server, folder, archive, monkeypatch):
    size = len(server.archive) - 10_000
    leave_partial(archive, server.archive[:size], len(server.archive))
    pretend_free(monkeypatch, 2 * len(server.archive))  # not enough for all of it: see above
    download_roco(folder)
    assert_unpacked(folder, server.archive)


def test_the_real_archive_needs_13_gb(folder, archive, monkeypatch):
    folder.mkdir(parents=True)
    pretend_free(monkeypatch, 3_210_000_000)
    response = types.SimpleNamespace(headers={"Content-Length": "6190000000", "ETag": '"x"'})
    with pytest.raises(UserError, match=r"13\.19 GB needed, 3\.21 GB free"):
        kaggle._receive(response, archive)


def test_a_disk_that_fills_while_downloading(server, folder, archive, waits):
    with pytest.MonkeyPatch.context() as patch:
        fill_disk(patch, kaggle)
        with pytest.raises(UserError, match=r"roco-dataset\.zip could not be written.*Free some"):
            download_roco(folder)
    assert waits == []
    size = archive.stat().st_size
    assert 40_000 < size <= 50_000
    download_roco(folder)
    assert server.downloads[-1]["Range"] == f"bytes={size}-"
    assert_unpacked(folder, server.archive)


def test_a_disk_that_fills_while_unpacking(server, folder, archive):
    server.archive = make_zip(size=60_000)
    with pytest.MonkeyPatch.context() as patch:
        fill_disk(patch, archives)
        with pytest.raises(UserError, match=r"could not be written .*Free some space"):
            download_roco(folder)
    assert archive.read_bytes() == server.archive
    assert files_below(folder / "all_data.unpacking") == set()
    download_roco(folder)
    assert len(server.api_calls) == 1
    assert_unpacked(folder, server.archive)


def test_a_folder_that_cannot_be_made_is_named(tmp_path, server):
    write(tmp_path / "file", "")
    with pytest.raises(UserError, match="Choose a writable folder"):
        download_roco(tmp_path / "file" / "roco")


# Single files


@pytest.mark.parametrize("zipped", [False, True])
def test_one_file_is_downloaded_once(server, tmp_path, zipped):
    content = "ROCO_1\tÖdem (°).\n".encode()
    server.archive = content
    if zipped:  # as Kaggle does with larger ones
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("captions.txt", content)
        server.archive = packed.getvalue()
    path = tmp_path / "text" / "captions.txt"
    for _ in range(2):
        assert download_texts("all_data/test/radiology/captions.txt", path) == path
    assert path.read_bytes() == content
    (call,) = server.api_calls
    assert call["path"].endswith("?file_name=all_data/test/radiology/captions.txt")


def test_one_file_takes_the_account_only_if_it_is_refused_without(server, tmp_path, monkeypatch):
    server.archive, server.refuse_anonymous = b"ROCO_1\tOne.\n", 403
    with pytest.raises(UserError, match=r"403.* in a browser .there: Data Explorer, captions.txt."):
        download_texts("captions.txt", tmp_path / "captions.txt")
    monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET)
    download_texts("captions.txt", tmp_path / "captions.txt")
    assert values(server.api_calls, "Authorization") == [None, None, BEARER]
    assert not list(tmp_path.glob("*partial*"))


@pytest.mark.parametrize("content", [b"<html>Log in</html>", b"PK\3\4 cut off", b""])
def test_what_is_no_list_of_texts_is_not_kept(server, tmp_path, content):
    server.archive = content
    with pytest.raises(UserError, match="login page"):
        download_texts("captions.txt", tmp_path / "captions.txt")
    assert not (tmp_path / "captions.txt").exists()
