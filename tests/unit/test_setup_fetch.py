"""Downloads through the real client of the Hub, from a server on this machine."""

import errno
import hashlib
import json
import random
import shutil
from collections import namedtuple

import pytest
from hub_server import REVISION, hub_server

from scail2.errors import InputError
from scail2.files.ownership import locked
from scail2.files.public import fetch
from scail2.files.public.catalogue import PublicFile
from scail2.files.public.fetch import command, download, space_for
from scail2.files.public.installed import PARTIAL, RECEIPTS, FileState, model_folder, state_of

REPOSITORY = "someone/weights"
CONTENT = random.Random(0).randbytes(300_000)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("SCAIL2_HOME", raising=False)
    # Between attempts the client waits for seconds.
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    # Of a chunk that is cut off nothing is kept.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        server.files[REPOSITORY, "split/a.safetensors"] = CONTENT
        yield server


def entry(path="split/a.safetensors", place="vae/a.safetensors", **changes):
    facts = {"gigabytes": 0.0003, "checked": "here", "licence": "MIT", "what": "a file", "repository": REPOSITORY}
    return PublicFile(**facts | {"path": path, "place": place} | changes)


def fetched(folder, *files):
    said = []
    download(files or (entry(),), folder, said.append)
    return said


def test_a_file_arrives_whole_and_is_noted(hub, tmp_path):
    folder = tmp_path / "models"
    assert fetched(folder) == ["vae/a.safetensors is downloaded and compared with its hash"]
    assert (folder / "vae/a.safetensors").read_bytes() == CONTENT
    assert json.loads((folder / RECEIPTS).read_text()) == {
        "vae/a.safetensors": {
            "repository": REPOSITORY,
            "path": "split/a.safetensors",
            "revision": REVISION,
            "size": 300_000,
            "digest": hashlib.sha256(CONTENT).hexdigest(),
        }
    }
    assert state_of(entry(), folder) is FileState.INSTALLED
    assert sorted(path.name for path in folder.iterdir()) == [RECEIPTS, "vae"]
    asked = len(hub.requests)
    assert fetched(folder) == ["vae/a.safetensors is there"]
    assert len(hub.requests) == asked


def test_the_folder_is_remembered_and_the_variable_wins(hub, tmp_path, monkeypatch):
    assert model_folder() == tmp_path / "data" / "scail2"
    fetched(tmp_path / "elsewhere")
    assert model_folder() == tmp_path / "elsewhere"
    monkeypatch.setenv("SCAIL2_HOME", str(tmp_path / "named"))
    assert model_folder() == tmp_path / "named"


def test_an_interrupted_body_is_taken_up_in_the_same_call(hub, tmp_path):
    hub.cut = [70_000, 50_000]
    fetched(tmp_path)
    assert (tmp_path / "vae/a.safetensors").read_bytes() == CONTENT
    assert hub.ranges() == [None, "bytes=70000-", "bytes=120000-"]


def test_what_came_before_a_refusal_is_kept_for_another_call(hub, tmp_path):
    hub.cut, hub.broken = [70_000], [200, 503]
    with pytest.raises(InputError, match=r"answers 503 .*split/a\.safetensors.*the same command goes on from there"):
        fetched(tmp_path)
    assert not (tmp_path / "vae").exists()
    assert state_of(entry(), tmp_path) is FileState.PARTIAL
    partial = next((tmp_path / PARTIAL).iterdir())
    assert partial.read_bytes() == CONTENT[:70_000]
    assert space_for([entry(size=300_000)], tmp_path).missing == 230_000
    fetched(tmp_path)
    assert (tmp_path / "vae/a.safetensors").read_bytes() == CONTENT
    assert hub.ranges()[-1] == "bytes=70000-"
    assert not (tmp_path / PARTIAL).exists()


