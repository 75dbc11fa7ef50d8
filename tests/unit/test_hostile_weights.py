"""Weights that claim more than they hold, wait to be opened, or name what nothing is called: refused in one line, at once."""

import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from scail2.checkpoints.gguf_header import read_gguf_header
from scail2.checkpoints.model_folder import check_pipeline
from scail2.checkpoints.tensor_files import open_tensor_file
from scail2.data.shards import DamageReport, find_shards, read_index
from scail2.errors import InputError
from scail2.evaluation.networks import GivenNetworks
from scail2.video import VideoReader

TEXT, ARRAY, UINT8, UINT32 = 8, 9, 0, 4


def refused(path: Path, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        open_tensor_file(path)
    assert len(str(caught.value).splitlines()) == 1


# ---- GGUF ---------------------------------------------------------------------------------------------------------


def text(words: bytes) -> bytes:
    return struct.pack("<Q", len(words)) + words


def gguf(path: Path, *, tensors: int = 0, fields: int = 0, rest: bytes = b"", version: int = 3) -> Path:
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", version, tensors, fields) + rest + bytes(64))
    return path


def test_a_gguf_header_that_claims_more_than_the_file_is_refused_at_once(tmp_path):
    path, key = tmp_path / "x.gguf", text(b"k")
    described = text(b"a") + struct.pack("<I", 2)
    for claim, said in (
        ({"fields": 2**60}, "members"),
        ({"tensors": 2**60}, "members"),
        ({"fields": 1, "rest": struct.pack("<Q", 2**60)}, "claims more than it holds"),
        ({"fields": 1, "rest": key + struct.pack("<IIQ", ARRAY, UINT8, 2**50)}, "claims more than it holds"),
        ({"fields": 1, "rest": key + struct.pack("<IIQ", ARRAY, TEXT, 2**61)}, "claims more than it holds"),
        ({"fields": 1, "rest": key + struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1) * 5000}, "unknown type"),
        ({"fields": 2, "rest": (key + struct.pack("<II", UINT32, 1)) * 2}, "twice"),
        ({"tensors": 1, "rest": text(b"a") + struct.pack("<I", 2**31)}, "2147483648 dimensions"),
        ({"tensors": 1, "rest": described + struct.pack("<QQIQ", 2**40, 2**40, 0, 0)}, "ends behind its end"),
        ({"tensors": 1, "rest": described + struct.pack("<QQIQ", 1, 1, 0, 2**63)}, "ends behind its end"),
        ({"tensors": 1, "rest": described + struct.pack("<QQIQ", 1, 1, 999, 0)}, "block type 999"),
        ({"tensors": 1, "rest": described + struct.pack("<QQIQ", 33, 1, 8, 0)}, "multiple of Q8_0"),
        ({"version": 7}, "version is 7"),
    ):
        refused(gguf(path, **claim), said)


