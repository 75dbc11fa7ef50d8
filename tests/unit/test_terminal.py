"""What reaches the terminal, what the operating system's refusals become, and how signals end a command."""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from scail2.cli.app import main
from scail2.cli.terminal import Terminal, show_log, visible
from scail2.errors import InputError
from scail2.files.disk_errors import as_system_error, naming, sentence
from scail2.files.staging import atomic_file
from scail2.files.user_paths import expanded
from scail2.runs.journal import Journal

COMMAND = [sys.executable, "-c", "from scail2.cli.app import main; main()"]
NASTY = "a\x1b[31mred\x1b]0;title\x07\r\n\x9b2J\u202egnp.exe\u2066\u200b\x7f[bold]:smile:"
SHOWN = "a\\x1b[31mred\\x1b]0;title\\x07\\r\\n\\x9b2J\\u202egnp.exe\\u2066\\u200b\\x7f[bold]:smile:"


def call(*arguments) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(each) for each in arguments])
    return end.value.code or 0


def test_control_characters_are_shown_and_everything_else_is_left_alone():
    assert visible(NASTY) == SHOWN
    for text in ("Grüße, 日本語 и кириллица", "👩\u200d🎤 dances", "فارسی\u200cها", "tab-free", ""):
        assert visible(text) == text
    assert visible("one\ntwo\x1b", lines=True) == "one\ntwo\\x1b"
    assert visible("\ud800") == "\\ud800"


def test_whatever_is_printed_goes_through_it(capsys):
    terminal = Terminal()
    terminal.say(NASTY)
    table = Table()
    table.add_column("a name that is long enough", no_wrap=True)
    table.add_row("x\x1b[2J[bold]y\x9b")
    terminal.print(table)
    show_log(logging.WARNING)
    out = capsys.readouterr().out
    assert out.startswith(SHOWN + "\n")
    assert "x\\x1b[2J[bold]y\\x9b" in out
    assert "\x1b" not in out


def test_names_and_errors_and_usage_are_shown_not_obeyed(tmp_path):
    name = "\x1b[2Jnone\u202e.mp4"
    for arguments in (
        ["info", name],
        ["animate", "--reference", name, "--driving", name, "--output", "o.mp4"],
        ["plan", f"--{name}"],
        ["cache", "--source", name, "--out", "o"],
        ["masks", "check", name],
        ["status", name],
        [name],
    ):
        done = subprocess.run([*COMMAND, *arguments], cwd=tmp_path, capture_output=True, check=False, text=True)
        assert done.returncode == 2, arguments
        assert "\\x1b[2Jnone\\u202e" in done.stderr, (arguments, done.stderr)
        assert not {"\x1b", "\u202e"} & {*done.stderr, *done.stdout}
        assert done.stderr.count("error: ") == 1


def test_words_in_a_file_are_shown_not_obeyed(tmp_path, capsys):
    path = tmp_path / "run.toml"
    path.write_text(f"mode = {json.dumps(NASTY)}\n")
    assert call("plan", path) == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("error: ")]
    assert visible(line) == line
    assert "[31mred" in line


# ---- the operating system's refusals --------------------------------------------------------------------------------


