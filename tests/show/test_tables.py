"""Tables show whole numbers whole, hide nothing that is HTML, and bring no colours."""

import pandas as pd

from roco_caption.show.figures import styled


def test_numbers_labels_and_caption():
    table = pd.DataFrame(
        {"images": [82000, 3], "a <b>": [0.12345, None]}, index=["<i>", "test"]
    )  # fmt: skip
    page = styled(table, caption="left & right").to_html()
    assert "82,000" in page and "0.123" in page and "nan" not in page
    assert "&lt;i&gt;" in page and "a &lt;b&gt;" in page and "<i>" not in page
    assert "left &amp; right" in page and "color" not in page and "text-align: right" in page
    assert "12.3%" in styled(table[["a <b>"]], "{:.1%}").to_html()


def test_without_jinja2_the_table_itself(monkeypatch):
    def missing(self):
        raise ImportError("jinja2")

    monkeypatch.setattr(pd.DataFrame, "style", property(missing))
    table = pd.DataFrame({"a": [1]})
    assert styled(table) is table
