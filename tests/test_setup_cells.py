"""The notebook's first cells find the project, executed as they are; GitHub is a folder here."""

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from helpers.colab import ColabServer, frontend, notebook_from
from helpers.git import git

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "roco_captioning.ipynb"
PATH = "notebooks/roco_captioning.ipynb"
GITHUB = "https://github.com/someone/captions"


def cells() -> list[str]:
    """Return the sources of the cells that look for the project."""
    codes = [c for c in nbformat.read(NOTEBOOK, 4).cells if c.cell_type == "code"]
    ids = [cell.id for cell in codes]
    return [cell.source for cell in codes[: ids.index("cell-04")]]


def make_project(folder, version):
    (folder / "roco_caption").mkdir(parents=True, exist_ok=True)
    (folder / "roco_caption" / "__init__.py").write_text(f'__version__ = "{version}"\n')


@pytest.fixture(scope="module")
def github(tmp_path_factory):
    """Make a folder of bare repositories and return it with the commits by branch."""
    root = tmp_path_factory.mktemp("github")
    work = root / "work"
    make_project(work, "main")
    git(work, "init", "--quiet", "--initial-branch=main")
    commits = {}
    for branch in ("main", "feature/larger-beams", "v1.0"):
        if branch != "main":
            git(work, "checkout", "--quiet", "-b", branch)
        make_project(work, branch)
        git(work, "add", ".")
        git(work, "commit", "--quiet", "--message", branch)
        commits[branch] = git(work, "rev-parse", "HEAD")
    git(work, "checkout", "--quiet", "main")
    git(root, "clone", "--quiet", "--bare", str(work), "someone/captions")
    (work / "roco_caption" / "__init__.py").unlink()
    git(work, "add", ".")
    git(work, "commit", "--quiet", "--message", "another project")
    git(root, "clone", "--quiet", "--bare", str(work), "someone/else")
    return root, commits


