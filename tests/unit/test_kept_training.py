"""A training kept in a small file: the movement comes back to a known error, and only on the weights that it began with."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from scail2.errors import InputError
from scail2.files.public.embedded import embedded_model_path
from scail2.models.autoencoder import AutoencoderPatchTransform
from scail2.models.transformer import SCAIL2Transformer3DModel
from scail2.training.nano.kept import read_kept, write_kept
from scail2.training.nano.refiner import named_networks

ROOT = Path(__file__).parents[2]


@pytest.fixture
def base() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "refiner.enter.weight": (48, 36, 3, 3),
        "transformer.blocks.0.weight": (256, 128),
        "transformer.norm": (64,),
    }
    shapes |= {"transformer.never": (4, 4)}
    return {name: torch.randn(shape, generator=generator).half().float() for name, shape in shapes.items()}


@pytest.fixture
def trained(base) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = {"refiner.enter.weight": 1e-2, "transformer.blocks.0.weight": 1e-4, "transformer.norm": 1e-3}
    moved = {
        name: base[name] + size * torch.randn(base[name].shape, generator=generator) for name, size in sizes.items()
    }
    moved["transformer.blocks.0.weight"][7] = base["transformer.blocks.0.weight"][7]
    moved["refiner.enter.weight"][3] += 1.0  # a row that moved a hundred times as far has a step of its own
    return moved


def test_a_movement_comes_back_to_a_seventh_in_four_bits(base, trained, tmp_path):
    file = tmp_path / "run.npz"
    write_kept(file, trained | {"critic.score.weight": torch.ones(4, 4)}, base)
    found = read_kept(file, base)
    assert found.keys() == trained.keys()
    for name, value in found.items():
        moved, missed = trained[name] - base[name], value - trained[name]
        rows = (0,) if moved.ndim == 1 else tuple(range(1, moved.ndim))
        error = (missed.square().mean(dim=rows) / moved.square().mean(dim=rows).clamp(min=1e-12)).sqrt()
        assert error.max() < (0.001 if moved.ndim == 1 else 0.17), name
    assert torch.equal(found["transformer.blocks.0.weight"][7], base["transformer.blocks.0.weight"][7])
    assert 8 * file.stat().st_size / sum(each.numel() for each in trained.values()) < 4.2


def test_other_weights_and_other_files_are_refused(base, trained, tmp_path):
    file = tmp_path / "run.npz"
    write_kept(file, trained, base)
    moved = base | {"transformer.norm": base["transformer.norm"] + 0.1}
    with pytest.raises(InputError, match=r"run\.npz goes on from other weights"):
        read_kept(file, moved)
    assert read_kept(file, base | {"transformer.never": torch.ones(4, 4)}).keys() == trained.keys()
    with pytest.raises(InputError, match=r"run.npz trained transformer.norm, which"):
        read_kept(file, {name: value for name, value in base.items() if name != "transformer.norm"})
    for name, content in (("empty.npz", b""), ("words.npz", b"not an archive"), ("cut.npz", file.read_bytes()[:500])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name} is no kept training"):
            read_kept(tmp_path / name, base)
    np.savez(tmp_path / "other.npz", something=np.zeros(3))
    with pytest.raises(InputError, match=r"other\.npz is no kept training"):
        read_kept(tmp_path / "other.npz", base)
    with pytest.raises(InputError, match=r"nowhere\.npz is no kept training"):
        read_kept(tmp_path / "nowhere.npz", base)


def test_a_killed_writing_leaves_no_file(base, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(np, "savez_compressed", lambda *a, **k: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        write_kept(tmp_path / "run.npz", trained, base)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", sorted((ROOT / "recipes").glob("*.npz")), ids=lambda file: file.stem)
def test_what_is_kept_goes_on_from_the_shipped_weights(file):
    vae = AutoencoderPatchTransform.from_pretrained(embedded_model_path() / "vae")
    transformer = SCAIL2Transformer3DModel.from_pretrained(embedded_model_path() / "transformer", dtype=torch.float32)
    base = named_networks(vae, transformer)
    trained = read_kept(file, base)
    assert all(torch.isfinite(value).all() for value in trained.values())
    moved = {name: (value - base[name]).norm() / base[name].norm() for name, value in trained.items() if value.ndim > 1}
    assert all(0 < share < 2 for share in moved.values())
    assert file.stat().st_size < 10 * 2**20