def test_a_gguf_file_is_read_as_its_own_package_reads_it(tmp_path):
    package = pytest.importorskip("gguf")
    path, rng = tmp_path / "x.gguf", np.random.default_rng(0)
    plain = rng.standard_normal((3, 64), np.float32)
    writer = package.GGUFWriter(path, "wan")
    writer.add_array("words", ["a", "bc", ""] * 20)
    writer.add_array("numbers", list(range(100)))
    writer.add_tensor("plain", plain)
    writer.add_tensor("half", plain.astype(np.float16))
    blocks = package.quants.quantize(plain, package.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blocks", blocks, raw_dtype=package.GGMLQuantizationType.Q8_0)
    writer.add_array("comfy.gguf.orig_shape.plain", [3, 4, 16])
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    known, header = package.GGUFReader(path), read_gguf_header(path)
    assert [(each.name, each.shape[::-1], header.data + each.offset) for each in header.tensors] == [
        (each.name, tuple(each.shape.tolist()), each.data_offset) for each in known.tensors
    ]
    assert header.fields["numbers"] == list(range(16))
    assert header.fields["words"][:4] == ["a", "bc", "", "a"]
    file = open_tensor_file(path)
    assert file.metadata == {"general.architecture": "wan"}
    assert torch.equal(file.read("plain"), torch.from_numpy(plain).reshape(3, 4, 16))
    assert torch.equal(file.read("half"), torch.from_numpy(plain.astype(np.float16)))
    expected = package.quants.dequantize(blocks, package.GGMLQuantizationType.Q8_0)
    assert torch.equal(file.read("blocks"), torch.from_numpy(expected))
    assert torch.equal(file.read_rows("blocks", slice(1, 3)), torch.from_numpy(expected[1:3]))
    path.write_bytes(path.read_bytes()[:-100])
    refused(path, "ends behind its end")


# ---- PyTorch ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_tensor_may_not_claim_more_than_is_stored_of_it(tmp_path, zipped):
    path = tmp_path / "x.pt"
    place = torch.tensor([[0], [0]])
    for tensor in (
        torch.zeros(1).expand(10**6, 10**6),
        torch.zeros(100).as_strided((10**5, 50), (0, 1)),
        torch.sparse_coo_tensor(place, torch.ones(1), (10**9, 10**9), check_invariants=True),
        torch.empty(10**9, 10**9, device="meta"),
    ):
        torch.save({"a": tensor}, path, _use_new_zipfile_serialization=zipped)
        refused(path, "'a' of shape .* larger than what is stored")
    torch.save({"a": torch.arange(6.0).reshape(2, 3).T}, path, _use_new_zipfile_serialization=zipped)
    assert torch.equal(open_tensor_file(path).read("a"), torch.arange(6.0).reshape(2, 3).T)


def test_a_pickle_names_its_tensors_by_text(tmp_path):
    torch.save({"a": torch.zeros(1), 1: torch.zeros(1)}, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "under 1, where names are text")


def test_a_compressed_archive_is_not_unpacked(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as source,
        zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as made,
    ):
        for each in source.infolist():
            made.writestr(each.filename, source.read(each) + bytes(10**6))
    assert (tmp_path / "x.pt").stat().st_size < 20_000
    refused(tmp_path / "x.pt", "compressed, which PyTorch's own files never are")


# ---- safetensors and configurations --------------------------------------------------------------------------------


def test_a_safetensors_header_has_bounded_tensors_and_dimensions(tmp_path, monkeypatch):
    def header(content: dict) -> Path:
        encoded = json.dumps(content).encode()
        (tmp_path / "x.safetensors").write_bytes(
            struct.pack("<Q", len(encoded)) + encoded + bytes(4 * (content.keys() == {"a"}))
        )
        return tmp_path / "x.safetensors"

    entry = {"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]}
    refused(header({"a": entry}), "its length must be from 0 to 8, not 9")
    monkeypatch.setenv("SCAIL2_MAX_MEMBERS", "20")
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    refused(header({f"t{number}": empty for number in range(21)}), "21 members are more than the 20 allowed")
    assert len(open_tensor_file(header({f"t{number}": empty for number in range(20)})).tensors) == 20


def test_an_index_may_not_name_what_no_file_is_called(tmp_path):
    path = tmp_path / "x.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "x" * 300}}))
    refused(path, "not a file beside it")


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("model_index.json", {"native_height": 1e308}, "'native_height' must be a whole number"),
        ("model_index.json", {"native_width": 10**9}, "'native_width'"),
        ("scheduler/scheduler_config.json", {"shift_terminal": [1, 1]}, "'shift_terminal' must be"),
        ("scheduler/scheduler_config.json", {"shift_terminal": 1.0}, "'shift_terminal'"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**12}, "'num_train_timesteps'"),
        ("scheduler/scheduler_config.json", {"shift": -1}, "'shift'"),
    ],
)
def test_sizes_and_schedules_are_judged_before_anything_is_built(tmp_path, file, values, said):
    index = {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"], "native_height": 512, "native_width": 896}
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"num_train_timesteps": 1000, "shift": 5.0}')
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert set(check_pipeline(tmp_path)) == {"scheduler"}
    changed = json.loads((tmp_path / file).read_text()) | values
    (tmp_path / file).write_text(json.dumps(changed))
    with pytest.raises(InputError, match=said):
        check_pipeline(tmp_path)


# ---- pipes: opening one would wait for ever -------------------------------------------------------------------------


def test_pipes_are_not_waited_for(tmp_path):
    pipe = tmp_path / "x.tar"
    os.mkfifo(pipe)
    for read in (
        lambda: find_shards(pipe),
        lambda: find_shards(tmp_path),
        lambda: read_index(pipe, DamageReport()),
        lambda: GivenNetworks.load(lpips=pipe),
        lambda: GivenNetworks.load(video_features=pipe),
    ):
        with pytest.raises(InputError, match=r"x\.tar is no plain file"):
            read()


def test_a_frame_that_is_a_pipe_or_leads_nowhere_is_named_instead_of_left_out(tmp_path):
    from PIL import Image

    for number in (1, 3):
        Image.new("RGB", (32, 32)).save(tmp_path / f"{number}.png")
    assert len(VideoReader(tmp_path)) == 2
    os.mkfifo(tmp_path / "2.png")
    with pytest.raises(InputError, match=r"2\.png: is a pipe, a device or a link that leads nowhere"):
        VideoReader(tmp_path)
    os.unlink(tmp_path / "2.png")
    (tmp_path / "2.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(InputError, match=r"2\.png: is a pipe"):
        VideoReader(tmp_path)
