"""The notebook's kernel metadata is what Kaggle's own client accepts and sends."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


class Sent(Exception):
    """Carries the request that the client is about to send."""


def test_kaggles_client_can_push_the_notebook(monkeypatch, capsys):
    monkeypatch.setenv("KAGGLE_USERNAME", "nobody")  # `import kaggle` asks for an account
    monkeypatch.setenv("KAGGLE_KEY", "0")
    from kaggle.api.kaggle_api_extended import KaggleApi

    api = KaggleApi()
    metadata = json.loads((NOTEBOOKS / "kernel-metadata.json").read_text("utf-8"))
    template = {"id", "title", "code_file", "language", "kernel_type", "is_private", "enable_gpu"}
    template |= {"enable_tpu", "enable_internet", "dataset_sources", "competition_sources"}
    assert set(metadata) == template | {"kernel_sources", "model_sources", "machine_shape"}
    assert (NOTEBOOKS / metadata["code_file"]).is_file()

    class FakeClient:
        def __enter__(self):
            self.kernels = self.kernels_api_client = self
            return self

        def __exit__(self, *error):
            return None

        def save_kernel(self, request):
            raise Sent(request)

    monkeypatch.setattr(api, "build_kaggle_client", FakeClient)
    with pytest.raises(Sent) as caught:
        api.kernels_push(str(NOTEBOOKS))
    (request,) = caught.value.args
    assert request.enable_gpu and request.enable_internet and request.is_private
    assert request.dataset_data_sources == ["virajbagal/roco-dataset"]
    assert request.language == "python" and request.kernel_type == "notebook"
    # version 2.0.0 of the client has no machine_shape
    assert getattr(request, "machine_shape", "NvidiaTeslaT4") == "NvidiaTeslaT4"
    assert len(json.loads(request.text)["cells"]) > 30
    assert "does not resolve" not in capsys.readouterr().out  # title and id fit
