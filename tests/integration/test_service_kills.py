"""Servers and workers that are killed: no job is lost, none is done twice, and the films are the same."""

import os
import random
import signal
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from run_material import make_material, save_model
from service_material import start_server

from scail2.request.animation import AnimationRequest
from scail2.runs import RunDirectory
from scail2.serving.client import Client, ServiceError
from scail2.video import VideoReader

FRAMES, RUNS = 19, 2


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return make_material(tmp_path_factory.mktemp("material"), frames=FRAMES)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


def settings(material, seed):
    fields = {name: value for name, value in material.items() if name not in ("output", "mode")}
    return {"mode": str(material["mode"]), **fields, "seed": seed}


def children(pid: int) -> list[int]:
    """Processes whose parent is ``pid``."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            found.append(int(status.parent.name))
    return found


def wait_for_event(client: Client, run: str, name: str) -> None:
    for event in client.events(run):
        if event["event"] == name:
            return


def finished_once(folder: Path, run: str) -> dict[int, int]:
    """How often each segment of a run was finished."""
    counted: dict[int, int] = {}
    for entry in RunDirectory.open(folder / run / "run").journal().entries():
        if entry["event"] == "segment_finished":
            counted[entry["segment"]] = counted.get(entry["segment"], 0) + 1
    return counted


def kill_and_finish(folder, model, material, victims, moments, options=("--workers", "2")):
    """Submits runs to two workers, kills each victim at a random moment, restarts what is needed, and checks the end."""
    server, address = start_server(folder, model, *options)
    try:
        with Client(address) as client:
            runs = [client.submit(**settings(material, seed)).id for seed in range(RUNS)]
            wait_for_event(client, runs[0], "segment_started")
        for victim in victims:
            time.sleep(moments.uniform(0, 1.0))  # the moment is what is tried, not waited for
            workers = children(server.pid)
            pid = moments.choice(workers) if victim == "worker" and workers else server.pid
            os.kill(pid, signal.SIGKILL)
            if pid == server.pid:
                server.wait()
                server, address = start_server(folder, model, *options)
        with Client(address) as client:
            assert [client.wait(run, timeout=180).job for run in runs] == ["finished"] * RUNS
            assert [client.state(run).run["state"] for run in runs] == ["finished"] * RUNS
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    rows = sqlite3.connect(folder / ".service" / "queue.sqlite").execute("SELECT run, state FROM jobs").fetchall()
    assert sorted(rows) == sorted((run, "finished") for run in runs)
    for run in runs:
        assert set(finished_once(folder, run).values()) == {1}
    return [VideoReader(folder / run / "film.mp4").frames(0, FRAMES) for run in runs]


def test_ray_actors_do_the_jobs_too(tmp_path, model, material):
    """A cluster of this machine, on the CPU. Ray is large, so it is tried where it is installed (extra ``ray``)."""
    pytest.importorskip("ray")
    server, address = start_server(tmp_path / "runs", model, "--ray", env={"RAY_AUTH_MODE": "disabled"})
    try:
        with Client(address) as client:
            run = client.submit(**settings(material, 0)).id
            assert client.wait(run, timeout=180).job == "finished"
            stopped = client.submit(**settings(material, 1)).id
            wait_for_event(client, stopped, "segment_started")
            with suppress(ServiceError):  # so small a run may be over already
                client.cancel(stopped)
            assert client.wait(stopped, timeout=60).job in ("cancelled", "finished")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    assert set(finished_once(tmp_path / "runs", run).values()) == {1}


def test_killed_servers_and_workers_lose_nothing_and_do_nothing_twice(tmp_path, model, material):
    films = kill_and_finish(tmp_path / "runs", model, material, ["worker", "server"], random.Random(0))
    for seed, film in enumerate(films):
        request = AnimationRequest(**material | {"model": str(model), "seed": seed, "output": tmp_path / f"{seed}.mp4"})
        own = VideoReader(RunDirectory.create(tmp_path / f"{seed}.run", request).execute())
        assert np.array_equal(film, own.frames(0, FRAMES))
