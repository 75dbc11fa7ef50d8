"""The HTTP service over real runs of a tiny model: what a client sends and gets, by value."""

import errno
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import wave
import zipfile
from dataclasses import fields, replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from run_material import make_material, save_model
from service_material import ThreadWorker, served, typed_client

from scail2.errors import InputError
from scail2.request.animation import AnimationRequest
from scail2.runs import RunDirectory
from scail2.serving.client import Client, ServiceError
from scail2.serving.dispatch import Dispatcher
from scail2.serving.queue import BEFORE, Action, JobQueue, JobState, RunRow
from scail2.serving.settings import Limits, ServiceSettings
from scail2.serving.submissions import NAMED, ONE_FILE, SEVERAL_FILES, WITHHELD
from scail2.serving.uploads import Uploads
from scail2.serving.work import JobRunner, Order, Outcome
from scail2.serving.workers import WorkerDiedError
from scail2.video import VideoReader

FRAMES = 19
EXAMPLE = Path(__file__).parents[2] / "src/scail2/assets/example/animation"


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return make_material(tmp_path_factory.mktemp("material"), frames=FRAMES)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


def job_of(material, **changes):
    """Settings of a submission: those of the request, without the service's own."""
    fields = {name: value for name, value in material.items() if name not in ("output", "mode")}
    return {"mode": str(material["mode"]), **fields, **changes}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, material, model):
    """A service with one finished run: (http, client, run id, worker list)."""
    workers = []

    def make(device):
        workers.append(ThreadWorker(device))
        return workers[-1]

    settings = ServiceSettings(runs=tmp_path_factory.mktemp("runs"), models=(str(model),))
    with served(settings, make) as http:
        client = typed_client(http)
        run = client.submit(**job_of(material)).id
        state = client.wait(run, timeout=120)
        assert (state.job, state.failure) == ("finished", None)
        yield http, client, run, settings


def test_the_film_is_the_one_that_the_command_gives(finished, material, model, tmp_path):
    _, client, run, _ = finished
    film = client.download(run, tmp_path / "served.mp4")
    request = AnimationRequest(**material | {"model": str(model), "output": tmp_path / "own.mp4"})
    own = RunDirectory.create(tmp_path / "own.run", request).execute()
    one, other = VideoReader(film), VideoReader(own)
    assert len(one) == len(other) == FRAMES
    assert np.array_equal(one.frames(0, FRAMES), other.frames(0, FRAMES))


def test_frames_segments_and_manifest_tell_the_same_run(finished):
    _, client, run, settings = finished
    segments = client.segments(run)
    assert [(each["index"], each["first_frame"]) for each in segments] == [(0, 0), (1, 9), (2, 13), (3, 17)][
        : len(segments)
    ]
    assert sum(each["frames"] for each in segments) == FRAMES
    stored = VideoReader(settings.runs / run / "run" / "segments" / "001" / "frames.mkv").frames(0, 1)[0]
    pixels = np.asarray(Image.open(io.BytesIO(client.frame(run, segments[1]["first_frame"]))))
    assert np.array_equal(pixels, stored)
    manifest = client.manifest(run)
    assert manifest["film"]["bytes"] == (settings.runs / run / "film.mp4").stat().st_size
    assert len(manifest["segments"]) == len(segments)


def test_a_segment_is_a_film_of_its_own(finished, tmp_path):
    _, client, run, _ = finished
    (tmp_path / "one.mp4").write_bytes(client.segment(run, 0))
    assert len(VideoReader(tmp_path / "one.mp4")) == client.segments(run)[0]["frames"]


def test_nothing_told_names_a_path_of_the_machine(finished):
    http, _, run, settings = finished
    for where in ("", "/plan", "/segments", "/manifest", "/masks", "/events"):
        told = http.get(f"/v1/runs/{run}{where}").text
        assert str(settings.runs) not in told, where


def test_events_are_the_journal_and_go_on_where_they_stopped(finished):
    _, client, run, settings = finished
    lines = (settings.runs / run / "run" / "journal.jsonl").read_text().splitlines()
    told = list(client.events(run))
    assert [each["event"] for each in told] == [json.loads(line)["event"] for line in lines]
    assert [each["event"] for each in client.events(run, after=len(lines) - 2)] == [each["event"] for each in told[-2:]]


