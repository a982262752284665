"""A web page that captions images dropped on it, with Gradio; it keeps none of them."""

import contextlib
import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from roco_caption.core.errors import UserError

GRADIO = ">=6.24,<7"  # as in the extra `demo`
TITLE = "Caption a radiology image"
NOTE = "**For research and teaching. Not for clinical use.** Files are deleted once captioned."
UNUSED = 60, 600  # seconds: how often uploads that were never captioned are deleted, from which age
LAYOUT = """<div style="display: flex; flex-wrap: wrap; gap: 1rem">
<div>{}</div><div style="flex: 1 1 300px">{}</div></div>{}"""


def load_gradio() -> Any:
    """Return the module `gradio`; UserError if it is missing or another version."""
    try:
        import gradio

        if gradio.__version__ not in SpecifierSet(GRADIO):
            raise ImportError(f"Gradio {gradio.__version__} does not fit")
    except ImportError as error:
        raise UserError(f'{error}. Install Gradio: pip install "gradio{GRADIO}".') from error
    return gradio


def demo(
    captioner: Any, train: Any = None, *, synthetic: bool = False,
    port: int | None = None, share: bool = False,
) -> Any:  # fmt: skip
    """Start a page that shows what `explain` returns of uploads; return it, a `gradio.Blocks`.

    Notebooks show it inline, its `close()` stops it. Only `share` makes a public link. UserError if
    Gradio is missing, or the port cannot be used (by default, a free one is taken).
    """
    from roco_caption.show.figures import DescribedFigure
    from roco_caption.show.own_image import explain

    gr = load_gradio()

    def show(upload: str) -> Iterator[tuple[str, None]]:
        try:
            yield "", None  # also clears what was shown before
            shown = explain(captioner, train, upload, synthetic=synthetic)
            maps = [part for part in shown[1:] if isinstance(part, DescribedFigure)]
            places = shown[:1], [part for part in shown[1:] if part not in maps], maps
            yield LAYOUT.format(*("".join(p._repr_html_() for p in ps) for ps in places)), None
        except UserError as error:
            message = html.escape(str(error).replace(upload, "The uploaded file"))
            raise gr.Error(message, print_exception=False) from None
        finally:
            Path(upload).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # the same file, uploaded under another name
                Path(upload).parent.rmdir()

    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=UNUSED) as page:
        gr.Markdown(f"# {TITLE}\n{NOTE}")
        file = gr.File(label="An image: JPEG, PNG, TIFF, DICOM or another", height=140)
        file.preprocess = lambda data: data.path  # its own leaves an empty file behind
        shown = gr.HTML()
        file.upload(show, file, [shown, file], show_progress_on=shown)
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono="monospace")  # offline
    try:
        page.launch(prevent_thread_lock=True, server_port=port, share=share, theme=theme,
                    height=900, run_history=False, footer_links=[])  # fmt: skip
    except (OSError, OverflowError) as error:
        what = f"Port {port} cannot" if port else "No port of this machine can"
        raise UserError(f"{what} be used: {error} Choose another port.") from error
    return page
