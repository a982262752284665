"""Execute a notebook and keep it as .ipynb and .html, whatever happens: `… NOTEBOOK FOLDER`.

If a cell fails, the executed notebook holds all outputs up to its error, and the exit status is 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor


def execute(notebook: nbformat.NotebookNode, folder: Path) -> str:
    """Execute a notebook in `folder`, in place; return why it stopped, "" if it did not."""
    resources = {"metadata": {"path": str(folder)}}
    quiet = ["--IPKernelApp.log_level=ERROR"]  # it warns that others on this machine could listen
    client = NotebookClient(
        notebook, timeout=None, resources=resources, extra_arguments=quiet,
        shutdown_kernel="immediate",  # TensorFlow takes seconds to leave, with nothing left to do
    )  # fmt: skip
    try:
        client.execute()
    except CellExecutionError as error:
        return f"{error.ename}: {error.evalue}"
    except DeadKernelError:
        return "The kernel died, probably because memory ran out."
    except (KeyboardInterrupt, AssertionError):  # the latter is how nbclient ends after Ctrl-C
        return "Interrupted."
    return ""


def save(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write a notebook to `path` and as a page beside it; the former ones are `….previous.…`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for former in (path, path.with_suffix(".html")):
        if former.exists():
            former.replace(former.with_suffix(f".previous{former.suffix}"))
    notebook, _ = CoalesceStreamsPreprocessor(enabled=True)(notebook, {})  # progress bars: the end
    nbformat.write(notebook, path)
    page, _ = HTMLExporter().from_notebook_node(notebook)
    path.with_suffix(".html").write_text(page, "utf-8")


def main(source: Path, folder: Path) -> int:
    """Execute `source` and save it in `folder`; return the exit status."""
    notebook = nbformat.read(source, as_version=4)
    path = folder / source.name
    failure = execute(notebook, source.parent)
    save(notebook, path)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    lines = "".join(output.get("text", "") for output in outputs).splitlines()
    for line in lines:
        if line.startswith("WARNING"):
            print(line)
    if failure:
        print(
            f"{failure}\n\nThe notebook up to the error: {path.with_suffix('.html')}",
            file=sys.stderr,
        )
        return 1
    print(f"Executed: {path.with_suffix('.html')}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
