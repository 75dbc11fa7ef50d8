"""`scail2 convert`: any public file into a diffusers folder, or our weights into published names."""

from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("convert")(convert)


def convert(
    source: Annotated[
        str, typer.Argument(help="Transformer, VAE, umT5 or CLIP file, a folder of them, or hub:owner/name.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to make; a .safetensors file for official and comfy.")],
    to: Annotated[str, typer.Option(help="diffusers, official (published names) or comfy.")] = "diffusers",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16 [default: as stored].")] = None,
    config: Annotated[Path | None, typer.Option(help="JSON with the transformer's published configuration.")] = None,
    pipeline: Annotated[bool, typer.Option("--pipeline", help="A whole pipeline, from the files near SOURCE.")] = False,
    vae: Annotated[Path | None, typer.Option(help="Wan2.1_VAE.pth, if it is elsewhere.")] = None,
    text_encoder: Annotated[Path | None, typer.Option(help="umT5 file, if it is elsewhere.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="umT5's tokenizer folder, if it is elsewhere.")] = None,
    image_encoder: Annotated[Path | None, typer.Option(help="CLIP file, if it is elsewhere.")] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH[:X]", help="LoRA file that becomes part of the transformer's weights; repeatable."),
    ] = None,
) -> None:
    """Convert checkpoints: official, training, ComfyUI and GGUF files to diffusers, and back to published names."""
    from scail2.checkpoints.model_folder import check_model
    from scail2.cli.terminal import Terminal
    from scail2.files.documents import load_json

    words = None if config is None else load_json(config, dict[str, Any])
    check_model(source)
    from scail2.devices import Precision
    from scail2.loading.conversion import convert as convert_files

    lines = convert_files(
        source,
        out,
        to=to,
        torch_dtype=None if dtype is None else Precision.parse(dtype).torch_dtype,
        config=words,
        pipeline=pipeline,
        components={
            "vae": vae,
            "text_encoder": text_encoder,
            "tokenizer": tokenizer,
            "image_encoder": image_encoder,
        },
        loras=lora or (),
    )
    console = Terminal()
    for line in lines:
        console.say(line)
    console.say(f"wrote {out}")