def test_the_film_answers_to_ranges(finished):
    http, _, run, settings = finished
    whole = (settings.runs / run / "film.mp4").read_bytes()
    part = http.get(f"/v1/runs/{run}/result", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole[10:20])


def test_one_segment_is_rendered_again_with_its_seed_and_the_others_stay(finished):
    _, client, run, _ = finished
    before = {each["index"]: each["version"] for each in client.segments(run)}
    client.rerender(run, 1, seed=5)
    assert client.wait(run, timeout=60).job == "finished"
    after = {each["index"]: (each["version"], each["seed"]) for each in client.segments(run)}
    assert [index for index in before if after[index][0] != before[index]] == [1]
    assert after[1][1] == 5


def test_browsers_ask_whether_what_a_job_replaces_is_still_the_one(finished):
    http, _, run, _ = finished
    for name in ("result", "segments/0.mp4", "plan.png", "inputs/reference.png"):
        assert http.get(f"/v1/runs/{run}/{name}").headers["cache-control"] == "no-cache"


def test_a_segment_that_is_not_there_is_not_rendered_again(finished):
    http, _, run, _ = finished
    for segment, told in ((99, "Segment 99 is not rendered; finished are 0, 1"), (True, "valid integer")):
        answer = http.post(f"/v1/runs/{run}/rerender", json={"segment": segment})
        assert answer.status_code == 422
        assert told in answer.json()["error"]
    answer = http.get("/v1/runs/nope")
    assert (answer.status_code, answer.json()) == (404, {"error": "There is no such run: 'nope'."})


def test_the_film_of_other_settings_is_not_shown_as_this_ones(tmp_path, material, model):
    with served(ServiceSettings(runs=tmp_path / "runs", models=(str(model),))) as http:
        client = typed_client(http)
        sine(tmp_path / "song.wav", 3, pitch=440)
        run = client.submit(**job_of(material, audio=tmp_path / "song.wav")).id
        assert client.wait(run, timeout=60).job == "finished"
        client.change(run, action="plan", audio=False)
        assert client.wait(run, timeout=60).run["state"] == "rendered"
        assert http.get(f"/v1/runs/{run}/result").status_code == 404
        with zipfile.ZipFile(io.BytesIO(http.get(f"/v1/runs/{run}/project.zip").content)) as archive:
            assert not [name for name in archive.namelist() if name.startswith("film")]
        client.change(run, action="plan", audio=tmp_path / "song.wav")
        assert client.wait(run, timeout=60).run["state"] == "finished"  # the film that is there is the one again
        client.change(run, audio=False, format=".mkv")
        assert client.wait(run, timeout=60).run["state"] == "finished"
        with zipfile.ZipFile(io.BytesIO(http.get(f"/v1/runs/{run}/project.zip").content)) as archive:
            assert [name for name in archive.namelist() if name.startswith("film")] == ["film.mkv"]


def test_a_repainted_mask_is_taken_up(finished):
    _, client, run, _ = finished
    mask, other = (np.asarray(Image.open(io.BytesIO(client.mask(run, frame=at)))).copy() for at in (18, 17))
    facts = client.masks(run)
    assert facts["frames"] == FRAMES
    assert mask.shape == (facts["height"], facts["width"], 3)
    mask[:4, :4] = facts["palette"]["blue"]
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    client.put_mask(run, buffer.getvalue(), frame=18)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(client.mask(run, frame=18)))), mask)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(client.mask(run, frame=17)))), other)


@pytest.mark.parametrize(
    ("pixels", "told"),
    [
        (np.zeros((8, 9, 3), np.uint8), "are needed"),
        (np.full((32, 32, 3), 127, np.uint8), "none of the palette's colours"),
    ],
)
def test_wrong_masks_are_refused_with_a_sentence(finished, pixels, told):
    _, client, run, _ = finished
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    with pytest.raises(ServiceError, match=told) as caught:
        client.put_mask(run, buffer.getvalue())
    assert caught.value.status == 422


def test_changed_settings_render_anew_what_depends_on_them(finished):
    _, client, run, _ = finished
    before = [each["version"] for each in client.segments(run)]
    client.change(run, seed=99)
    assert client.wait(run, timeout=60).job == "finished"
    after = [each["version"] for each in client.segments(run)]
    assert all(one != other for one, other in zip(before, after, strict=True))
    assert client.state(run).told["settings"]["seed"] == 99


