"""Runs the notebook in JupyterLab and Chromium, as a person does, and takes pictures of it.

`python tests/campaigns/browser.py FOLDER`, or `make browser`: FOLDER gets the pictures. It fails
where a cell fails, no progress bar appears, a figure has no alt text, or an upload is not
captioned. Needs jupyterlab, playwright and Chromium; CHROMIUM names its program.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from pydicom.data import get_testdata_file

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "roco_captioning.ipynb"
SMALL = {  # what a person would see in about two minutes on two cores
    "ROCO_PHANTOMS": "48,12,24", "ROCO_ENCODER_WEIGHTS": "random", "ROCO_EPOCHS": "12",
    "ROCO_MIN_FREQUENCY": "1", "TF_CPP_MIN_LOG_LEVEL": "2",
}  # fmt: skip
SETTINGS = {  # all cells are kept in the page, or pictures would miss some
    "notebook-extension/tracker": {"windowingMode": "none", "scrollPastEnd": False},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
MINUTES = 20  # at most, for the whole notebook
WIDE, PHONE = {"width": 1180, "height": 1330}, {"width": 390, "height": 844}


@contextlib.contextmanager
def jupyterlab(folder: Path) -> Any:
    """Serve the notebook from a copy, so that its outputs are not saved in this repository."""
    work = folder / "work"
    (work / "notebooks").mkdir(parents=True)
    shutil.copy(NOTEBOOK, work / "notebooks")
    for name in ("roco_caption", "requirements.txt"):
        (work / name).symlink_to(ROOT / name)
    for name, values in SETTINGS.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = SMALL | os.environ  # so any setting can be given from outside
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.port={port}", "--IdentityProvider.token=browser"]
    command += [f"--ServerApp.root_dir={work}", "--LabApp.expose_app_in_browser=True"]
    command += [f"--LabApp.user_settings_dir={folder / 'settings'}"]
    command += [f"--LabApp.workspaces_dir={folder / 'workspaces'}"]
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        url = f"http://127.0.0.1:{port}"
        try:
            _wait(lambda: urllib.request.urlopen(f"{url}/api?token=browser"), 120)
            yield f"{url}/lab/tree/notebooks/{NOTEBOOK.name}?token=browser&reset"
        finally:
            server.terminate()
            server.wait(30)


def _wait(ready: Any, seconds: float) -> Any:
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if result := ready():
                return result
        if time.monotonic() > end:
            sys.exit(f"Nothing after {seconds} s.")
        time.sleep(1)


STATE = """() => {
    const panel = window.jupyterapp.shell.currentWidget;
    const cells = [...panel.content.widgets].filter(c => c.model.type === 'code');
    const outputs = cells.flatMap(c => c.model.outputs.toJSON());
    return {
        idle: panel.sessionContext.session?.kernel?.status === 'idle',
        run: cells.filter(c => c.model.executionCount).length,
        all: cells.length,
        errors: outputs.filter(o => o.output_type === 'error').map(o => o.evalue),
    };
}"""


SHOWN = """() => {
    const images = document.querySelectorAll('.widget-output img');
    return images.length ? images[images.length - 1].src : '';
}"""


def run_all(page: Page, folder: Path) -> None:
    """Run all cells; take a picture while there is a bar."""
    page.wait_for_function(
        "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
        "?.status === 'idle'",
        timeout=120_000,
    )
    page.evaluate("window.jupyterapp.shell.collapseLeft()")  # the files; the notebook is enough
    page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    seen = 0

    def done() -> bool:
        nonlocal seen
        bars = page.locator(".jp-OutputArea .widget-hbox .progress-bar, .jp-OutputArea .progress")
        if bars.count() > seen and page.locator(".widget-hbox").last.is_visible():
            seen = bars.count()
            bars.last.scroll_into_view_if_needed()
            page.screenshot(path=folder / f"bar-{seen}.png")
        state = page.evaluate(STATE)
        if state["errors"]:
            sys.exit(f"The notebook failed: {state['errors']}")
        return state["idle"] and state["run"] == state["all"]

    _wait(done, MINUTES * 60)
    if not seen:
        sys.exit("No progress bar was seen.")


def upload(page: Page, file: Path, folder: Path, told: str) -> None:
    """Give a file to the upload button and wait for what is said of it."""
    button = page.locator("button.jupyter-button:has-text('Image to caption')")
    button.scroll_into_view_if_needed()
    with page.expect_file_chooser() as chooser:
        button.click()
    before = page.evaluate(SHOWN)
    chooser.value.set_files(file)
    page.wait_for_function(
        f"before => ![before, ''].includes(({SHOWN})())", arg=before, timeout=180_000
    )
    page.wait_for_timeout(2000)
    output = page.locator(".widget-output").last
    text = output.inner_text()
    if told not in output.locator("img").get_attribute("alt") + text or "clinical use" not in text:
        sys.exit(f"Of {file.name} is said: {text}")
    print(f"{file.name}: {text.splitlines()[2]}")
    output.screenshot(path=folder / f"upload-{file.suffix[1:]}.png")


def curves(page: Page, folder: Path) -> None:
    """Look at TensorBoard below the training."""
    frame = page.locator("iframe[id^=tensorboard]")
    frame.scroll_into_view_if_needed()
    inside = frame.content_frame.get_by_text("loss", exact=True).first
    inside.wait_for(timeout=120_000)
    page.wait_for_timeout(3000)
    frame.screenshot(path=folder / "tensorboard.png")


def figures(page: Page, folder: Path, theme: str) -> None:
    """Take pictures of what the notebook shows; fail where a picture says nothing."""
    page.evaluate(
        "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})",
        f"JupyterLab {theme.title()}",
    )
    page.wait_for_timeout(3000)
    images = page.locator(".jp-OutputArea-output img")
    alts = images.evaluate_all("all => all.map(image => image.alt)")
    if len(alts) < 6 or not all(len(alt) > 20 and "No description" not in alt for alt in alts):
        sys.exit(f"Of {len(alts)} pictures not all have a text: {alts}")
    for i in range(images.count()):
        images.nth(i).screenshot(path=folder / f"{theme}-figure-{i}.png")
    tables = page.locator(".jp-RenderedHTML:has(table)")
    for i in range(tables.count()):
        tables.nth(i).screenshot(path=folder / f"{theme}-table-{i}.png")
    gallery = page.locator("img[alt*='test images']").first
    gallery.evaluate("image => image.closest('.jp-CodeCell').scrollIntoView({block: 'start'})")
    page.screenshot(path=folder / f"{theme}.png")


def phone(browser: Any, notebook: Path, folder: Path) -> None:
    """Convert what was run to HTML, and take a picture as wide as a phone."""
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "--output-dir", str(folder)]
    result = subprocess.run([*command, str(notebook)], capture_output=True, text=True)
    if result.returncode or "Alternative text is missing" in result.stderr:
        sys.exit(result.stderr)
    page = browser.new_page(viewport=PHONE)
    page.goto((folder / notebook.with_suffix(".html").name).as_uri())
    page.wait_for_timeout(2000)
    width = page.evaluate("document.documentElement.scrollWidth")
    page.screenshot(path=folder / "phone.png", full_page=True)
    if width > PHONE["width"]:
        sys.exit(f"On a phone the page is {width} pixels wide: it scrolls sideways.")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        work = Path(place)
        mine = work / "mine.jpg"
        scan = Path(get_testdata_file("CT_small.dcm", download=False))
        program = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        with jupyterlab(work) as url:
            page = browser.new_page(viewport=WIDE)
            page.goto(url)
            run_all(page, folder)
            data = Path(os.environ.get("ROCO_CACHE_DIR", work / "work" / "data"))
            drawn = next(data.glob("phantoms*/all_data/test/*/images/*"))
            Image.open(drawn).rotate(2).save(mine)
            upload(page, mine, folder, "nearest training images")
            upload(page, scan, folder, "nearest training images")
            curves(page, folder)
            for theme in ("light", "dark"):
                figures(page, folder, theme)
            page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
            page.wait_for_timeout(3000)
            phone(browser, work / "work" / "notebooks" / NOTEBOOK.name, folder)
        browser.close()
    print(f"All cells ran; look at the pictures in {folder}.")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
