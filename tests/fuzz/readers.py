"""Every reader of the program, each with a small valid file to damage: what is fuzzed, by name."""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from run_material import make_material
from safetensors.torch import save_file
from tiny import bare_transformer

from scail2.checkpoints.lora_files import open_lora
from scail2.checkpoints.model_folder import check_model
from scail2.checkpoints.tensor_files import open_tensor_file
from scail2.data.shards import DamageReport, ShardWriter, index_path, read_index
from scail2.loading.inventory import describe
from scail2.models.autoencoder import AutoencoderPatchTransform
from scail2.models.component_folders import load_component_folder
from scail2.perception.segmenters.given import GivenMasks
from scail2.perception.store import MaskStore
from scail2.request.animation import AnimationRequest
from scail2.training.distributed.files import complete, stored_sizes
from scail2.training.state import read_progress
from scail2.video import VideoReader, VideoWriter, read_image


@dataclass(frozen=True)
class Reader:
    """What is damaged (``file`` in a copy of ``folder``) and what reads it."""

    name: str
    folder: Path
    file: str
    read: Callable[[Path], object]
    text: bool = False
    inputs: dict[str, Path] = field(default_factory=dict)


def _film(path: Path) -> None:
    reader = VideoReader(path)
    for start in range(0, min(len(reader), 24), 8):
        reader.frames(start, min(start + 8, len(reader)))


def _tensors(path: Path) -> None:
    file = open_tensor_file(path)
    for name in list(file.tensors)[:8]:
        file.read(name)


def _shard(path: Path) -> None:
    for record in read_index(path, DamageReport()):
        for suffix in record.members:
            try:
                record.read(suffix)
            except Exception as error:
                if type(error).__name__ != "DamagedSample":
                    raise


def make_readers(place: Path) -> Iterator[Reader]:
    """All readers, with their valid files made below ``place``."""
    media = place / "media"
    make_material(media, frames=9)
    frames = [Image.new("RGB", (32, 32), (20 * number, 80, 200)) for number in range(4)]
    for name in ("still.png", "still.jpg", "still.webp", "still.bmp", "still.tif"):
        frames[1].save(media / name)
    for name in ("moving.gif", "moving.webp", "moving.png"):
        frames[0].save(media / name, save_all=True, append_images=frames[1:], duration=60)
    for name in ("still.png", "still.jpg", "still.webp", "still.bmp", "still.tif", "reference.png"):
        yield Reader(f"picture {name}", media, name, read_image)
    with VideoWriter(media / "phone.mp4", 8, (32, 32)) as writer:
        writer.write(VideoReader(media / "driving.mkv").frames(0, 9))
    for name in ("driving.mkv", "phone.mp4", "moving.gif", "moving.webp", "moving.png"):
        yield Reader(f"film {name}", media, name, _film)
    yield Reader("mask picture", media, "reference_mask.png", lambda path: GivenMasks([path]).segment(_Still(path)))
    yield from _model_readers(place)
    state = place / "step-00000007"
    state.mkdir()
    counts = {"step": 7, "samples": 56, "average_updates": 7}
    torch.save({"optimizers": [{"state": {0: {"exp_avg": torch.ones(4)}}}], **counts}, state / "optimizer.pt")
    yield Reader("training state", state, "optimizer.pt", lambda path: read_progress(path.parent))
    shards = place / "step-00000008"
    shards.mkdir()
    save_file({"weights.transformer.a": torch.ones(3, 4)}, shards / "shard-00001-model-00001-of-00001.safetensors")
    complete(shards, counts | {"skipped": 0}, 1)
    for name in ("progress.json", "shard-00001-model-00001-of-00001.safetensors"):
        yield Reader(f"training shards {name}", shards, name, lambda path: stored_sizes(path.parent))
    yield from _text_readers(place)


class _Still:
    """The picture a mask belongs to: one frame of the tiny models' size."""

    height = width = 32

    def __init__(self, _: Path) -> None:
        pass

    def __len__(self) -> int:
        return 1


