"""What the fuzzer begins with, and what it once found, comes out of each reader as it should."""

from pathlib import Path

import pytest
from campaigns import fuzz


@pytest.mark.parametrize("name", fuzz.READERS)
def test_a_reader_of_whole_files_and_of_those_that_failed_once(name):
    found = sorted((fuzz.SEEDS / name).glob("*"))
    for content in [*fuzz.READERS[name].begin(), *(path.read_bytes() for path in found)]:
        fuzz.READERS[name].read(content)
        fuzz.READERS[name].read(content[: len(content) // 2])


def test_every_seed_has_a_reader():
    assert {path.name for path in Path(fuzz.SEEDS).glob("*")} <= set(fuzz.READERS)


def test_a_reader_that_lets_anything_else_out_fails(monkeypatch):
    def careless(path):
        raise KeyError(path)

    monkeypatch.setattr(fuzz.text.CaptionTokenizer, "load", careless)
    with pytest.raises(KeyError):
        fuzz.READERS["tokenizer"].read(b"{}")


def test_a_message_that_names_no_file_fails(monkeypatch):
    def vague(path):
        raise fuzz.UserError("something is wrong")

    monkeypatch.setattr(fuzz.text.CaptionTokenizer, "load", vague)
    with pytest.raises(AssertionError, match="does not name the file"):
        fuzz.READERS["tokenizer"].read(b"{}")
