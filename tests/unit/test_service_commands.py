"""What `scail2 serve` and `scail2 studio` refuse before they listen."""

import pytest

from scail2.cli.app import main
from scail2.files.public.embedded import embedded_model_path

SEGMENTER = embedded_model_path().with_name("segmenter.safetensors")


@pytest.mark.parametrize("verb", [("serve",), ("studio", "--no-browser")])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--model", "/none"], "There is no model /none.\n"),
        (
            ["--model", "owner/none"],
            "There is no model owner/none; to download it from the Hub, write hub:owner/none.\n",
        ),
        (["--lora", "look.safetensors"], "--lora is NAME=PATH here, not 'look.safetensors'"),
        (["--lora", "look=none.safetensors"], "none.safetensors"),
        (["--lora", "a=nano-dpo", "--lora", "a=nano-dpo:0.5"], "--lora gives the name 'a' to two files"),
        (["--lora", f"a={SEGMENTER}"], "segmenter.safetensors holds no LoRA."),
        (["--lora", f"a={__file__}"], "is not a readable safetensors file"),
        (["--sam3", "none.safetensors"], "--sam3"),
        (["--gpus", "0,0"], "--gpus is a list of different numbers"),
    ],
)
def test_what_cannot_be_served_is_refused(verb, given, told, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCAIL2_TOKEN", raising=False)
    with pytest.raises(SystemExit) as stopped:
        main([*verb, *given])
    assert stopped.value.code == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert told in error
    assert list(tmp_path.iterdir()) == []