def test_large_files_come_from_a_storage_that_is_not_told_the_login(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with hub_server() as storage:
        hub.storage, storage.files, storage.cut = storage, hub.files, [70_000]
        # Another host than the Hub's, as far as the client knows: a login goes to the same host only.
        storage.address = storage.address.replace("127.0.0.1", "localhost")
        fetched(tmp_path)
        assert (tmp_path / "vae/a.safetensors").read_bytes() == CONTENT
        assert storage.ranges() == [None, "bytes=70000-"]
        assert set(storage.logins) == {None}
    assert set(hub.logins) == {"Bearer hf_secret"}
    assert [method for method, _, _ in hub.requests] == ["HEAD", "GET", "GET"]


def test_a_server_without_ranges_sends_everything_again(hub, tmp_path):
    hub.cut, hub.ignores_ranges = [70_000], True
    fetched(tmp_path)
    assert (tmp_path / "vae/a.safetensors").read_bytes() == CONTENT


def test_the_beginning_of_another_version_is_not_continued(hub, tmp_path):
    (tmp_path / PARTIAL).mkdir()
    old = tmp_path / PARTIAL / f"vae+a.safetensors.{'0' * 64}.part"
    old.write_bytes(b"something else")
    fetched(tmp_path)
    assert (tmp_path / "vae/a.safetensors").read_bytes() == CONTENT
    assert hub.ranges() == [None]


def test_a_damaged_beginning_is_found_out_and_removed(hub, tmp_path):
    (tmp_path / PARTIAL).mkdir()
    partial = tmp_path / PARTIAL / f"vae+a.safetensors.{hashlib.sha256(CONTENT).hexdigest()}.part"
    partial.write_bytes(bytes(1000))
    with pytest.raises(InputError, match="another content than the Hub states; it was deleted"):
        fetched(tmp_path)
    assert not partial.exists()
    assert not (tmp_path / "vae").exists()
    fetched(tmp_path)
    assert (tmp_path / "vae/a.safetensors").read_bytes() == CONTENT


def test_content_that_differs_from_its_hash_is_not_installed(hub, tmp_path):
    hub.tags["split/a.safetensors"] = "1" * 64
    with pytest.raises(InputError, match="another content than the Hub states"):
        fetched(tmp_path)
    assert state_of(entry(), tmp_path) is FileState.MISSING


def test_a_repository_that_changed_is_not_taken_for_the_known_one(hub, tmp_path):
    with pytest.raises(InputError, match="the repository was changed, or this is not it"):
        fetched(tmp_path, entry(sha256="2" * 64))
    assert hub.ranges() == []


def test_small_files_are_compared_with_gits_hash(hub, tmp_path):
    hub.files[REPOSITORY, "config.json"] = b'{"a": 1}'
    hub.small.add("config.json")
    small = entry("config.json", "own/config.json")
    fetched(tmp_path, small)
    assert (tmp_path / "own/config.json").read_bytes() == b'{"a": 1}'
    hub.tags["config.json"] = "3" * 40
    with pytest.raises(InputError, match="another content"):
        fetched(tmp_path / "again", small)
    hub.tags["config.json"] = "W-weak"
    with pytest.raises(InputError, match="states no hash"):
        fetched(tmp_path / "third", small)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"path": "absent.safetensors"}, r"The Hub has no file someone/weights/absent\.safetensors\."),
        ({"path": "absent", "verified": False}, r"no file someone/weights/absent \(its name could not be verified\)\."),
        ({"repository": "nobody/nothing"}, r"The Hub has no file nobody/nothing/split/a\.safetensors\."),
        ({"repository": "shy/model"}, r"shy/model asks for consent: agree at https://huggingface\.co/shy/model, then"),
    ],
)
def test_refusals_name_the_file_and_the_way_out(hub, tmp_path, change, words):
    hub.gated.add("shy/model")
    with pytest.raises(InputError, match=words):
        fetched(tmp_path, entry(**change))


def test_nobody_answers(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"cannot be fetched from http://127\.0\.0\.1:9: .*the same command goes on"):
        fetched(tmp_path)


def test_what_is_finished_stays_when_a_later_file_fails(hub, tmp_path):
    with pytest.raises(InputError, match="no file"):
        fetched(tmp_path, entry(), entry("absent", "vae/b.safetensors"))
    assert state_of(entry(), tmp_path) is FileState.INSTALLED


def test_a_disk_too_small_is_said_before_anything_is_asked(hub, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 0, 10**9))
    with pytest.raises(InputError, match=r"has 1\.0 GB free, and 5\.0 GB are still to come: free some space"):
        fetched(tmp_path / "models", entry(gigabytes=5.0))
    assert hub.requests == []
    assert not (tmp_path / "models").exists()


def test_a_disk_that_fills_up_is_one_sentence_and_leaves_what_came(hub, tmp_path, monkeypatch):
    def full(file, facts, stream, progress):
        stream.write(CONTENT[:1000])
        stream.flush()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch, "_receive", full)
    with pytest.raises(OSError, match="No space left") as error:
        fetched(tmp_path)
    assert error.value.filename == str(tmp_path / "vae/a.safetensors")
    assert state_of(entry(), tmp_path) is FileState.PARTIAL
    monkeypatch.undo()


def test_two_downloads_into_one_folder(hub, tmp_path):
    with locked(tmp_path), pytest.raises(InputError, match="is in use by process"):
        fetched(tmp_path)


def test_states_by_size(hub, tmp_path):
    path = tmp_path / "vae/a.safetensors"
    path.parent.mkdir()
    path.write_bytes(bytes(300_000))
    exact, rounded = entry(size=300_000), entry(gigabytes=0.000301)
    assert state_of(exact, tmp_path) is state_of(rounded, tmp_path) is FileState.FOUND
    path.write_bytes(bytes(299_999))
    assert state_of(exact, tmp_path) is FileState.DAMAGED
    assert state_of(rounded, tmp_path) is FileState.FOUND
    assert state_of(entry(gigabytes=0.0004), tmp_path) is FileState.DAMAGED
    assert state_of(entry(gigabytes=0.0004, verified=False), tmp_path) is FileState.FOUND
    with pytest.raises(InputError, match=r"not the file it should be: .*vae/a\.safetensors; move it away"):
        fetched(tmp_path, entry("b", "b"), exact)
    assert hub.requests == []
    assert path.stat().st_size == 299_999
    path.unlink()
    fetched(tmp_path, exact)
    path.write_bytes(CONTENT[:-1])
    assert state_of(entry(), tmp_path) is FileState.DAMAGED


def test_files_the_hub_does_not_give_in_one_piece(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "LARGEST", 200_000)
    large = entry("a.safetensors", "own/a.safetensors")
    hub.files[REPOSITORY, "a.safetensors"] = CONTENT
    with pytest.raises(InputError, match=rf"`hf download someone/weights a\.safetensors --local-dir {tmp_path}/own`"):
        fetched(tmp_path, large)


def test_commands_for_fetching_by_hand(hub, tmp_path):
    assert command(entry(), tmp_path / "my models") == (
        f"curl -L -C - --create-dirs -o '{tmp_path}/my models/vae/a.safetensors' "
        f"{hub.address}/someone/weights/resolve/main/split/a.safetensors"
    )
    assert command(entry("vae/a.safetensors"), tmp_path) == (
        f"hf download someone/weights vae/a.safetensors --local-dir {tmp_path}"
    )
