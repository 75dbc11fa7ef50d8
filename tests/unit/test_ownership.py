"""What a command may write to, who may write to it, and what becomes of what killed processes left behind."""

import errno
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from scail2.errors import InputError
from scail2.files.ownership import (
    Kind,
    claimed_file,
    claimed_folder,
    is_document,
    lock_beside,
    locked,
    new_file,
    new_folder,
)
from scail2.files.staging import Staging, atomic_file, exchange, roll_back, set_aside, sweep

LISTS = Kind("lists", "list.txt", lambda folder: (folder / "list.txt").is_file())
NOTES = Kind("notes", "a first line", lambda path: path.read_text().startswith("note\n"))


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every name below a folder; contents of files, targets of links."""
    return {
        path.relative_to(folder).as_posix(): (
            os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        )
        for path in folder.rglob("*")
    }


def killed(code: str, folder: Path) -> None:
    """Runs code that kills its own process."""
    program = f"import os, signal\nfrom pathlib import Path\nfolder = Path({str(folder)!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


KILL = "os.kill(os.getpid(), signal.SIGKILL)\n"
STAGE = (
    "from scail2.files.staging import Staging\nstaging = Staging(folder / 'out')\nstaging.place.write_text('half')\n"
    + KILL
)


def test_a_second_owner_is_refused_and_the_lock_goes_with_the_first(tmp_path):
    with locked(tmp_path / "out"):
        with pytest.raises(InputError, match=f"out is in use by process {os.getpid()}; wait"):
            ExitStack().enter_context(locked(tmp_path / "out"))
        other = "from scail2.files.ownership import locked\nwith locked(folder / 'out'): pass"
        done = subprocess.run(
            [sys.executable, "-c", f"from pathlib import Path\nfolder = Path({str(tmp_path)!r})\n{other}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert f"in use by process {os.getpid()}" in done.stderr
    assert tree(tmp_path) == {"out": None}
    with locked(tmp_path / "out"):
        pass


def test_the_lock_of_a_dead_process_does_not_block(tmp_path):
    killed(
        "from scail2.files.ownership import locked\nheld = locked(folder / 'out')\nheld.__enter__()\n" + KILL, tmp_path
    )
    assert (tmp_path / "out" / ".lock").exists()
    (tmp_path / "out" / ".list.txt.0123456789abcdef.partial").mkdir()  # killed before it was marked
    with claimed_folder(tmp_path / "out", LISTS):
        pass
    assert tree(tmp_path / "out") == {}


@pytest.mark.parametrize("make", [lambda p: p.write_text("my own words"), lambda p: p.mkdir(), lambda p: os.mkfifo(p)])
def test_what_is_no_lock_stays_as_it_is(tmp_path, make):
    make(tmp_path / ".lock")
    before = (tmp_path / ".lock").stat()
    with pytest.raises(InputError, match="is no lock of scail2"):
        ExitStack().enter_context(locked(tmp_path))
    assert (tmp_path / ".lock").stat().st_size == before.st_size


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("12")
    (tmp_path / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="is no lock of scail2"):
        ExitStack().enter_context(locked(tmp_path))
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").hardlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="has another name elsewhere"):
        ExitStack().enter_context(locked(tmp_path))
    assert (tmp_path / "mine").read_text() == "12"


def test_leftovers_of_dead_processes_are_removed_and_nothing_else(tmp_path):
    killed(STAGE, tmp_path)
    (dead,) = tmp_path.glob(".out.*.partial")
    assert (dead / "out").read_text() == "half"
    (tmp_path / ".out.0123456789abcdef.partial").mkdir()
    (tmp_path / ".out.0123456789abcdef.partial" / "mine.txt").write_text("a name like ours")
    (tmp_path / ".out.fedcba9876543210.partial").write_text("a file")
    (tmp_path / ".out.aaaaaaaaaaaaaaaa.partial").mkdir()  # killed before it was marked
    with Staging(tmp_path / "out") as alive:
        alive.place.write_text("still being written")
        sweep(tmp_path, "other")
        assert dead.exists()
        sweep(tmp_path, "out")
        assert not dead.exists()
        assert alive.place.read_text() == "still being written"
        alive.publish()
    assert tree(tmp_path) == {
        ".out.0123456789abcdef.partial": None,
        ".out.0123456789abcdef.partial/mine.txt": b"a name like ours",
        ".out.fedcba9876543210.partial": b"a file",
        "out": b"still being written",
    }


def test_a_living_process_elsewhere_keeps_its_temporaries(tmp_path):
    code = "print('there', flush=True)\nimport sys\nsys.stdin.read()\nstaging.close()"
    program = f"from pathlib import Path\nfolder = Path({str(tmp_path)!r})\n" + STAGE.replace(KILL, code)
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"there\n"
        sweep(tmp_path)
        assert [path.read_text() for path in tmp_path.glob(".out.*.partial/out")] == ["half"]
        process.stdin.close()
    assert process.returncode == 0
    assert tree(tmp_path) == {}


def test_folders_are_filled_only_where_nothing_foreign_is(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "file").write_text("keep")
    before = tree(tmp_path)
    for name, said in (
        ("mine", "holds other files and no lists"),
        ("link", "holds other files"),
        ("file", "is a file"),
    ):
        with pytest.raises(InputError, match=said):
            ExitStack().enter_context(claimed_folder(tmp_path / name, LISTS))
    assert tree(tmp_path) == before
    (tmp_path / "mine" / "list.txt").touch()
    with claimed_folder(tmp_path / "link", LISTS) as folder:
        assert folder == tmp_path / "mine"
    with claimed_folder(tmp_path / "new", LISTS):
        pass
    assert not (tmp_path / "new").exists()


def test_new_outputs_replace_nothing(tmp_path):
    with new_folder(tmp_path / "a") as folder:
        (folder / "x").write_text("1")
    with new_file(tmp_path / "b") as file:
        file.write_text("2")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for make, name in ((new_folder, "a"), (new_folder, "b"), (new_file, "a"), (new_file, "b"), (new_file, "dangling")):
        with pytest.raises(InputError, match="exists already"):
            ExitStack().enter_context(make(tmp_path / name))
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "c") as folder:
        (folder / "x").write_text(str(1 / 0))
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        (folder / "x").write_text("3")
    assert tree(tmp_path) == {
        "a": None, "a/x": b"1", "b": b"2", "dangling": os.fsencode(tmp_path / "nowhere"), "empty": None, "empty/x": b"3"
    }  # fmt: skip


def test_files_are_replaced_only_by_their_kind(tmp_path):
    (tmp_path / "other").write_text("a letter")
    (tmp_path / "old").write_text("note\n1")
    (tmp_path / "link").symlink_to("old")
    (tmp_path / "folder").mkdir()
    before = tree(tmp_path)
    for name, said in (("other", "holds no notes"), ("link", "is a link"), ("folder", "is a folder")):
        with pytest.raises(InputError, match=said):
            ExitStack().enter_context(claimed_file(tmp_path / name, NOTES))
    with claimed_file(tmp_path / "old", NOTES), pytest.raises(InputError, match="in use"):
        ExitStack().enter_context(claimed_file(tmp_path / "old", NOTES))
    assert tree(tmp_path) == before
    with claimed_file(tmp_path / "old", NOTES) as staging:
        staging.place.write_text("note\n2")
        staging.publish()
    assert tree(tmp_path) == before | {"old": b"note\n2"}


def test_locks_and_temporaries_fit_names_of_any_length(tmp_path):
    for name in ("n" * 255, "ü" * 127, os.fsdecode(b"\xff" * 255)):
        with locked(tmp_path / name, lock_beside(tmp_path / name)), atomic_file(tmp_path / name) as file:
            file.write(b"x")
        assert tree(tmp_path).pop(name) == b"x"


@pytest.mark.parametrize("moves", range(8))
def test_an_exchange_that_is_killed_is_undone(tmp_path, moves):
    """Killed after each of its renames: the folder is as before, or, after the last, as it should become."""
    for name, content in (("list.txt", "old list"), ("a", "old a"), ("b", "old b"), ("mine", "not part of it")):
        (tmp_path / name).write_text(content)
    before = tree(tmp_path)
    code = f"""
