"""Downloads into the model folder: whole, compared with the Hub's hash, or not there at all.

A file is written under `installed.PARTIAL`, in a name that holds the hash it will have, and gets its own name when
size and hash are right. What was interrupted is taken up where it stopped, also by another process and another day:
huggingface_hub resumes within a process only, so its request loop is called with a file of ours.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from scail2.errors import InputError
from scail2.files.disk_errors import naming
from scail2.files.ownership import locked
from scail2.files.public.catalogue import PublicFile
from scail2.files.public.installed import (
    PARTIAL,
    FileState,
    Receipt,
    keep_receipt,
    partial_files,
    receipts,
    remember,
    state_of,
)
from scail2.files.storage import free_bytes

if TYPE_CHECKING:
    from huggingface_hub.file_download import HfFileMetadata

PUBLIC_HUB = "https://huggingface.co"
_CHUNK = 1 << 22
_SHA256, _GIT = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
# The Hub serves larger files only in pieces, through a client of its own.
LARGEST = 50_000_000_000
# Room that is left on the disk: a full disk harms more than this program.
_SPARE = 1 << 28
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes of a download that are still to come, and bytes free where they go."""

    missing: int
    free: int

    @property
    def enough(self) -> bool:
        """Whether they fit, with something left."""
        return self.missing + _SPARE <= self.free


def space_for(files: Iterable[PublicFile], folder: Path) -> Space:
    """What a download of ``files`` would take, by the table's sizes, less what is there."""
    known, missing = receipts(folder), 0
    for each in files:
        if state_of(each, folder, known) not in (FileState.INSTALLED, FileState.FOUND):
            there = sum(path.stat().st_size for path in partial_files(each, folder))
            missing += max(0, (each.size or round(each.gigabytes * 1e9)) - there)
    return Space(missing, free_bytes(folder))


def download(files: Iterable[PublicFile], folder: Path, report: Report, progress: type | None = None) -> None:
    """Fetches what is missing of ``files`` into ``folder`` and makes it the model folder.

    Args:
        files: in the order in which they are fetched; what is there already is kept.
        report: gets one line a file.
        progress: a class like tqdm's, for huggingface_hub; None for its own bar.

    Raises:
        InputError: the Hub refuses or has no such file, nobody answers, the disk would not hold it, or what came is not
            what the Hub says it is. Whatever was finished stays; the rest is resumed by the same call.
    """
    files = list(files)
    known = receipts(folder)
    damaged = [str(folder / each.place) for each in files if state_of(each, folder, known) is FileState.DAMAGED]
    if damaged:
        raise InputError(
            f"By its size this is not the file it should be: {', '.join(damaged)}; move it away, then run this again."
        )
    space = space_for(files, folder)
    if not space.enough:
        raise InputError(
            f"{folder} has {space.free / 1e9:.1f} GB free, and {space.missing / 1e9:.1f} GB are still to come: "
            "free some space, or name another place with --folder."
        )
    with locked(folder):
        remember(folder)
        for each in files:
            if state_of(each, folder) in (FileState.INSTALLED, FileState.FOUND):
                report(f"{each.place} is there")
                continue
            _fetch(each, folder, progress)
            report(f"{each.place} is downloaded and compared with its hash")
        _tidy(folder)


def _fetch(file: PublicFile, folder: Path, progress: type | None) -> None:
    with _plain_errors(file):
        facts = _facts(file)
    if facts.etag is None or facts.size is None or facts.commit_hash is None:
        raise InputError(
            f"{_address(file)}: the answer states no hash, size and revision; HF_ENDPOINT may not be a Hub."
        )
    if file.sha256 is not None and _SHA256.fullmatch(facts.etag) and facts.etag != file.sha256:
        raise InputError(
            f"{_address(file)} has the SHA-256 {facts.etag}, but the one known here is {file.sha256}: "
            "the repository was changed, or this is not it. Look at its page before you take it by hand."
        )
    if facts.size > LARGEST:
        raise InputError(
            f"{_address(file)} is larger than {LARGEST / 1e9:.0f} GB, which the Hub does not give out in one piece: "
            f"fetch it with `{command(file, folder)}`, then run this again."
        )
    partial = folder / PARTIAL / f"{file.place.replace('/', '+')}.{facts.etag}.part"
    with naming(folder / file.place):
        partial.parent.mkdir(parents=True, exist_ok=True)
        for older in partial_files(file, folder):
            if older != partial:
                older.unlink()
        with partial.open("ab") as stream, _plain_errors(file):
            _receive(file, facts, stream, progress)
            stream.flush()
            os.fsync(stream.fileno())
        _compare(file, facts, partial)
        target = folder / file.place
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial, target)
        keep_receipt(folder, file.place, Receipt(file.repository, file.path, facts.commit_hash, facts.size, facts.etag))