@pytest.fixture
def place(tmp_path, monkeypatch, github):
    """An empty working folder, in which https://github.com/ is that folder of repositories."""
    for name in ("ROCO_REPOSITORY", "COLAB_JUPYTER_IP", "KMP_TARGET_PORT", "GIT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{github[0]}/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://github.com/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(sys, "path", sys.path[:])
    for name in ("google", "google.colab", "google.colab._message"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    content = tmp_path / "content"
    content.mkdir()
    monkeypatch.chdir(content)
    return content


@pytest.fixture
def colab(monkeypatch, place):
    """Its server; without a frontend, until a test gives it one."""
    server = ColabServer()
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    yield server
    server.close()


def use_frontend(monkeypatch, answer):
    for name, module in frontend(answer).items():
        monkeypatch.setitem(sys.modules, name, module)


def look(mount="/nowhere", published=""):
    """Execute the cells; return PROJECT and its version."""
    names = {"__name__": "__main__"}
    for source in cells():
        source = source.replace('"/kaggle/input"', repr(str(mount)))
        source = re.sub('^REPOSITORY = ".*"', f"REPOSITORY = {published!r}", source, flags=re.M)
        exec(compile(source, "cell", "exec"), names)
    project = names["PROJECT"]
    assert sys.path[0] == str(project)
    return project, (project / "roco_caption" / "__init__.py").read_text().split('"')[1]


def refusal(**options):
    """Return what the cells say instead of finding a project; nothing stays in the folder."""
    before = sorted(Path.cwd().iterdir())
    with pytest.raises(SystemExit) as caught:
        look(**options)
    message = str(caught.value.code)
    for way in ("Open this notebook from its GitHub", "ROCO_REPOSITORY=owner/name", "as a zip"):
        assert way in message
    assert sorted(Path.cwd().iterdir()) == before
    return message


def test_folders_beside_it_that_may_not_be_read_are_passed_over(colab, place, monkeypatch):
    (place / "lost+found").mkdir()
    make_project(place / "project", "here")
    stat = os.stat

    def refuse(path, *arguments, **options):  # to root nothing is refused
        if "lost+found/" in str(path):
            raise PermissionError(13, "Permission denied")
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", refuse)
    project, version = look()
    assert version == "here" and project == place / "project"


@pytest.mark.parametrize("where", [".", "..", "../..", "below"])
def test_a_project_on_this_machine_is_used_without_a_question(colab, place, monkeypatch, where):
    folder = place / "notebooks" / "deep"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    make_project(folder / where, "here")
    monkeypatch.setenv("ROCO_REPOSITORY", "someone/captions")
    colab.opened(f"fileId=https%3A//github.com/someone/captions/blob/main/{PATH}")
    project, version = look()
    assert version == "here" and project.samefile(folder / where) and colab.requests == 0


@pytest.mark.parametrize(
    "repository",
    [
        "someone/captions", "someone/captions@main", GITHUB, f"{GITHUB}.git", f"{GITHUB}/",
        f"{GITHUB}/tree/main", f"{GITHUB}/blob/main/{PATH}", f" {GITHUB}@main ",
    ],
)  # fmt: skip
def test_the_repository_that_is_asked_for_is_cloned(place, monkeypatch, repository, capsys):
    monkeypatch.setenv("ROCO_REPOSITORY", repository)
    assert look() == (place / "roco-caption", "main")
    assert "github.com/someone/captions" in capsys.readouterr().out
    assert [path.name for path in place.iterdir()] == ["roco-caption"]
    assert look() == (place / "roco-caption", "main")  # again: it is there


@pytest.mark.parametrize("form", ["someone/captions@{}", GITHUB + "/tree/{}", GITHUB + "@{}"])
@pytest.mark.parametrize("branch", ["feature/larger-beams", "v1.0"])
@pytest.mark.parametrize("length", [0, 40, 9])
def test_a_branch_or_a_commit_is_checked_out(place, monkeypatch, github, form, branch, length):
    revision = github[1][branch][:length] if length else branch
    monkeypatch.setenv("ROCO_REPOSITORY", form.format(revision))
    project, version = look()
    assert version == branch and git(project, "rev-parse", "HEAD") == github[1][branch]


@pytest.mark.parametrize("branch", ["main", "feature/larger-beams"])
@pytest.mark.parametrize("path", [PATH, "notebooks/Copy%20of%20it.ipynb", "roco_captioning.ipynb"])
def test_a_notebook_opened_from_github_finds_its_branch(colab, place, branch, path):
    colab.opened(f"fileId=https%3A//github.com/someone/captions/blob/{branch}/{path}")
    assert look() == (place / "roco-caption", branch)


def test_a_copy_in_drive_finds_where_it_comes_from(colab, place, monkeypatch):
    colab.opened("fileId=1w6mqQiNV3liPIX70NOgitOlDF1_4sRMw")
    originals = "1aBcD", f"{GITHUB}/blob/feature/larger-beams/{PATH}", "https://github.com/a/b"
    use_frontend(monkeypatch, notebook_from(*originals))
    assert look() == (place / "roco-caption", "feature/larger-beams")


def test_the_session_comes_before_the_provenance_and_the_publisher_last(colab, place, monkeypatch):
    colab.opened(f"fileId=https%3A//github.com/someone/captions/blob/v1.0/{PATH}")
    use_frontend(monkeypatch, notebook_from(f"{GITHUB}/blob/feature/larger-beams/{PATH}"))
    assert look(published="someone/captions")[1] == "v1.0"


def test_an_uploaded_notebook_finds_its_publisher(colab, place, monkeypatch):
    colab.opened("fileId=1w6mqQiNV3liPIX70NOgitOlDF1_4sRMw")
    use_frontend(monkeypatch, notebook_from())
    assert look(published="someone/captions@v1.0") == (place / "roco-caption", "v1.0")


def test_an_uploaded_notebook_alone_says_what_to_do(colab, monkeypatch):
    colab.opened("fileId=1w6mqQiNV3liPIX70NOgitOlDF1_4sRMw")
    use_frontend(monkeypatch, notebook_from())
    refusal()


def test_outside_colab_a_notebook_alone_says_what_to_do(place):
    refusal()


@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html>Sign in</html>", b"[]", b"{}", b"null", b"[1]", b'[{"path": null}]', b"\xff",
        b'[{"name": "x.ipynb"}]', b'[{"path": ["https://github.com/someone/captions"]}]',
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [200, 403, 500])
def test_junk_from_the_session_is_no_address(colab, body, status):
    colab.body, colab.status = body, status
    refusal()
    assert colab.requests == 1


@pytest.mark.parametrize(
    "answer", [None, {}, [], {"ipynb": {}}, notebook_from(None), notebook_from(3, "x"), 1 / 3]
)
def test_junk_from_the_frontend_is_no_address(colab, monkeypatch, answer):
    use_frontend(monkeypatch, answer)
    refusal()


def test_a_frontend_that_fails_is_no_address(colab, monkeypatch):
    def fail(timeout):
        raise RuntimeError("MessageError: not allowed")

    use_frontend(monkeypatch, fail)
    refusal()


HOSTILE = [
    "--upload-pack=touch pwned/captions", "-c/captions", "someone/--upload-pack=x", "../captions",
    "someone/..", "someone/.", "./captions", "someone/captions/../../x", "someone/captions@-b",
    "someone/captions@--orphan", "someone/captions;id", "someone/$(id)", "some one/captions",
    "someone/captions@a b", "someone/captions@a;b", "söme/captions", "someone/captions\n@x", "/",
    "someone", "someone/captions@", "file:///etc/x", "ext::sh -c id", "git@github.com:someone/x",
    "https://github.com.evil.example/someone/captions", "https://evil.example/someone/captions",
    "https://x@evil.example/github.com/someone/captions", "http://github.com/someone/captions",
]  # fmt: skip


@pytest.mark.parametrize("address", HOSTILE)
def test_an_invalid_repository_is_refused_and_never_reaches_git(place, monkeypatch, address):
    monkeypatch.setenv("PATH", str(place / "no-git"))
    monkeypatch.setenv("ROCO_REPOSITORY", address)
    message = refusal(published="someone/captions")
    assert "ROCO_REPOSITORY must be" in message and repr(address) in message


@pytest.mark.parametrize("address", HOSTILE)
def test_an_invalid_address_from_colab_is_ignored(colab, monkeypatch, address):
    colab.opened(f"fileId=https%3A//github.com/{address}/blob/main/{PATH}")
    use_frontend(monkeypatch, notebook_from(address, f"https://github.com/{address}"))
    monkeypatch.setattr(subprocess, "run", lambda command, **options: pytest.fail(str(command)))
    refusal()


@pytest.mark.parametrize("path", ["content/x.ipynb", "notebooks/roco.ipynb", "/content/a/b"])
def test_another_path_is_not_taken_for_an_owner(colab, monkeypatch, path):
    colab.opened(path)
    monkeypatch.setattr(subprocess, "run", lambda command, **options: pytest.fail(str(command)))
    refusal()


def test_silent_servers_cost_two_seconds(colab, monkeypatch):
    colab.delay = 30
    use_frontend(monkeypatch, lambda timeout: time.sleep(timeout))
    begun = time.monotonic()
    refusal()
    assert time.monotonic() - begun < 2.5


def test_a_server_that_is_gone_costs_nothing(colab):
    colab.close()
    refusal()


@pytest.mark.parametrize(
    ("repository", "word"), [("someone/captions@nowhere", "nowhere"), ("nobody/captions", "nobody")]
)
def test_a_missing_branch_or_repository_is_named(place, monkeypatch, repository, word):
    monkeypatch.setenv("ROCO_REPOSITORY", repository)
    assert word in refusal()
    assert word in refusal()  # and nothing of it is taken for the project


def test_without_git_it_says_so(place, monkeypatch):
    monkeypatch.setenv("ROCO_REPOSITORY", "someone/captions")
    monkeypatch.setenv("PATH", str(place / "empty"))
    assert "'git'" in refusal()


def test_a_clone_that_takes_too_long_is_given_up(place, monkeypatch):
    def wait(command, **options):
        assert options["stdin"] == subprocess.DEVNULL
        assert options["env"]["GIT_TERMINAL_PROMPT"] == "0"
        raise subprocess.TimeoutExpired(command, options["timeout"], stderr=b"")

    monkeypatch.setenv("ROCO_REPOSITORY", "someone/captions")
    monkeypatch.setattr(subprocess, "run", wait)
    assert "timed out after 120 seconds" in refusal()


def test_a_repository_of_another_project_is_refused(place, monkeypatch):
    monkeypatch.setenv("ROCO_REPOSITORY", "someone/else")
    assert "github.com/someone/else" in refusal()


@pytest.mark.parametrize("half", ["roco-caption", "roco-caption.new"])
def test_what_an_interruption_left_is_not_in_the_way(place, monkeypatch, half):
    (place / half / ".git" / "objects").mkdir(parents=True)
    (place / half / "data").mkdir()
    (place / half / "data" / "features").write_text("an hour's work")
    monkeypatch.setenv("ROCO_REPOSITORY", "someone/captions")
    project, version = look()
    assert version == "main" and git(project, "status", "--porcelain") == ""
    if half == "roco-caption":  # may hold results
        assert (place / half / "data" / "features").read_text() == "an hour's work"


def test_an_interrupted_clone_is_healed_by_the_next_run(place, monkeypatch):
    run = subprocess.run

    def interrupted(command, **options):
        run(command, **options)
        raise KeyboardInterrupt

    # the clone is there already, but still on the default branch
    monkeypatch.setenv("ROCO_REPOSITORY", "someone/captions@v1.0")
    monkeypatch.setattr(subprocess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        look()
    assert [path.name for path in place.iterdir()] == ["roco-caption.new"]
    monkeypatch.setattr(subprocess, "run", run)
    assert look() == (place / "roco-caption", "v1.0")
    assert [path.name for path in place.iterdir()] == ["roco-caption"]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_on_kaggle_the_attached_project_is_used(place, tmp_path, monkeypatch, depth):
    mount = tmp_path / "input"
    project = mount.joinpath(*"abcd"[:depth])
    make_project(project, "attached")
    assert look(mount, published="someone/captions") == (project, "attached")
    monkeypatch.setenv("ROCO_REPOSITORY", "someone/captions")  # asked for, so before it
    assert look(mount) == (place / "roco-caption", "main")


def test_the_output_of_an_earlier_version_is_no_newer_project(place, tmp_path, monkeypatch):
    output = tmp_path / "input" / "notebooks" / "me" / "roco-caption"
    make_project(output, "of then")
    (output / "checkpoints").mkdir()
    (output / "checkpoints" / "README.md").touch()
    assert look(tmp_path / "input", published="someone/captions") == (output, "of then")
    (output / "checkpoints" / "roco-vgg16").mkdir()
    assert look(tmp_path / "input") == (output, "of then")  # better than none
    arguments = tmp_path / "input", "someone/captions"
    assert look(arguments[0], published=arguments[1]) == (place / "roco-caption", "main")
    shutil.rmtree(place / "roco-caption")
    monkeypatch.setenv("PATH", "")  # no git, as without internet
    assert look(arguments[0], published=arguments[1]) == (output, "of then")


def zip_project(place, name, inside):
    make_project(place.parent / "zipped" / inside, "zipped")
    shutil.make_archive(str(place / name), "zip", place.parent / "zipped")


@pytest.mark.parametrize("inside", ["captions-main", "."])
def test_a_zip_of_the_project_is_unpacked(place, monkeypatch, inside):
    zip_project(place, "captions-main", inside)
    (place / "broken.zip").write_bytes(b"PK\3\4")
    (place / "a.txt").write_text("x")
    shutil.make_archive(str(place / "images"), "zip", place, "a.txt")
    assert look(published="someone/captions") == (place / "roco-caption", "zipped")
    assert look() == (place / "roco-caption", "zipped")


def test_a_zip_helps_where_the_clone_fails_but_replaces_nothing_asked_for(
    colab, place, monkeypatch
):
    zip_project(place, "captions-main", "captions-main")
    colab.opened(f"fileId=https%3A//github.com/nobody/captions/blob/main/{PATH}")
    monkeypatch.setenv("ROCO_REPOSITORY", "nobody/captions")
    assert "nobody/captions" in refusal()
    monkeypatch.delenv("ROCO_REPOSITORY")
    assert look() == (place / "roco-caption", "zipped")


def test_a_clone_comes_before_a_zip(colab, place):
    zip_project(place, "captions-main", "captions-main")
    colab.opened(f"fileId=https%3A//github.com/someone/captions/blob/main/{PATH}")
    assert look() == (place / "roco-caption", "main")


def test_the_port_is_9000_where_colab_names_none(place, monkeypatch):
    asked = []

    def refuse(url, timeout):
        asked.append(url)
        raise OSError

    monkeypatch.setenv("COLAB_JUPYTER_IP", "172.28.0.12")
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    refusal()
    assert asked == ["http://172.28.0.12:9000/api/sessions"]


def test_the_cells_use_the_standard_library_only():
    modules = set()
    for source in cells():
        for line in source.splitlines():
            words = line.split()
            if words[:1] in (["import"], ["from"]):
                modules.add(words[1].split(".")[0])
    assert modules - set(sys.stdlib_module_names) == {"google"}  # in Colab, and only there
