"""Where `scail2 evaluate` writes: never over a stranger's file, never two at once, the same bytes each time."""

import io
import json
import os
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from tiny import bare_pipeline

from scail2.cli.app import main
from scail2.evaluation.report import EvaluationReport, TaskReport
from scail2.files.ownership import lock_beside, locked


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pipeline") / "model"
    bare_pipeline().save_pretrained(path)
    return path


def evaluate(model: Path, *options: object) -> int:
    brief = ["--clips", "1", "--frames", "5", "--size", "32", "--steps", "1", "--task", "animation_single"]
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(model), *brief, *map(str, options)])
    return end.value.code or 0


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_strangers_files_are_refused_before_any_work(model, tmp_path, capsys, monkeypatch):
    mine = tmp_path / "model"
    shutil.copytree(model, mine)
    (tmp_path / "other.json").write_text('{"settings": {"split": "mine"}}')
    (tmp_path / "almost.json").write_text(
        json.dumps({"settings": {"split": 1, "clips": 1, "seed": 1, "variant": 1}, "a": 3})
    )
    (tmp_path / "notes.json").write_text("not JSON at all")
    (tmp_path / "link.json").symlink_to(mine / "model_index.json")
    (tmp_path / "away.json").symlink_to(tmp_path / "nowhere.json")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "plot.png").write_bytes(b"mine")
    before = tree(tmp_path)
    monkeypatch.setattr("scail2.loading.by_name.load_pipeline", lambda *_, **__: pytest.fail("it was too late"))
    for options, said in (
        (("--json", mine / "model_index.json"), "lies inside the checkpoint"),
        (("--json", mine / "new.json"), "lies inside the checkpoint"),
        (("--out", mine), "is also the checkpoint"),
        (("--out", tmp_path), "lies inside the output"),
        (("--json", tmp_path / "link.json"), "lies inside the checkpoint"),
        (("--json", tmp_path / "away.json"), "is a link"),
        (("--json", tmp_path / "other.json"), "holds no measures"),
        (("--json", tmp_path / "almost.json"), "holds no measures"),
        (("--json", tmp_path / "notes.json"), "holds no measures"),
        (("--json", tmp_path / "folder"), "is a folder"),
        (("--out", tmp_path / "folder"), "holds other files and no evaluations"),
        (("--out", tmp_path / "notes.json"), "is a file"),
    ):
        assert evaluate(mine, *options) == 2, options
        error = capsys.readouterr().err
        assert said in error, options
        assert len(error.strip().splitlines()) == 1
    assert tree(tmp_path) == before


def test_measures_repeat_to_the_byte_and_older_ones_are_kept(model, tmp_path):
    options = ("--json", tmp_path / "m.json", "--out", tmp_path / "out")
    assert evaluate(model, *options) == 0
    first = tree(tmp_path)
    assert set(first) == {"m.json", "out/report.json", "out/plot.png", "out/animation_single.png"}
    assert first["m.json"] == first["out/report.json"]
    assert json.loads(first["m.json"])["animation_single"]["seconds_per_clip"] is None
    assert evaluate(model, *options) == 0
    assert tree(tmp_path) == first
    assert evaluate(model, *options, "--seed", 5) == 0
    after = tree(tmp_path)
    older = {
        "superseded/m-1.json": first["m.json"],
        **{f"out/superseded/1/{Path(name).name}": content for name, content in first.items() if "/" in name},
    }
    assert {name: after[name] for name in older} == older
    assert set(after) == set(first) | set(older)
    assert json.loads(after["m.json"])["settings"]["seed"] == 5
    (tmp_path / "out" / "mine.txt").write_text("beside it")
    assert evaluate(model, "--out", tmp_path / "out", "--json", tmp_path / "out" / "report.json") == 0
    assert tree(tmp_path / "out")["report.json"] == first["m.json"]
    assert (tmp_path / "out" / "mine.txt").read_text() == "beside it"


def test_outputs_in_use_are_refused(model, tmp_path, capsys):
    file, folder = tmp_path / "m.json", tmp_path / "out"
    for option, place, lock in (("--json", file, lock_beside(file)), ("--out", folder, None)):
        with locked(place, lock):
            assert evaluate(model, option, place) == 2
        assert f"in use by process {os.getpid()}" in capsys.readouterr().err
    assert tree(tmp_path) == {}


def test_every_number_of_the_table_is_readable_in_a_terminal_of_80_columns():
    output = {"character_psnr": 19.25, "hand_psnr": 17.5, "eyes_found": float("nan")}
    copied = {"copy_reference": [{"character_psnr": 12.5}], "copy_driving": [{"character_psnr": 9.125}]}
    tasks = {
        name: TaskReport(outputs=[output], baselines=copied, seconds=[2.0], height=128, width=128)
        for name in ("animation_single", "replacement_multi")
    }
    report = EvaluationReport(tasks=tasks, settings={"clips": 1, "split": "test"})
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(report.table())
    lines = [line.split("│")[1:-1] for line in console.export_text().splitlines()]
    rows = [tuple(cell.strip() for cell in line) for line in lines if line]
    assert rows.count(("character PSNR, dB", "19.25", "12.50", "9.12")) == 2
    assert rows.count(("hand PSNR, dB", "17.50", "–", "–")) == 2
    assert ("eyes found", "–", "–", "–") in rows
    assert {row[0] for row in rows} >= set(tasks)