def test_refusals_are_told_with_path_and_reason(tmp_path):
    told = sentence(OSError(errno.ENOSPC, "No space left on device", "/films/out.mp4"))
    assert told == "/films/out.mp4: the disk is full; free some space."
    assert sentence(OSError(errno.ENAMETOOLONG, "x", b"/b\xff")) == "/b\udcff: the name is too long."
    assert sentence(OSError(errno.EIO, "x")) == "The disk reports an input or output error."
    with pytest.raises(OSError, match="No space") as raised, naming("/films/x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == "/films/x"
    with pytest.raises(FileNotFoundError) as raised, naming("/films/x"):
        open(tmp_path / "absent")  # noqa: SIM115
    assert raised.value.filename == str(tmp_path / "absent")
    with pytest.raises(ValueError, match="mine"), naming("/films/x"):
        raise ValueError("mine")


def test_refusals_that_libraries_hide_are_found(tmp_path):
    script = """
import resource, torch
from pathlib import Path
from safetensors.torch import save_file
from scail2.files.disk_errors import as_system_error
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for save in (save_file, torch.save):
    try:
        save({"a": torch.zeros(100_000)}, "a.tensors")
    except Exception as error:
        print(as_system_error(error, Path("a.tensors")).errno)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, check=False, text=True)
    # torch's archives do not say which refusal it was.
    assert done.stdout.split() == [str(errno.EFBIG), str(errno.EIO)], done.stderr
    assert as_system_error(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


def test_a_file_that_cannot_be_written_is_named_by_its_own_name(tmp_path):
    (tmp_path / "file").touch()
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space") as raised, atomic_file(tmp_path / "film.json"):
        raise full
    assert raised.value.filename == str(tmp_path / "film.json")
    assert sorted(os.listdir(tmp_path)) == ["file"]


PLACES = {
    "a file as a folder": ("file/out", "a part of the path is a file"),
    "a long name": ("x" * 300, "the name is too long"),
    "a circle of links": ("circle/out", "links go round in a circle"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("verb", ["synthesize", "cache", "convert", "train"])
def test_places_that_cannot_be_written_to_end_in_one_sentence(tmp_path, tmp_path_factory, capsys, place, verb):
    data = tmp_path_factory.mktemp("data")
    name, told = PLACES[place]
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    options = {
        "synthesize": ["--pairs", 1, "--frames", 5, "--size", 32, "--workers", 1, "--out"],
        "cache": ["--samples", 1, "--frames", 5, "--size", 32, "--workers", 1, "--out"],
        "convert": [Path(__file__).parents[2] / "src" / "scail2" / "assets" / "nano" / "transformer", "--out"],
        "train": ["nano", "--data", data, "--output"],
    }[verb]
    assert call(verb, *options, tmp_path / name) == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("error: ")]
    assert told in line or "is a file" in line or "in the way" in line, line
    assert sorted(os.listdir(tmp_path)) == ["circle", "file"]


def test_a_full_standard_output_is_not_blamed_on_a_disk(tmp_path):
    for arguments in (["models"], ["info", "--json", str(Path(__file__).parents[2] / "src/scail2/assets/nano")]):
        with open("/dev/full", "w") as full:
            done = subprocess.run([*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, check=False, text=True)
        assert done.returncode == 2
        lines = [line for line in done.stderr.splitlines() if line.startswith("error")]
        assert lines == ["error: The standard output cannot be written to: the disk is full; free some space."]


def test_a_reader_who_goes_away_ends_the_command_quietly():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*COMMAND, "models"], stdout=writing, stderr=subprocess.PIPE, check=False, text=True)
    os.close(writing)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert "error: " not in done.stderr


def test_a_listener_that_fails_is_not_blamed_on_the_runs_disk(tmp_path):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RuntimeError, match="listener to the run's events failed"):
        Journal(tmp_path / "journal.jsonl", full).emit("note", message="a")
    assert "note" in (tmp_path / "journal.jsonl").read_text()


def test_a_home_folder_that_is_not_known_is_told(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("~/a.mp4") == Path("/home/me/a.mp4")
    with pytest.raises(InputError, match="'~' stands for a home folder, but none is known"):
        expanded("~nobody-of-this-name/a.mp4")


# ---- signals --------------------------------------------------------------------------------------------------------

WAITING = """
import sys, time
import scail2.cli.app as app
def build():
    import typer
    t = typer.Typer(add_completion=False)
    @t.command()
    def wait():
        try:
            sys.stderr.write("ready\\n"); sys.stderr.flush()
            time.sleep(30)
        except KeyboardInterrupt:
            sys.stderr.write("kept\\n")
            raise
    return t
app.build_app = build
app.main([])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_are_handled_like_ctrl_c_and_reported_as_shells_do(number):
    process = subprocess.Popen([sys.executable, "-c", WAITING], stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == "ready\n"
    process.send_signal(number)
    _, told = process.communicate(timeout=20)
    assert (process.returncode, told) == (128 + number, "kept\n")


def test_a_hang_up_that_is_ignored_stays_ignored():
    command = ["nohup", sys.executable, "-c", WAITING.replace("time.sleep(30)", "input()")]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while process.stderr.readline() not in ("ready\n", ""):
        pass
    process.send_signal(signal.SIGHUP)
    process.communicate("\n", timeout=20)
    assert process.returncode == 0