from scail2.files import staging
rename, count = os.rename, 0
def counted(*names):
    global count
    if count == {moves}:
        os.kill(os.getpid(), signal.SIGKILL)
    count += 1
    rename(*names)
os.rename = counted
with staging.Staging(folder / "made") as new:
    new.place.mkdir()
    for name in ("list.txt", "a", "c"):
        (new.place / name).write_text("new " + name)
    staging.exchange(new, folder, ["a", "b", "list.txt"], "list.txt")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed(code, tmp_path)
    roll_back(tmp_path)
    sweep(tmp_path)
    after = before | {
        "list.txt": b"new list.txt",
        "a": b"new a",
        "c": b"new c",
        "superseded": None,
        "superseded/1": None,
    }
    after |= {f"superseded/1/{name}": before[name] for name in ("a", "b", "list.txt")}
    after.pop("b")
    assert tree(tmp_path) == (before if moves < 6 else after)


CUT_SHORT = """
from scail2.files import staging
rename = os.rename
def until_list(source, target):
    if target == folder / "list.txt":
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)
os.rename = until_list
new = staging.Staging(folder / "made")
new.place.mkdir()
for name in ("list.txt", "a"):
    (new.place / name).write_text("new")
staging.exchange(new, folder, [], "list.txt")
"""