def _model_readers(place: Path) -> Iterator[Reader]:
    folder = place / "weights"
    folder.mkdir()
    state = {"a.weight": torch.arange(12.0).reshape(3, 4), "b.bias": torch.ones(5, dtype=torch.bfloat16)}
    save_file(state, folder / "plain.safetensors", metadata={"scail2_config": json.dumps({"dim": 8})})
    torch.save({"module": state}, folder / "plain.pt")
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("plain.safetensors", "plain.pt", "old.pt"):
        yield Reader(f"weights {name}", folder, name, _tensors)
        yield Reader(f"info {name}", folder, name, describe)
    try:
        import gguf
    except ImportError:
        pass
    else:
        writer = gguf.GGUFWriter(folder / "plain.gguf", "wan")
        writer.add_tensor("a.weight", state["a.weight"].numpy())
        for step in (
            writer.write_header_to_file,
            writer.write_kv_data_to_file,
            writer.write_tensors_to_file,
            writer.close,
        ):
            step()
        yield Reader("weights plain.gguf", folder, "plain.gguf", _tensors)
    shapes = {"blocks.0.attn1.to_q.weight": (8, 8)}
    lora = {
        "blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 8),
        "blocks.0.attn1.to_q.lora_B.weight": torch.ones(8, 2),
    }
    adapter = {"lora_alpha": 4, "alpha_pattern": {}}
    save_file(lora, folder / "lora.safetensors", metadata={"lora_adapter_metadata": json.dumps(adapter)})
    yield Reader("LoRA", folder, "lora.safetensors", lambda path: open_lora(path, shapes))
    model = place / "model"
    bare_transformer(in_channels=12, out_channels=8).save_pretrained(model / "transformer")
    AutoencoderPatchTransform(z_dim=8, num_static_channels=6).save_pretrained(model / "vae")
    index = {"_class_name": "SCAIL2Pipeline", "vae": ["scail2.models.autoencoder", "AutoencoderPatchTransform"],
             "transformer": ["scail2.models.transformer", "SCAIL2Transformer3DModel"]}  # fmt: skip
    (model / "model_index.json").write_text(json.dumps(index))
    vae = AutoencoderPatchTransform
    yield Reader("model index", model, "model_index.json", lambda path: check_model(path.parent), text=True)
    yield Reader("autoencoder", model / "vae", "config.json", lambda p: load_component_folder(vae, p.parent), text=True)
    yield Reader("transformer", model / "transformer", "config.json", lambda path: describe(path.parent), text=True)
    map_of = {"weight_map": dict.fromkeys(state, "plain.safetensors")}
    (folder / "w.safetensors.index.json").write_text(json.dumps(map_of))
    yield Reader("shard index", folder, "w.safetensors.index.json", open_tensor_file, text=True)


def _text_readers(place: Path) -> Iterator[Reader]:
    folder = place / "shards"
    with ShardWriter(folder / "s.tar") as writer:
        for number in range(3):
            writer.write(f"{number}", {"kind": "a", "shape": [1, 2]}, {"bin": bytes(40), "txt": b"word"})
    yield Reader("shard with index", folder, "s.index.json", lambda path: _shard(path.with_name("s.tar")), text=True)
    bare = place / "bare"
    bare.mkdir()
    shutil.copy(folder / "s.tar", bare)
    assert not index_path(bare / "s.tar").exists()
    yield Reader("shard", bare, "s.tar", _shard)
    texts = place / "texts"
    texts.mkdir()
    request = AnimationRequest(
        reference=Path("/r.png"), driving=Path("/d.mp4"), output=Path("/o.mp4"), lora=("/l.pt:0.5",)
    )
    (texts / "request.json").write_text(json.dumps(request.to_json()))
    toml = io.StringIO()
    for name, value in {"reference": "r.png", "driving": "d.mp4", "output": "o.mp4", "seed": 3, "fps": 16.0, "audio": True,
                        "reference_mask": ["m.png"], "fit": "cover", "lora": ["l.pt:0.5"]}.items():  # fmt: skip
        toml.write(f"{name} = {json.dumps(value)}\n")
    (texts / "run.toml").write_text(toml.getvalue())
    tracks = {"version": 1, "mode": "animation", "height": 32, "width": 32, "frames": 9, "fps": "16", "frozen": False,
              "content_hash": None, "sources": {"reference": "ab"}, "files": {"reference": "/r.png"}, "source_hash": "cd",
              "binding": {"rule": "area", "pairs": [{"driving": 1, "reference": 1, "slot": "blue"}],
                          "unbound_driving": [], "unbound_reference": [2], "notes": ["a"]}}  # fmt: skip
    (texts / "tracks.json").write_text(json.dumps(tracks))
    yield Reader("request", texts, "request.json", lambda p: AnimationRequest.from_json(p.read_bytes()), text=True)
    yield Reader("settings", texts, "run.toml", AnimationRequest.from_toml, text=True)
    yield Reader("mask store", texts, "tracks.json", lambda path: MaskStore(path.parent).binding, text=True)
