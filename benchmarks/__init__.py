"""Each stage beside the classic loop of the Keras captioning notebooks, and beside its limit."""


def captions_of(path: str) -> list[str]:
    """Return the last column of a file with tabs, as it is written."""
    with open(path, encoding="utf-8") as file:
        return [line.rstrip("\n").split("\t")[-1] for line in file]
