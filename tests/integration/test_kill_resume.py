"""SIGKILL at seeded random moments: the resumed run ends bit for bit as the one that was never stopped."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from run_material import make_material, save_model

from scail2.cli.app import main
from scail2.runs import RunDirectory
from scail2.runs.segment_store import SegmentStore

TESTS = Path(__file__).parent.parent
SEED = 20


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, str(Path(__file__).parent / "kill_driver.py"), str(folder), str(SEED)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_uninterrupted_run_has_several_segments(outcomes):
    whole = outcomes["whole"]
    assert whole["status"] == 0
    assert len(whole["segments"]) == 5
    assert {"step", "segment_saving", "masks_progress", "output_progress"} <= set(whole["events"])


def test_killed_runs_end_bit_identical(outcomes):
    whole = outcomes["whole"]
    assert len(outcomes["killed"]) == 7
    for name, run in outcomes["killed"].items():
        assert set(run["signals"]) == {signal.SIGKILL}, name
        assert run["status"] == 0, name
        assert run["segments"] == whole["segments"], name
        assert run["film"] == whole["film"], name
        assert run["leftovers"] == [], name
        assert not run["superseded"], f"{name}: something finished was rendered again"


def test_finished_segments_are_not_rendered_again(outcomes):
    for name, run in outcomes["killed"].items():
        counts = [run["last_events"].count(event) for event in ("segment_skipped", "segment_finished")]
        assert sum(counts) == 5, name
    assert outcomes["killed"]["output_progress"]["last_events"].count("segment_skipped") == 5


def test_the_command_killed_from_outside_resumes_to_its_own_output(tmp_path, capsys):
    """The kill arrives while the process goes on working, so it lands anywhere after the event."""
    material = make_material(tmp_path)
    save_model(tmp_path / "model")
    arguments = ["--model", str(tmp_path / "model"), "--steps", "2", "--json"]
    for name in ("reference", "driving"):
        arguments += [f"--{name}", str(material[name]), f"--{name}-mask", str(material[f"{name}_mask"][0])]
    command = [sys.executable, "-c", "from scail2.cli.app import main; main()", "animate", *arguments]
    command += ["--output", str(tmp_path / "film.mp4")]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "segment_finished" and event["segment"] == 1:
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL
    run = RunDirectory.open(tmp_path / "film.run")
    assert 0 in run.status().finished
    assert not run.status().running
    main_ok(["resume", str(tmp_path / "film.run")])
    main_ok(["animate", *arguments, "--output", str(tmp_path / "whole.mp4")])
    assert frames(tmp_path / "film.run") == frames(tmp_path / "whole.run")
    assert (tmp_path / "film.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    events = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert "run_finished" in events


def main_ok(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0


def frames(path: Path) -> list[str]:
    store = SegmentStore(path)
    return [store.record(index).frames_sha256 for index in store.finished()]