def test_a_change_that_the_run_refuses_leaves_it_as_it_was(finished):
    _, client, run, _ = finished
    client.resume(run)  # a mask that was repainted before is rendered now
    assert client.wait(run, timeout=60).job == "finished"
    before, film = client.manifest(run), client.segments(run)
    client.change(run, mode="replacement", seed=1234)  # its masks are painted for animation
    state = client.wait(run, timeout=60)
    assert state.job == "failed"
    assert "background" in state.failure
    assert client.segments(run) == film
    assert client.state(run).told["settings"] == before["settings"]
    client.resume(run)
    assert client.wait(run, timeout=60).job == "finished"
    assert client.manifest(run) == before


@pytest.fixture
def held(tmp_path, model):
    """A service whose only worker keeps jobs at their first step until it is let go: (http, client, worker)."""
    workers = []

    def make(device):
        workers.append(ThreadWorker(device))
        workers[-1].hold.clear()
        return workers[-1]

    settings = ServiceSettings(runs=tmp_path / "runs", models=(str(model),), limits=Limits(active_runs=3))
    with served(settings, make) as http:
        yield http, typed_client(http), workers[0]


def reach_step(client: Client, run: str) -> None:
    """Waits until a run is at a step."""
    for event in client.events(run):
        if event["event"] == "step":
            return


def test_cancelling_stops_at_the_step_keeps_what_is_there_and_goes_on(held, material):
    _, client, worker = held
    run, waiting = client.submit(**job_of(material)).id, client.submit(**job_of(material, seed=1)).id
    reach_step(client, run)
    assert client.cancel(waiting).job == "cancelled"
    client.cancel(run)
    assert client.wait(run, timeout=10).job == "cancelled"
    worker.hold.set()
    client.resume(run)
    assert client.wait(run, timeout=60).job == "finished"


def test_a_stopped_rerendering_is_not_done_by_a_later_job(held, material):
    _, client, worker = held
    worker.hold.set()
    run = client.submit(**job_of(material)).id
    assert client.wait(run, timeout=60).job == "finished"
    before = client.segments(run)
    worker.hold.clear()
    client.rerender(run, 1, seed=1000)
    reach_step(client, run)
    client.cancel(run)
    assert client.wait(run, timeout=10).job == "cancelled"
    worker.hold.set()
    client.change(run, audio=False)
    state = client.wait(run, timeout=60)
    assert (state.job, state.run["state"]) == ("finished", "finished")
    assert [each["version"] for each in client.segments(run)] == [each["version"] for each in before]


def test_a_change_counts_once_the_run_has_taken_it(held, material, tmp_path):
    """While it waits, the film is still that of the settings before, whose files stay; cancelled, it never was."""
    _, client, worker = held
    worker.hold.set()
    run = client.submit(**job_of(material)).id
    assert client.wait(run, timeout=60).job == "finished"
    before = client.manifest(run)
    worker.hold.clear()
    picture = np.asarray(Image.open(material["reference"]))
    Image.fromarray(picture[:, ::-1]).save(tmp_path / "other.png")
    Image.fromarray(255 - picture).save(tmp_path / "third.png")
    reach_step(
        client, client.submit(**job_of(material, reference=tmp_path / "third.png")).id
    )  # the only worker is busy
    client.change(run, seed=77, format=".gif", reference=tmp_path / "other.png")
    assert client.state(run).told["settings"]["seed"] == 77  # what is asked for
    assert client.manifest(run) == before
    with pytest.raises(ServiceError, match=f"The run {run} needs this upload while it is being changed"):
        client.delete_upload(before["settings"]["reference"])
    assert client.cancel(run).job == "cancelled"
    assert client.state(run).told["settings"] == before["settings"]
    assert client.manifest(run) == before
    client.delete_upload(client.upload(tmp_path / "other.png"))  # no run names it


def test_a_change_that_was_cancelled_when_its_server_died_is_taken_back(tmp_path):
    queue = JobQueue(tmp_path / "queue.sqlite")
    row = RunRow(id="0" * 16, owner="ann", created=0.0, settings={"seed": 1})
    queue.submit(row, (Action.RENDER, 0), idempotency=None, active_limit=9)
    queue.end(queue.claim().id, JobState.FINISHED)
    queue.add(replace(row, settings={"seed": 2}), Action.RENDER, {BEFORE: {"seed": 1}}, 0, active_limit=9)
    queue.claim()
    queue.cancel(row.id)
    assert queue.run(row.id, "ann").settings == {"seed": 2}
    uploads = Uploads(tmp_path / "uploads", queue, Limits())
    dispatcher = Dispatcher(ServiceSettings(runs=tmp_path), queue, uploads, [ThreadWorker()])
    dispatcher.start()
    dispatcher.stop()
    assert queue.last_job(row.id).state == "cancelled"
    assert queue.run(row.id, "ann").settings == {"seed": 1}


