"""Every file of a finished run, edited in every wrong way: healed to the same film, or refused with a sentence.

``SCAIL2_TAMPER_EXAMPLES`` (a number, or ``all``) asks for more than the few dozen examples that are tried by default.
"""

import json
import os
import random
import shutil
from itertools import zip_longest
from pathlib import Path

import pytest
import torch
from run_material import make_request
from tiny import SIZE, bare_pipeline

from scail2.errors import InputError
from scail2.runs import RunDirectory

EXAMPLES = os.environ.get("SCAIL2_TAMPER_EXAMPLES", "40")
SEED = 11
# Painting on these is what they are for: the film may change, but the run must say that it judges them anew.
PAINTED = {"masks/reference_mask.png", "masks/driving_mask.mkv"}


def deleted(path, other):
    path.unlink()


def emptied(path, other):
    path.write_bytes(b"")


def truncated(path, other):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flipped(path, other):
    content = bytearray(path.read_bytes())
    content[2 * len(content) // 3] ^= 16
    path.write_bytes(content)


def noise(path, other):
    path.write_bytes(random.Random(SEED).randbytes(3000))


def linked(path, other):
    path.unlink()
    path.symlink_to(other)


def folder(path, other):
    path.unlink()
    path.mkdir()


def pipe_file(path, other):
    path.unlink()
    os.mkfifo(path)


def of_another_run(path, other):
    shutil.copyfile(other, path)


def doubled(path, other):
    path.write_bytes(path.read_bytes() * 2)


def document(text):
    def edit(path, other):
        path.write_text(text)

    return edit


def value(kind):
    """Replaces one value, chosen by the file's name, by one of another kind (or another of the same kind)."""

    def edit(path, other):
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        content = json.loads(lines[-1])
        places = list(leaves(content))
        holder, key = random.Random(f"{path.name}{kind}").choice(places)
        changed = another(holder[key]) if kind == "other" else kind
        if kind == "gone":
            del holder[key]
        else:
            holder[key] = changed
        path.write_text("\n".join([*lines[:-1], json.dumps(content)]) + "\n")

    return edit


def leaves(content):
    for key, each in content.items() if isinstance(content, dict) else enumerate(content):
        yield content, key
        if isinstance(each, dict | list):
            yield from leaves(each)


def another(old):
    if isinstance(old, bool):
        return not old
    if isinstance(old, int | float):
        return old + 1
    return f"{old}x" if isinstance(old, str) else [] if isinstance(old, dict) else {}


PLAIN = [deleted, emptied, truncated, flipped, noise, linked, folder, pipe_file, of_another_run, doubled]
JSON = {
    "null": document("null"),
    "list": document("[]"),
    "table": document("{}"),
    "nested": document("[" * 100_000),
    "nested tables": document('{"a":' * 5_000 + "1" + "}" * 5_000),
    "huge integer": document('{"version": ' + "9" * 5_000 + "}"),
    "not a number": document('{"segments": NaN, "key": Infinity}'),
    **{
        f"value {kind!r}": value(kind)
        for kind in ("other", "gone", None, -1, 10**18, 1e308, "text", [[]], {"a": {}}, True)
    },
}


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    return bare_pipeline(native_height=SIZE, native_width=SIZE)


@pytest.fixture(scope="module")
def work(tmp_path_factory, pipe):
    """A finished run, one of whose segments has noise of its own, and another run of the same job with other noise."""
    place = tmp_path_factory.mktemp("tampered") / "work"
    request = make_request(place, frames=13)
    other = RunDirectory.create(place / "other.run", request.with_changes(output=place / "other.mp4", seed=3))
    other.execute(pipe)
    run = RunDirectory.create(place / "film.run", request)
    run.execute(pipe)
    run.rerender(0, seed=8, cascade=True, pipe=pipe)
    run.clean()
    shutil.copytree(place, place.with_name("pristine"))
    return place


def examples(run: Path):
    files = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
    every = [(name, edit.__name__, edit) for name in files for edit in PLAIN]
    every += [(name, told, edit) for name in files if ".json" in name for told, edit in JSON.items()]
    if EXAMPLES == "all":
        return every
    random.Random(SEED).shuffle(every)
    turns = {name: iter([each for each in every if each[0] == name]) for name in files}
    rounds = zip_longest(*turns.values())  # every file once, then every file once more
    return [each for one in rounds for each in one if each is not None][: int(EXAMPLES)]


def attempt(work):
    """What a command says (None: it worked). Anything but a sentence is a failure of the test."""
    try:
        work()
    except InputError as error:
        return str(error)
    return None


def outcome(place: Path, pipe, name: str) -> str | None:
    """What is wrong with how the run behaves, None if nothing is."""
    run, film = place / "film.run", (place / "film.mp4").read_bytes()
    attempt(lambda: RunDirectory.open(run).status())
    told: list[str] = []

    def listen(event):
        if event.name == "note":
            told.append(event.facts["message"])

    refused = None
    for _ in range(3):  # one attempt may set a damaged segment aside, the next one redoes it
        refused = attempt(lambda: RunDirectory.open(run).resume(pipe, events=listen))
        if refused is None:
            break
        if (place / "film.mp4").read_bytes() != film:
            return f"refused ({refused}), but the film was replaced"
    same = (place / "film.mp4").read_bytes() == film
    if refused is None and not same and not (name in PAINTED and any("judged anew" in each for each in told)):
        return "another film in silence"
    if refused is None and not same:
        return None
    again = attempt(lambda: RunDirectory.open(run).rerender(0, pipe=pipe))
    if again is None and (place / "film.mp4").read_bytes() != film:
        return "rerender with the stored noise made another film"
    attempt(lambda: RunDirectory.open(run).clean())
    attempt(lambda: RunDirectory.open(run).status())
    if not (place / "reference.png").exists() or not (place / "other.mp4").exists():
        return "something else was deleted"
    return None


def test_a_tampered_run_is_healed_or_refused(work, pipe):
    wrong = []
    for name, told, edit in examples(work / "film.run"):
        shutil.rmtree(work)
        shutil.copytree(work.with_name("pristine"), work)
        edit(work / "film.run" / name, work / "other.run" / name)
        try:
            problem = outcome(work, pipe, name)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if problem is not None:
            wrong.append(f"{name}, {told}: {problem}")
    assert not wrong, "\n".join(wrong)


def swapped_segments(place):
    segments = place / "film.run" / "segments"
    (segments / "000").rename(segments / "aside")
    (segments / "001").rename(segments / "000")
    (segments / "aside").rename(segments / "001")


def foreign(name):
    def edit(place):
        shutil.rmtree(place / "film.run" / name)
        shutil.copytree(place / "other.run" / name, place / "film.run" / name)

    edit.__name__ = f"foreign {name}"
    return edit


def lost(name):
    def edit(place):
        shutil.rmtree(place / "film.run" / name)

    edit.__name__ = f"lost {name}"
    return edit


FOLDERS = [
    swapped_segments,
    *(kind(name) for kind in (foreign, lost) for name in ("segments/000", "segments", "masks")),
]


@pytest.mark.parametrize("edit", FOLDERS, ids=lambda edit: edit.__name__)
def test_folders_that_were_exchanged_or_lost_are_healed_or_refused(work, pipe, edit):
    shutil.rmtree(work)
    shutil.copytree(work.with_name("pristine"), work)
    edit(work)
    assert outcome(work, pipe, "") is None


@pytest.mark.parametrize("edit", [flipped, truncated, of_another_run, deleted], ids=lambda edit: edit.__name__)
def test_a_film_that_is_not_the_runs_is_never_called_finished_nor_replaced_unasked(work, pipe, edit):
    shutil.rmtree(work)
    shutil.copytree(work.with_name("pristine"), work)
    made = (work / "film.mp4").read_bytes()
    edit(work / "film.mp4", work / "other.mp4")
    there = (work / "film.mp4").read_bytes() if (work / "film.mp4").exists() else None
    assert RunDirectory.open(work / "film.run").status().state != "finished"
    refused = attempt(lambda: RunDirectory.open(work / "film.run").resume(pipe))
    if refused is None:
        assert there is None
        assert (work / "film.mp4").read_bytes() == made
    else:
        assert (work / "film.mp4").read_bytes() == there
