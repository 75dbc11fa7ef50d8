"""Every command in the documentation is one that this version understands, and runs unless its block says what it needs.

Commands run in the order of their page, in a folder with the files that the pages speak of, on a tiny model in the place of
the embedded one; what the model makes is looked at elsewhere. What a reader would see on standard error is ours.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from string import Template

import click
import numpy as np
import pytest
import typer
from doc_pages import NEEDS, PAGES, ROOT, SHELL, Block, Command, blocks, commands, spans
from peft import LoraConfig
from run_material import FPS
from tiny import SIZE, bare_pipeline, bare_transformer

from scail2.checkpoints.lora import save_lora
from scail2.cli.app import build_app
from scail2.data.puppet_source import PuppetSource
from scail2.data.triplet_settings import SampleKind
from scail2.files.public import embedded
from scail2.video import VideoReader, VideoWriter

EXAMPLE = ROOT / "src/scail2/assets/example/animation"
FRAMES = 21  # four segments of the tiny model
ALL = [block for page in PAGES for block in blocks(page)]
SHELLS = [block for block in ALL if block.language in SHELL and not block.runs_elsewhere]
# Command lines of the repository beside `scail2`.
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
# What a page takes for granted when its first command is given.
_RUN = "scail2 animate --reference girl.png --driving dance.mp4 --run-dir RUN --drift-correction reinhard-first --output film.mp4"
BEFORE = {"docs/long-video.md": _RUN}
# Verbs that no page runs as it stands.
ELSEWHERE = """
scail2 demo --only animation
scail2 convert $EMBEDDED --to official --out model.safetensors
scail2 preferences --pairs 1 --size 64 --out preferences
"""
# These serve until they are stopped, measure this machine for minutes, train for hours, or ask others.
UNHEARD = {"serve", "studio", "calibrate", "ablate", "judge"}
# Options of other programs that the pages mention.
FOREIGN: set[str] = set()


# ---- what the pages hold -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", ALL, ids=str)
def test_a_block_says_its_language_and_what_it_needs(block):
    assert block.language in (*SHELL, "python", "toml", "")
    assert set(block.needs) <= set(NEEDS)
    if block.runs_elsewhere:
        page = Path(block.page).name
        tests = (path for path in Path(__file__).parents[1].rglob("test_*.py") if path != Path(__file__))
        assert any(page in path.read_text() for path in tests), "no test of its own reads this page"
    if not block.language:
        told = re.findall(r"^(?:\$ |[A-Z0-9_]+=\S+ )?(?:scail2|python|pip|make|pytest) .*", block.code, re.MULTILINE)
        assert not told, "a command in a block without a language is run by nobody"


@cache
def _cli(path: Path | None) -> click.Command:
    """`scail2`, or the command line of a script of the repository."""
    if path is None:
        return typer.main.get_command(build_app())
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return typer.main.get_command(module.app)


def _resolved(words: tuple[str, ...]) -> tuple[click.Command, list[str]] | None:
    """The verb that words of a `scail2` or recipe command reach, and what is left for it; None for other programs."""
    if words[0] == "scail2":
        command, rest = _cli(None), list(words[1:])
    elif words[0] == "python" and ROOT / words[1] in RECIPES:
        command, rest = _cli(ROOT / words[1]), list(words[2:])
    else:
        return None
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    return command, rest


def _unknown(words: tuple[str, ...]) -> list[str]:
    """Options that the verb does not have, and verbs that do not exist."""
    command, rest = _resolved(words)
    if rest and hasattr(command, "commands") and re.fullmatch(r"[a-z]+", rest[0]):
        return [rest[0]]
    known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    known |= {"--help", "--install-completion", "--show-completion"}
    return [word for word in rest if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known]


def _program(words: tuple[str, ...]) -> Path | None:
    """The file that a `python FILE` or `python -m MODULE` command runs."""
    if words[0] != "python" or words[1] == "-c":
        return None
    if words[1] == "-m":
        top = ROOT if words[2].partition(".")[0] == "benchmarks" else ROOT / "src"
        within = top / words[2].replace(".", "/")
        return within / "__main__.py" if within.is_dir() else within.with_suffix(".py")
    return ROOT / words[1]


def _without_environment(command: Command) -> Command:
    words = list(command.words)
    while words and re.match(r"[A-Z0-9_]+=", words[0]):
        words.pop(0)
    return Command(command.where, tuple(words))


def _check(command: Command, *, strictly: bool) -> None:
    words = _without_environment(command).words
    if not words:
        return
    if (found := _resolved(words)) is not None:
        assert not _unknown(words), f"{command}: {_unknown(words)}"
        verb, rest = found
        if strictly and command.is_complete:
            try:
                verb.make_context(verb.name, rest)
            except Exception as error:
                raise AssertionError(f"{command}: {error}") from error
    elif (program := _program(words)) is not None:
        assert program.is_file(), command
        source = program.read_text(encoding="utf-8")
        missing = [word for word in words[2:] if word.startswith("--") and f'"{word}"' not in source]
        if words[1:3] == ("-m", "benchmarks"):
            missing += [word for word in words[3:] if not word.startswith("--") and f'name="{word}"' not in source]
        assert not missing, f"{command}: {missing}"
    elif words[0] == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for extras in re.findall(r"\[(.+?)\]", " ".join(words)):
            assert set(extras.split(",")) <= project["optional-dependencies"].keys(), command
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
    elif words[0] == "pytest":
        assert all((ROOT / word).exists() for word in words[1:]), command


@pytest.mark.parametrize("block", SHELLS, ids=str)
def test_every_command_of_a_block_is_understood(block):
    assert commands(block)
    for command in commands(block):
        _check(command, strictly=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_in_the_text_exist(page):
    commands = [each for cli in (None, *RECIPES) for each in _every_command(_cli(cli))]
    known = {name for each in commands for option in each.params for name in (*option.opts, *option.secondary_opts)}
    for span in spans(page):
        if span.words[0].startswith("--") and span.words[0].strip("-"):
            option = span.words[0].partition("=")[0]
            assert option in known | FOREIGN | {"--help"}, span
        elif span.words[0] in ("scail2", "python", "make", "pip", "pytest") and len(span.words) > 1:
            _check(span, strictly=False)


def _every_command(command: click.Command) -> list[click.Command]:
    below = [each for one in getattr(command, "commands", {}).values() for each in _every_command(one)]
    return [command, *below]


# ---- running them --------------------------------------------------------------------------------------------------


def _material(folder: Path) -> None:
    """The files that pages speak of, short and as large as the bundled example."""
    folder.mkdir(parents=True)
    for name in ("example", "moved"):
        (folder / name).mkdir()
    for target in ("hero.png", "girl.png", "example/reference.png"):
        (folder / target).write_bytes((EXAMPLE / "reference.png").read_bytes())
    (folder / "example/reference_mask.png").write_bytes((EXAMPLE / "reference_mask.png").read_bytes())
    for name, copy in (("driving.mp4", "dance.mp4"), ("driving_mask.mkv", "dance_mask.mkv")):
        clip = VideoReader(EXAMPLE / name).frames(0, FRAMES)
        with VideoWriter(folder / copy, FPS, clip.shape[1:3]) as writer:
            writer.write(clip)
        for other in (folder / "example" / name, folder / "moved" / copy):
            other.write_bytes((folder / copy).read_bytes())
    # Two who do the same, the second a quarter of a second later.
    pair = PuppetSource(frames=29, with_poses=False).pair(SampleKind.ANIMATION_SINGLE, 0, np.random.default_rng(0))
    for name, frames in (("alice.mp4", pair.synthetic.frames[:25]), ("bob.mp4", pair.real.frames[4:])):
        with VideoWriter(folder / name, 16, frames.shape[1:3]) as writer:
            writer.write(frames)


def _steps(block: Block, folder: Path, embedded: Path) -> list[dict]:
    """The `scail2` commands of a block, its variables filled in."""
    steps = []
    for command in map(_without_environment, commands(block)):
        if not command.words or command.words[0] != "scail2":
            continue
        known = {"EXAMPLE": str(folder / "example"), "EMBEDDED": str(embedded)}
        words = [Template(word).safe_substitute(known) for word in command.words[1:]]
        steps.append({"where": str(command), "words": words, "folder": str(folder)})
    return steps


def _write_settings(page: Path, folder: Path) -> None:
    """The TOML files of a page, under the name in their first line."""
    for block in blocks(page):
        if block.language == "toml":
            name = re.match(r"# (\S+\.toml)\n", block.code)[1]
            (folder / name).write_text(block.code)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Page -> its commands with their outcomes, all run in one session; and the commands that no page has."""
    place = tmp_path_factory.mktemp("pages")
    model = place / "package" / "assets" / "nano"
    # As deep as the recipes that the pages name suppose.
    stand_in = bare_pipeline(transformer=bare_transformer(num_layers=3), native_height=SIZE, native_width=SIZE)
    stand_in.save_pretrained(model)
    stand_in.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    (model / "loras").mkdir()
    save_lora(stand_in.transformer, model / "loras" / "nano-dpo.safetensors")
    steps = [{"where": "imports", "words": ["info", str(ROOT / "src/scail2/assets/nano")], "folder": str(place)}]
    for page in PAGES:
        mine = [block for block in blocks(page) if block.language in SHELL and block.runs]
        folder = place / page.relative_to(ROOT).with_suffix("")
        if mine:
            _material(folder)
            _write_settings(page, folder)
        if str(page.relative_to(ROOT)) in BEFORE:
            mine.insert(0, Block(f"before {page.name}", 0, ("sh",), BEFORE[str(page.relative_to(ROOT))]))
        steps += [step for block in mine for step in _steps(block, folder, model)]
    steps += _steps(Block("elsewhere", 0, ("sh",), ELSEWHERE), place, model)
    session = place / "session.json"
    session.write_text(json.dumps({"embedded": str(model), "commands": steps}))
    environment = os.environ | {"COLUMNS": "120", "SCAIL2_HOME": str(place / "home"), "OMP_NUM_THREADS": "1"}
    driver = Path(__file__).parents[1] / "command_session.py"
    done = subprocess.run(
        [sys.executable, driver, session], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(session.read_text())["commands"]


# Pages whose Python another test runs, and those whose Python is run here.
PYTHON_ELSEWHERE = {"README.md", "docs/diffusers-contract.md", "docs/video.md", "docs/long-video.md"}
PYTHON_HERE = ("docs/evaluation.md", "docs/puppets.md", "docs/quickstart.md")


@pytest.mark.parametrize("page", PYTHON_HERE)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    """In the order of the page, in one namespace, on the tiny model."""
    pipe = bare_pipeline(native_height=SIZE, native_width=SIZE)
    pipe.save_pretrained(tmp_path / "assets" / "nano")
    monkeypatch.setattr(embedded, "__file__", str(tmp_path / "files" / "public" / "embedded.py"))
    _material(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    names = {"pipe": pipe}
    for block in (each for each in blocks(ROOT / page) if each.language == "python" and each.runs):
        exec(compile(block.code, str(block), "exec"), names)


def test_no_python_is_run_by_nobody():
    pages = {block.page for block in ALL if block.language == "python" and block.runs}
    assert pages == PYTHON_ELSEWHERE | set(PYTHON_HERE)


def test_every_runnable_command_runs(outcomes):
    failed = [f"{each['where']}: {each['code']}\n{each['err'][-600:]}" for each in outcomes if each["code"] != 0]
    assert not failed, "\n\n".join(failed)
    assert len(outcomes) > 20


# Lines on standard error that are scail2's own. A new one of ours is added here; one of a library belongs into
# `scail2.cli.libraries`, or its cause is mended.
OURS = (
    r"No --model: using the embedded checkpoint\. .*",
    r"(warning|note): .*",
    r"segment \d{3} \(\d+ of \d+\): .*",
    r"(animation: the pictured puppet performs|demo\.html shows them) .*",
    r"/.* is finished; the run with its segments, masks and measurements is /.*",
    r"rendered in .*, .* predicted; .*",
    r"Verdict: (nothing stands out|\d+ things? to look at)\.",
    r"  (the picture|the colours|segment) .*: .*",
    r"  (drift|seam|colour step at a seam|flicker|frozen frames|motion error): .*",
    r"[\d.]+ MB freed",
    r".*/sheet\.png shows \d+ frames of \d+x\d+, rendered in .* plays them\.",
    r"The whole film, \d+ segments?, will take (about|at least) .* add --masks .*",
    r".* shows them side by side\.",
    r"\d\d:\d\d:\d\d (the cache has no \w+: training goes on without|the recipe has no share of \w+: .*|step \d+ .*)",
)


def test_nothing_but_our_own_lines_is_seen_on_standard_error(outcomes):
    for each in outcomes:
        strange = [
            line for line in each["err"].splitlines() if line and not any(re.fullmatch(own, line) for own in OURS)
        ]
        assert not strange, each["where"]


def test_every_verb_is_among_them(outcomes):
    run = {each["words"][0] for each in outcomes}
    assert set(_cli(None).commands) - run <= UNHEARD