def test_a_change_whose_worker_always_dies_is_taken_back(tmp_path, material, model):
    class Mortal(ThreadWorker):
        dies = False

        def do(self, order, listener):
            if self.dies:
                raise WorkerDiedError("killed")
            return super().do(order, listener)

    worker = Mortal()
    with served(ServiceSettings(runs=tmp_path / "runs", models=(str(model),)), lambda _: worker) as http:
        client = typed_client(http)
        run = client.submit(**job_of(material)).id
        assert client.wait(run, timeout=60).job == "finished"
        before = client.manifest(run)
        worker.dies = True
        client.change(run, seed=77)
        assert "ended 5 times" in client.wait(run, timeout=60).failure
        assert client.state(run).told["settings"] == before["settings"]
        assert client.manifest(run) == before


def test_a_segment_is_rendered_again_once_for_an_order_whichever_attempt_it_is(tmp_path, material, model):
    """A server that is stopped takes its attempt back: the order comes again as the first."""
    request = AnimationRequest(**material | {"model": str(model), "output": tmp_path / "film.mp4"})
    run = RunDirectory.create(tmp_path / "film.run", request)
    run.execute()

    def again(since: str) -> int:
        order = Order(
            job=1, action="rerender", run=str(run.path), request=request.to_json(),
            arguments={"segment": 1, "seed": 5}, since=since,
        )  # fmt: skip
        assert JobRunner().run(order, lambda event: None) == Outcome(state="finished")
        entries = list(run.journal().entries())
        return sum(each["event"] == "segment_finished" and each["segment"] == 1 for each in entries)

    assert again("2000-01-01T00:00:00.000+00:00") == 2
    assert again("2000-01-01T00:00:00.000+00:00") == 2  # the same order
    assert again("2999-01-01T00:00:00.000+00:00") == 3  # one that came after all of it


def test_a_run_at_work_takes_no_second_job_no_mask_and_no_deletion(held, material):
    http, client, _ = held
    run = client.submit(**job_of(material)).id
    reach_step(client, run)
    for call in (lambda: client.resume(run), lambda: client.rerender(run, 0), lambda: client.delete(run)):
        with pytest.raises(ServiceError, match="being worked on") as caught:
            call()
        assert caught.value.status == 409
    assert http.put(f"/v1/runs/{run}/masks/reference.png", content=b"x").status_code == 409
    client.cancel(run)
    client.wait(run, timeout=10)
    client.delete(run)
    assert http.get(f"/v1/runs/{run}").status_code == 404


def test_a_quota_is_a_sentence_and_the_same_key_is_the_same_run(held, material):
    _, client, _ = held
    first = client.submit(**job_of(material), idempotency_key="once")
    assert client.submit(**job_of(material), idempotency_key="once").id == first.id
    client.submit(**job_of(material))
    client.submit(**job_of(material))
    with pytest.raises(ServiceError, match="as many as one may") as caught:
        client.submit(**job_of(material))
    assert caught.value.status == 429
    with pytest.raises(ServiceError, match="came with other settings before") as caught:
        client.submit(**job_of(material, seed=5), idempotency_key="once")
    assert caught.value.status == 422
    with pytest.raises(ServiceError, match="came with the action render before") as caught:
        client.submit(**job_of(material), action="plan", idempotency_key="once")
    assert caught.value.status == 422
    client.cancel(first.id)
    client.wait(first.id, timeout=10)
    client.delete(first.id)
    assert client.submit(**job_of(material, seed=5), idempotency_key="once").id != first.id