def test_undoing_leaves_what_was_put_there_since(tmp_path):
    killed(CUT_SHORT, tmp_path)
    (tmp_path / "a").write_text("painted by hand")
    roll_back(tmp_path)
    sweep(tmp_path)
    assert tree(tmp_path) == {"a": b"painted by hand"}


def test_a_new_output_that_was_killed_before_it_got_its_mark_is_not_foreign(tmp_path):
    killed(CUT_SHORT, tmp_path)
    assert (tmp_path / "a").read_text() == "new"
    assert not (tmp_path / "list.txt").exists()
    with claimed_folder(tmp_path, LISTS):
        assert tree(tmp_path).keys() == {".lock"}
    killed(CUT_SHORT, tmp_path)
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(InputError, match="holds other files and no lists"):
        ExitStack().enter_context(claimed_folder(tmp_path, LISTS))
    assert tree(tmp_path) == {"mine": b"keep"}


def test_nothing_is_set_aside_through_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "superseded").symlink_to("elsewhere")
    (tmp_path / "old").write_text("x")
    with pytest.raises(InputError, match="superseded is a link"):
        set_aside(tmp_path / "old")
    with Staging(tmp_path / "made") as new:
        new.place.mkdir()
        (new.place / "old").write_text("y")
        with pytest.raises(InputError, match="superseded is a link"):
            exchange(new, tmp_path, ["old"], "old")
    (tmp_path / "superseded").unlink()
    assert set_aside(tmp_path / "old") == tmp_path / "superseded" / "old-1"
    assert not list((tmp_path / "elsewhere").iterdir())


def test_documents_are_told_by_their_keys(tmp_path):
    (tmp_path / "good.json").write_text('{"a": 1, "b": NaN, "c": 2}')
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "half.json").write_text('{"a": 1')
    (tmp_path / "link.json").symlink_to("good.json")
    found = [path.stem for path in sorted(tmp_path.iterdir()) if is_document(path, {"a", "b"})]
    assert found == ["good"]
    assert not is_document(tmp_path, {"a"})


def test_a_folder_that_makes_no_files_is_told_not_waited_for(tmp_path, monkeypatch):
    """Some file systems answer "there is no such file" to the making of one, for ever."""
    made = os.open

    def refusing(path, flags, *rest, **more):
        if str(path).endswith(".lock"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return made(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(InputError, match=r"out cannot be made: .* takes no files"), locked(tmp_path / "out"):
        pass