def command(file: PublicFile, folder: Path) -> str:
    """A shell command that fetches one file by hand to where it belongs, and goes on where it was interrupted."""
    if file.place.endswith(file.path):
        place = folder / file.place.removesuffix(file.path)
        return f"hf download {file.repository} {file.path} --local-dir {shlex.quote(str(place))}"
    url = f"{_endpoint() or PUBLIC_HUB}/{file.repository}/resolve/main/{file.path}"
    return f"curl -L -C - --create-dirs -o {shlex.quote(str(folder / file.place))} {url}"


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _address(file: PublicFile) -> str:
    return f"{file.repository}/{file.path}"


def _facts(file: PublicFile) -> HfFileMetadata:
    """What the Hub says about a file: one HEAD request."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    return get_hf_file_metadata(hf_hub_url(file.repository, file.path, endpoint=_endpoint()), endpoint=_endpoint())


def _receive(file: PublicFile, facts: HfFileMetadata, stream: BinaryIO, progress: type | None) -> None:
    """Appends what is missing to a partial file."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    there = stream.tell()
    if there > facts.size:  # it cannot be a beginning of the file
        there = 0
        stream.truncate(0)
    # Not the storage behind it: signed addresses expire, and a resumed request gets a new one from the Hub itself.
    url = hf_hub_url(file.repository, file.path, revision=facts.commit_hash, endpoint=_endpoint())
    http_get(
        url,
        stream,
        resume_size=there,
        headers=build_hf_headers(),
        expected_size=facts.size,
        displayed_filename=file.name,
        tqdm_class=progress,
    )


def _compare(file: PublicFile, facts: HfFileMetadata, partial: Path) -> None:
    """The content against the hash that names it: SHA-256 for large files, git's own for small ones."""
    size = partial.stat().st_size
    if _SHA256.fullmatch(facts.etag):
        digest = hashlib.sha256()
    elif _GIT.fullmatch(facts.etag):
        digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    else:
        raise InputError(f"{_address(file)}: the Hub states no hash for it ({facts.etag}), so it cannot be checked.")
    with partial.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    if size != facts.size or digest.hexdigest() != facts.etag:
        partial.unlink()
        raise InputError(
            f"{_address(file)} arrived with another content than the Hub states; it was deleted: run this again."
        )


@contextmanager
def _plain_errors(file: PublicFile) -> Iterator[None]:
    """The client's errors as one sentence each; those of this disk go on as they are."""
    from huggingface_hub import errors

    kept = "What came so far is kept: the same command goes on from there."
    try:
        yield
    except errors.GatedRepoError as error:
        raise InputError(
            f"{file.repository} asks for consent: agree at {PUBLIC_HUB}/{file.repository}, then `hf auth login`."
        ) from error
    except (errors.RepositoryNotFoundError, errors.RemoteEntryNotFoundError, errors.RevisionNotFoundError) as error:
        doubt = "" if file.verified else " (its name could not be verified)"
        raise InputError(f"The Hub has no file {_address(file)}{doubt}.") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "an error"
        raise InputError(f"The Hub answers {status} for {_address(file)}; try again later. {kept}") from error
    except (errors.OfflineModeIsEnabled, errors.HTTPError) as error:
        where = _endpoint() or PUBLIC_HUB
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{_address(file)} cannot be fetched from {where}: {reason}. {kept}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        # Its complaint about a wrong length is an OSError without a number.
        raise InputError(f"{_address(file)} arrived incomplete. {kept}") from error


def _tidy(folder: Path) -> None:
    if (folder / PARTIAL).is_dir() and not any((folder / PARTIAL).iterdir()):
        (folder / PARTIAL).rmdir()