def test_uploads_that_no_run_needs_make_room(held, material):
    http, client, _ = held
    run = client.submit(**job_of(material)).id
    uploads = client._with_uploads(job_of(material))
    with pytest.raises(ServiceError, match=f"The run {run} needs this upload") as caught:
        client.delete_upload(uploads["driving"])
    assert caught.value.status == 409
    client.cancel(run)
    client.wait(run, timeout=10)
    client.delete(run)
    client.delete_upload(uploads["driving"])
    assert http.get(f"/v1/uploads/{uploads['driving']}").status_code == 404
    with pytest.raises(ServiceError, match="There is no upload"):
        client.delete_upload(uploads["driving"])
    assert client.upload(material["driving"]) == uploads["driving"]


def test_a_video_is_no_picture_and_a_picture_no_video(held, material):
    http, client, _ = held
    good = client._with_uploads(job_of(material))
    for name, other, told in (
        ("reference", "driving", "'reference' is a picture, but the upload is a video"),
        ("driving", "reference", "'driving' is a video, but the upload is a picture"),
        ("audio", "reference", "'audio' is a sound or video, but the upload is a picture"),
    ):
        answer = http.post("/v1/runs", json={"settings": good | {name: good[other]}})
        assert (answer.status_code, answer.json()) == (422, {"error": f"{told}."})


def sine(path, seconds: float, pitch: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        times = np.arange(round(16_000 * seconds)) / 16_000
        file.writeframes((20_000 * np.sin(2 * np.pi * pitch * times)).astype(np.int16).tobytes())
    return path


def test_a_file_of_sound_is_a_films_sound_and_nothing_else(held, material, tmp_path):
    http, client, worker = held
    song = client.upload(sine(tmp_path / "song.wav", 3, pitch=440))
    assert http.get(f"/v1/uploads/{song}").json()["kind"] == "sound"
    assert http.get(f"/v1/uploads/{song}").json()["seconds"] == 3.0
    with pytest.raises(ServiceError, match="no sound in the file") as caught:
        client.upload(sine(tmp_path / "empty.wav", 0, pitch=440))
    assert caught.value.status == 415
    with pytest.raises(ServiceError, match="The sound lasts 610 seconds; 600 are allowed") as caught:
        client.upload(sine(tmp_path / "long.wav", 610, pitch=440))
    assert caught.value.status == 413
    good = client._with_uploads(job_of(material))
    for name, given, told in (
        ("driving", song, "'driving' is a video, but the upload is a sound"),
        ("driving_mask", [song], "'driving_mask' is a picture or video, but the upload is a sound"),
        ("audio", good["driving"], "'audio' is to be sound, but there is none in that video"),
    ):
        answer = http.post("/v1/runs", json={"settings": good | {name: given}})
        assert (answer.status_code, answer.json()) == (422, {"error": f"{told}."})
    worker.hold.set()
    run = client.submit(**job_of(material, audio=tmp_path / "song.wav"))
    assert client.wait(run.id, timeout=60).job == "finished"
    client.download(run.id, tmp_path / "film.mp4")
    with av.open(str(tmp_path / "film.mp4")) as film:
        rate = film.streams.audio[0].rate
        heard = np.concatenate([frame.to_ndarray()[0] for frame in film.decode(audio=0)])
    assert abs(len(heard) / rate - FRAMES / 8) < 0.1  # the clip has 8 frames a second
    strengths = np.abs(np.fft.rfft(heard))
    assert abs(np.argmax(strengths) * rate / len(heard) - 440) < 3


def test_jobs_of_a_stopped_service_wait_for_the_next(tmp_path, material, model):
    settings = ServiceSettings(runs=tmp_path / "runs", models=(str(model),))
    worker = ThreadWorker()
    worker.hold.clear()
    with served(settings, lambda _: worker) as http:
        run = typed_client(http).submit(**job_of(material)).id
        reach_step(typed_client(http), run)
    with served(settings) as http:
        assert typed_client(http).wait(run, timeout=60).job == "finished"


def test_a_plan_tells_segments_before_anything_is_spent(held, material):
    _, client, worker = held
    run = client.submit(**job_of(material), action="plan").id
    assert client.wait(run, timeout=60).job == "finished"
    assert client.plan(run)["frames"] == FRAMES
    assert client.segments(run) == []
    worker.hold.set()
    client.resume(run)
    assert client.wait(run, timeout=60).run["state"] == "finished"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"output": "/etc/passwd"}, "'output' is decided by the service"),
        ({"device": "cuda:7"}, "'device' is decided by the service"),
        ({"masks": "../../x"}, "'masks' is decided by the service"),
        ({"model": "/secret/model"}, "offers no model"),
        ({"lora": ["/secret/lora.safetensors"]}, "offers no LoRA"),
        ({"lora": 5}, "'lora' is a list of names, not 5"),
        ({"lora": "nano-dpo"}, "'lora' is a list of names, not 'nano-dpo'"),
        ({"lora": {"nano-dpo": 1}}, "'lora' is a list of names"),
        ({"num_inference_steps": 0}, "'num_inference_steps' must be"),
        ({"reference": "../../../etc/passwd"}, "no upload"),
        ({"reference": "/etc/passwd"}, "no upload"),
        ({"reference": 7}, "is missing"),
        ({"driving_mask": "x"}, "is a list"),
        ({"format": ".exe"}, "'format' is one of"),
        ({"steps": 0}, "steps"),
        ({"nonsense": 1}, "Unknown setting"),
        ({"seed": "x"}, "seed"),
        ({"prompt": "\ud83d"}, "half a character"),
        ({"reference": "\ud83d"}, "half a character"),
        ({"codec": "../x"}, "codec"),
        ({"preset": "nosuch"}, "must be one of quality, balanced"),
        ({"alpha": "driving", "format": ".mp4"}, "transparency"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(held, material, changes, told):
    http, client, _ = held
    good = client._with_uploads(job_of(material))
    body = json.dumps({"settings": good | changes})  # in ASCII: half a character is a \\u escape
    answer = http.post("/v1/runs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (404, 422)
    assert told in answer.json()["error"]
    assert "Traceback" not in answer.text
    assert http.get("/v1/runs").json()["runs"] == []


@pytest.mark.parametrize(
    ("body", "kind", "told"),
    [
        (
            "{bad",
            "application/json",
            "The body is not JSON: Expecting property name enclosed in double quotes at character 1.",
        ),
        ('{"settings": {}', "application/json", "The body is not JSON: Expecting ',' delimiter at character 15."),
        ("[1]", "application/json", "The body is no JSON object: send one, as Content-Type: application/json."),
        ('{"settings": {}}', "text/plain", "The body is no JSON object: send one, as Content-Type: application/json."),
        ("", "application/json", "The body is no JSON object: send one, as Content-Type: application/json."),
    ],
)
@pytest.mark.parametrize("path", ["/v1/runs", f"/v1/uploads/{'a' * 64}/trim"])
def test_a_body_that_is_no_json_is_called_that(held, path, body, kind, told):
    answer = held[0].post(path, content=body, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()) == (422, {"error": told})


@pytest.mark.parametrize(
    "path",
    [
        "/v1/runs/..%2f..%2fetc",
        "/v1/runs/%2e%2e/frames/0.png",
        "/v1/uploads/..%2f..%2fqueue.sqlite",
        "/v1/uploads/" + "a" * 64,
        "/v1/runs/0123456789abcdef",
        "/v1/runs/0123456789abcdef/frames/-1.png",
        "/v1/runs/0123456789abcdef/masks/driving/..%2f0.png",
    ],
)
def test_names_lead_nowhere_else(held, path):
    http, _, _ = held
    answer = http.get(path)
    assert answer.status_code in (404, 422)
    assert set(answer.json()) == {"error"}


def test_uploads_are_bounded_and_looked_into(tmp_path, material, model):
    limits = Limits(upload_bytes=200_000, pixels=64 * 64, seconds=4.0)
    with served(ServiceSettings(runs=tmp_path, models=(str(model),), limits=limits)) as http:

        def send(content):
            answer = http.post("/v1/uploads", content=content)
            return answer.status_code, answer.json().get("error", "")

        assert send(b"\0" * 200_001) == (413, "The file has more than the 200,000 bytes allowed.")
        assert send(b"")[0] == 415
        assert send(b"plain text, no picture")[0] == 415
        assert send(Path(material["driving"]).read_bytes()[:300])[0] == 415
        large = io.BytesIO()
        Image.new("RGB", (65, 64)).save(large, format="PNG")
        assert send(large.getvalue()) == (413, "65×64 are more than the 4,096 pixels allowed.")
        told = http.post("/v1/uploads", content=Path(material["driving"]).read_bytes())
        assert (told.json()["frames"], told.json()["kind"]) == (FRAMES, "video")
        kept = list((tmp_path / ".service" / "uploads").iterdir())
        assert [path.stem for path in kept] == [told.json()["id"]]
        assert http.get(f"/v1/uploads/{told.json()['id']}/content").content == Path(material["driving"]).read_bytes()


def test_a_body_of_a_megabyte_is_no_request(held):
    http, _, _ = held
    answer = http.post("/v1/runs", content=b'{"settings": {"prompt": "' + b"x" * (1 << 20) + b'"}}')
    assert answer.status_code == 413


def test_tokens_keep_owners_apart_and_are_needed(tmp_path, material, model):
    settings = ServiceSettings(runs=tmp_path, models=(str(model),), tokens=("first-token", "second-token"))
    with served(settings) as http:
        first, second = ({"Authorization": f"Bearer {token}"} for token in settings.tokens)
        assert http.get("/v1/runs").status_code == 401
        assert http.get("/v1/runs", headers={"Authorization": "Bearer wrong-token"}).status_code == 401
        assert http.get("/healthz").status_code == 200
        brought = http.post("/v1/uploads", content=Path(material["reference"]).read_bytes(), headers=first).json()["id"]
        assert http.get(f"/v1/uploads/{brought}", headers=first).status_code == 200
        assert http.get(f"/v1/uploads/{brought}", headers=second).status_code == 404


def test_foreign_pages_and_foreign_names_are_refused(held):
    http, _, _ = held
    assert http.get("/v1/runs", headers={"Origin": "https://evil.example"}).status_code == 403
    assert http.get("/v1/runs", headers={"Host": "evil.example"}).status_code == 403
    assert http.get("/v1/runs", headers={"Host": "localhost:1", "Origin": "http://localhost:1"}).status_code == 200


def test_another_address_needs_a_token(tmp_path):
    with pytest.raises(InputError, match="SCAIL2_TOKEN"):
        ServiceSettings(runs=tmp_path, host="0.0.0.0")
    assert ServiceSettings(runs=tmp_path, host="0.0.0.0", tokens=("long-enough",)).host == "0.0.0.0"


def test_two_services_never_share_a_folder(tmp_path, model):
    settings = ServiceSettings(runs=tmp_path, models=(str(model),))
    with served(settings), pytest.raises(InputError, match="in use"), served(settings):
        pass


def test_metrics_count_what_happened(finished):
    http, _, _, _ = finished
    lines = dict(line.rsplit(" ", 1) for line in http.get("/metrics").text.splitlines() if not line.startswith("#"))
    assert int(lines['scail2_jobs{state="finished"}']) >= 1
    assert int(lines["scail2_segments_rendered_total"]) >= 3
    assert int(lines["scail2_workers"]) == 1


def test_the_documentation_has_examples_that_are_accepted_names(finished):
    http, _, _, _ = finished
    schema = http.get("/openapi.json").json()
    example = schema["components"]["schemas"]["Submission"]["examples"][0]
    assert set(example["settings"]) <= set(AnimationRequest.__dataclass_fields__)
    assert threading.active_count() < 50


def test_every_setting_that_may_be_a_path_is_a_file_a_name_or_withheld():
    """A setting added to the request must be thought of here, or a client could name files of the service's machine."""
    words = {
        "prompt", "negative_prompt", "preset", "solver", "codec", "fps", "text", "bind",
        "points", "boxes", "reference_points", "reference_boxes",
    }  # fmt: skip
    open_ended = {each.name for each in fields(AnimationRequest) if re.search(r"\b(str|Path)\b", str(each.type))}
    assert open_ended - words == (ONE_FILE | SEVERAL_FILES | NAMED | WITHHELD) & open_ended


def test_a_clip_is_trimmed_to_the_frames_that_were_asked_for(held, tmp_path):
    http, client, _ = held
    whole = client.upload(EXAMPLE / "driving.mp4")
    part = client.trim(whole, 14, 23)
    told = http.get(f"/v1/uploads/{part}").json()
    assert (told["frames"], told["kind"]) == (9, "video")
    (tmp_path / "part.mp4").write_bytes(http.get(f"/v1/uploads/{part}/content").content)
    kept, clip = (VideoReader(path) for path in (tmp_path / "part.mp4", EXAMPLE / "driving.mp4"))
    kept, clip = kept.frames(0, 9).astype(int), clip.frames(0, 65).astype(int)
    assert [int(np.abs(clip - each).mean(axis=(1, 2, 3)).argmin()) for each in kept] == list(range(14, 23))
    for start, stop in ((0, 66), (5, 5), (9, 3)):
        assert http.post(f"/v1/uploads/{whole}/trim", json={"start": start, "stop": stop}).status_code == 422


def test_a_client_that_stops_sending_is_given_up(tmp_path, model):
    settings = ServiceSettings(runs=tmp_path, models=(str(model),), limits=Limits(silence=0.3))

    def trickle():
        yield b"\x89PNG\r\n\x1a\n"
        threading.Event().wait(1.5)
        yield b"rest"

    with served(settings) as http:
        for where, method in (("/v1/uploads", "POST"), ("/v1/runs", "POST")):
            answer = http.request(method, where, content=trickle())
            assert answer.status_code == 408
            assert answer.json()["error"].endswith(".")
        assert list((tmp_path / ".service" / "uploads").iterdir()) == []


def test_a_full_disk_fails_the_job_in_one_sentence_and_it_goes_on_when_there_is_room(
    tmp_path, material, model, monkeypatch
):
    from scail2.runs.segment_store import SegmentStore

    full, save = threading.Event(), SegmentStore.save

    def refusing(self, *given, **named):
        if full.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder / "001"))
        return save(self, *given, **named)

    monkeypatch.setattr(SegmentStore, "save", refusing)
    full.set()
    with served(ServiceSettings(runs=tmp_path / "runs", models=(str(model),))) as http:
        client = typed_client(http)
        run = client.submit(**job_of(material)).id
        state = client.wait(run, timeout=60)
        assert state.job == "failed"
        assert "disk is full" in state.failure
        full.clear()
        client.resume(run)
        assert client.wait(run, timeout=60).job == "finished"


def test_the_film_is_written_with_transparency_without_rendering_again(tmp_path, material, model):
    with served(ServiceSettings(runs=tmp_path / "runs", models=(str(model),))) as http:
        client = typed_client(http)
        run = client.submit(**job_of(material)).id
        assert client.wait(run, timeout=60).job == "finished"
        before = [each["version"] for each in client.segments(run)]
        client.change(run, alpha="driving", format=".webm")
        assert client.wait(run, timeout=60).job == "finished"
        assert [each["version"] for each in client.segments(run)] == before
        film = client.download(run, tmp_path / "film.webm")
        alpha = VideoReader(film).frames_rgba(0, FRAMES)[..., 3]
        assert alpha.min() < 20
        assert alpha.max() > 235


def test_the_model_stays_loaded_between_jobs_that_use_the_same(tmp_path, material, model, monkeypatch):
    from scail2.loading import by_name

    loaded, load = [], by_name.load_pipeline
    monkeypatch.setattr(by_name, "load_pipeline", lambda name, **given: loaded.append(name) or load(name, **given))
    with served(ServiceSettings(runs=tmp_path / "runs", models=(str(model),))) as http:
        client = typed_client(http)
        runs = [client.submit(**job_of(material, seed=seed)).id for seed in (1, 2)]
        assert client.wait(runs[0], timeout=60).job == "finished"
        client.rerender(runs[0], 0, seed=3)
        assert [client.wait(run, timeout=60).job for run in runs] == ["finished", "finished"]
    assert loaded == [str(model)]


def test_readers_that_do_not_read_hold_nobody_up(finished):
    http, client, run, _ = finished
    address = (http.base_url.host, http.base_url.port)
    stuck = [socket.create_connection(address) for _ in range(30)]
    try:
        for each in stuck:
            each.sendall(f"GET /v1/runs/{run}/project.zip HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n\r\n".encode())
        assert client.state(run).id == run
        assert len(client.frame(run, 0)) > 0
    finally:
        for each in stuck:
            each.close()
    assert client.state(run).id == run


def test_what_a_killed_upload_left_is_swept_at_the_next_start(tmp_path, model):
    settings = ServiceSettings(runs=tmp_path / "runs", models=(str(model),))
    code = "import os, sys; from pathlib import Path; from scail2.files.staging import Staging\n"
    code += "staging = Staging(Path(sys.argv[1]) / 'upload'); staging.place.write_bytes(b'half'); os._exit(9)"
    place = settings.hidden / "uploads"
    subprocess.run([sys.executable, "-c", code, str(place)], check=False)
    assert len(list(place.iterdir())) == 1
    with served(settings):
        assert list(place.iterdir()) == []
