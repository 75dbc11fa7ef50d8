"""The studio's page in a real browser, over the embedded model: inputs, masks painted, plan, render, one segment again.

With ``SCAIL2_DOC_PICTURES=1`` the pictures of docs/studio.md are written anew.
"""

import io
import os
import shutil
import wave
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_material import save_model
from service_material import ThreadWorker, served

from scail2.files.public.embedded import embedded_model_path
from scail2.files.storage import hash_file
from scail2.serving.settings import ServiceSettings
from scail2.video import VideoReader

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser: install Debian's package chromium")

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "src" / "scail2" / "assets" / "example" / "animation"
DOC_PICTURES = ROOT / "docs" / "img" if os.environ.get("SCAIL2_DOC_PICTURES") else None
LONG = 120_000  # milliseconds, for whatever renders


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--use-angle=swiftshader", "--disable-dev-shm-usage"]
        )
        yield chromium
        chromium.close()


@contextmanager
def page_of(browser):
    """A page, and the faults seen in it."""
    page = browser.new_page(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    page.set_default_timeout(30_000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    yield page, faults
    page.close()


@pytest.fixture
def studio(browser, tmp_path):
    """A page on an empty studio: (page, http client, faults seen in the page)."""
    with served(ServiceSettings(runs=tmp_path / "runs"), ThreadWorker) as http, page_of(browser) as (page, faults):
        yield page, http, faults


def shoot(page, name):
    """A picture for the documentation, at both widths, where they are asked for."""
    if DOC_PICTURES is None:
        return
    for width, suffix in ((390, "-phone"), (1440, "")):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if suffix and name != "masks":
            continue  # one picture shows what a phone's width looks like
        picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB").quantize(128)
        picture.save(DOC_PICTURES / f"studio-{name}{suffix}.png", optimize=True)


def mask_of(http, run, frame):
    return np.asarray(Image.open(io.BytesIO(http.get(f"/v1/runs/{run}/masks/driving/{frame}.png").content)))


def fetched(page, run):
    """SHA-256 of the film as the page gets it, from the browser's cache where that may be asked."""
    return page.evaluate(
        """async (where) => {
            const digest = await crypto.subtle.digest("SHA-256", await (await fetch(where)).arrayBuffer());
            return [...new Uint8Array(digest)].map((each) => each.toString(16).padStart(2, "0")).join("");
        }""",
        f"/v1/runs/{run}/result",
    )


def only_run(http):
    return http.get("/v1/runs").json()["runs"][0]


def test_from_two_files_to_a_film_and_one_corrected_segment(studio, tmp_path):
    page, http, faults = studio
    page.goto(f"{http.base_url}/")
    page.get_by_role("link", name="Make the first film").click()
    page.get_by_label("Picture of the character").set_input_files(EXAMPLE / "reference.png")
    page.get_by_label("Clip whose motion is followed").set_input_files(EXAMPLE / "driving.mp4")
    page.get_by_text("65 frames, 4.1 s").wait_for()
    page.get_by_text("Length, rate, size, sound, seed").click()
    page.get_by_label("Frames from the beginning").fill("29")
    page.get_by_text("Words, model, sampling").click()
    shoot(page, "inputs")
    page.get_by_role("button", name="Find the masks").click()

    page.get_by_role("heading", name="Who moves whom").wait_for(timeout=LONG)
    run = only_run(http)["id"]
    before = mask_of(http, run, 28).copy()
    paint_on(page, frame=28, at=(0.1, 0.9), colour="red")
    shoot(page, "masks")
    page.get_by_role("slider", name="Frame", exact=True).fill("28")  # the shown frame again: its strokes can be undone
    page.get_by_role("button", name="Undo").click()
    paint_on(page, frame=28, at=(0.1, 0.1), colour="blue")
    with page.expect_response(lambda response: response.request.method == "PUT"):
        page.get_by_role("button", name="Save this frame").click()
    after = mask_of(http, run, 28)
    changed = np.argwhere((after != before).any(axis=-1))
    assert {tuple(after[y, x]) for y, x in changed} == {(0, 0, 255)}
    assert np.abs(changed.mean(axis=0) - 12.8).max() < 2  # a tenth of 128 pixels from the corner

    page.get_by_role("link", name="The masks are right: plan").click()
    page.get_by_text("29 frames, 1.812 s at 16 a second").wait_for()
    shoot(page, "plan")
    page.get_by_role("button", name="Render", exact=True).click()
    page.get_by_role("heading", name="The film").wait_for(timeout=LONG)
    assert only_run(http)["run"]["state"] == "finished"
    versions = [each["version"] for each in http.get(f"/v1/runs/{run}/segments").json()["segments"]]
    assert len(versions) == 2

    film = tmp_path / "runs" / run / "film.mp4"
    os.utime(film, (1e9, 1e9))  # browsers believe in what has long been as it is
    page.goto("about:blank")
    page.goto(f"{http.base_url}/studio/#/run/{run}/result")
    page.locator("video[aria-label='The film']").evaluate(
        "film => new Promise((done) => film.readyState >= 3 ? done() : film.addEventListener('canplay', () => done()))"
    )
    assert fetched(page, run) == hash_file(film)
    page.get_by_role("button", name="Segment 1:").click()
    page.get_by_label("Another seed").fill("77")
    shoot(page, "result")
    page.get_by_role("button", name="Render it again").click()
    page.get_by_role("heading", name="Rendering").wait_for()
    page.get_by_role("heading", name="The film").wait_for(timeout=LONG)
    segments = http.get(f"/v1/runs/{run}/segments").json()["segments"]
    assert (segments[0]["version"], segments[1]["seed"]) == (versions[0], 77)
    assert segments[1]["version"] != versions[1]

    assert fetched(page, run) == hash_file(film)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the film").click()
    download.value.save_as(tmp_path / "film.mp4")
    assert len(VideoReader(tmp_path / "film.mp4")) == 29
    page.get_by_role("link", name="Library").click()
    page.get_by_role("button", name="Duplicate").wait_for()
    shoot(page, "library")
    assert faults == []


def paint_on(page, *, frame, at, colour):
    """One dab of the brush at a share (x, y) of the picture."""
    page.get_by_role("slider", name="Frame", exact=True).fill(str(frame))
    page.get_by_text(f"Frame {frame} of 28").wait_for()
    page.get_by_role("button", name=colour, exact=True).click()
    page.locator("canvas[aria-busy=false]").wait_for()
    box = page.locator("canvas").bounding_box()
    page.mouse.click(box["x"] + at[0] * box["width"], box["y"] + at[1] * box["height"])


def test_it_works_with_the_keyboard_alone(studio):
    page, http, faults = studio
    page.goto(f"{http.base_url}/studio/#/new")
    page.get_by_role("button", name="animation").focus()
    page.keyboard.press("Enter")
    page.get_by_text("is chosen").wait_for()
    page.get_by_text("Length, rate, size, sound, seed").focus()
    page.keyboard.press("Enter")
    page.get_by_label("Frames from the beginning").focus()
    page.keyboard.type("5")
    page.get_by_role("button", name="Find the masks").focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Who moves whom").wait_for(timeout=LONG)
    run = only_run(http)["id"]
    before = mask_of(http, run, 1).copy()
    page.locator("canvas").focus()
    page.keyboard.press("PageDown")
    page.get_by_text("Frame 1 of 4").wait_for()
    page.locator("canvas[aria-busy=false]").wait_for()
    for _ in range(8):
        page.keyboard.press("ArrowLeft")  # the brush's six pixels each: from 64 to 16
    page.keyboard.press("Space")
    page.get_by_role("button", name="Save this frame").focus()
    page.keyboard.press("Enter")
    page.get_by_text("The mask is saved.").wait_for()
    after = mask_of(http, run, 1)
    assert tuple(after[64, 16]) == (0, 0, 255)
    assert (after[:, 30:] == before[:, 30:]).all()
    assert faults == []


def test_what_is_sent_late_or_is_wrong_is_not_what_is_rendered(studio, tmp_path):
    page, http, faults = studio
    slow = tmp_path / "slow.mp4"
    shutil.copy(EXAMPLE.parent / "replacement" / "driving.mp4", slow)
    held = []
    page.route("**/v1/uploads", lambda route: held.append(route) if not held else route.continue_())
    page.goto(f"{http.base_url}/studio/#/new")
    page.get_by_label("Clip whose motion is followed").set_input_files(slow)
    page.get_by_text("Sending slow.mp4").wait_for()
    page.get_by_role("button", name="Find the masks").click()
    page.get_by_text("A file is still being sent").wait_for()
    page.get_by_label("Clip whose motion is followed").set_input_files(EXAMPLE / "driving.mp4")
    page.get_by_text("65 frames, 4.1 s").wait_for()
    with page.expect_response(lambda response: response.url.endswith(f"/v1/uploads/{hash_file(slow)}")):
        held[0].continue_()
    page.evaluate("() => new Promise(requestAnimationFrame)")  # what it was asked for is known to the page
    wanted = hash_file(EXAMPLE / "driving.mp4")
    assert wanted in page.get_by_label("The clip you chose").get_attribute("src")

    page.get_by_label("Picture of the character").set_input_files(EXAMPLE / "reference.png")
    page.get_by_role("img", name="The picture you chose").wait_for()
    (tmp_path / "hello.mp3").write_bytes(b"hello")
    page.get_by_label("Picture of the character").set_input_files(tmp_path / "hello.mp3")
    page.get_by_text("The file: the content is not a video or picture of a known kind").wait_for()
    page.get_by_role("button", name="Find the masks").click()
    page.get_by_text("Choose a picture and a clip first.").wait_for()
    assert [fault for fault in faults if "415" not in fault] == []  # the browser's own note of the refusal


def test_a_gif_moves_in_the_page(studio, tmp_path):
    page, http, faults = studio
    with VideoReader(EXAMPLE / "driving.mp4") as reader:
        first, *others = map(Image.fromarray, reader.frames(0, 5))
    first.save(tmp_path / "dance.gif", save_all=True, append_images=others, duration=60)
    page.goto(f"{http.base_url}/studio/#/new")
    page.get_by_label("Clip whose motion is followed").set_input_files(tmp_path / "dance.gif")
    shown = page.get_by_role("img", name="The clip you chose")
    shown.wait_for()
    assert page.evaluate("image => image.decode().then(() => image.naturalWidth)", shown.element_handle()) == 128
    assert page.get_by_role("button", name="from here").count() == 0
    page.get_by_label("Picture of the character").set_input_files(EXAMPLE / "reference.png")
    page.get_by_role("img", name="The picture you chose").wait_for()
    page.get_by_role("button", name="Find the masks").click()
    page.get_by_role("heading", name="Who moves whom").wait_for(timeout=LONG)
    assert faults == []


def test_the_sound_is_that_of_a_file_or_none(studio, tmp_path):
    page, http, faults = studio
    with wave.open(str(tmp_path / "song.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(np.full(8000, 1000, np.int16).tobytes())
    page.goto(f"{http.base_url}/studio/#/new")
    page.get_by_role("button", name="animation").click()
    page.get_by_text("is chosen").wait_for()
    page.get_by_text("Length, rate, size, sound, seed").click()
    page.get_by_label("Frames from the beginning").fill("5")
    assert page.get_by_label("File with the sound").is_hidden()
    page.get_by_label("Sound of the film").select_option("of a file")
    page.get_by_role("button", name="Find the masks").click()
    page.get_by_text("Choose a file with the sound, or another sound.").wait_for()
    page.get_by_label("File with the sound").set_input_files(EXAMPLE / "reference.png")
    page.get_by_text("That file is a picture").wait_for()
    page.get_by_label("File with the sound").set_input_files(tmp_path / "song.wav")
    page.locator("audio").wait_for()
    page.get_by_role("button", name="Find the masks").click()
    page.get_by_role("heading", name="Who moves whom").wait_for(timeout=LONG)
    run = only_run(http)["id"]
    song = hash_file(tmp_path / "song.wav")
    assert http.get(f"/v1/runs/{run}").json()["settings"]["audio"] == song

    page.goto(f"{http.base_url}/studio/#/run/{run}/inputs")  # chosen before, still chosen
    page.get_by_text("Length, rate, size, sound, seed").click()
    assert page.get_by_label("Sound of the film").input_value() == "file"
    assert song in page.locator("audio").get_attribute("src")
    page.get_by_label("Sound of the film").select_option("none")
    page.get_by_role("button", name="Find the masks").click()
    page.get_by_role("heading", name="Who moves whom").wait_for(timeout=LONG)
    assert http.get(f"/v1/runs/{run}").json()["settings"]["audio"] is False
    assert faults == []


def test_words_model_and_sampling_are_chosen_in_the_page(browser, tmp_path):
    nano = embedded_model_path()
    offered = ServiceSettings(
        runs=tmp_path / "runs",
        models=(str(nano), str(save_model(tmp_path / "tiny"))),
        loras={"hands": str(next((nano / "loras").glob("*.safetensors")))},
    )
    with served(offered, ThreadWorker) as http, page_of(browser) as (page, faults):
        page.goto(f"{http.base_url}/studio/#/new")
        page.get_by_role("button", name="animation").click()
        page.get_by_text("is chosen").wait_for()
        page.get_by_text("Length, rate, size, sound, seed").click()
        page.get_by_label("Frames from the beginning").fill("5")
        assert page.get_by_label("What to look for, in words").count() == 0  # no SAM3 here
        page.get_by_text("Words, model, sampling").click()
        page.get_by_label("Model", exact=True).select_option(str(nano))
        presets = page.get_by_label("Preset").locator("option").all_inner_texts()
        assert "nano" in presets
        assert "distilled (tuned for LoRAs: lightx2v I2V step and CFG distillation at 1.0)" in presets
        page.get_by_label("Seed of the noise").fill("9007199254740993")  # would be sent as …992
        page.get_by_role("button", name="Find the masks").click()
        page.get_by_text("numbers up to 9007199254740991, not 9007199254740993").wait_for()
        page.get_by_label("Seed of the noise").fill("9007199254740991")
        page.get_by_label("Preset").select_option("nano")
        page.get_by_label("Steps", exact=True).fill("2")
        page.get_by_label("Colours from segment to segment").select_option("as in the first segment")
        page.get_by_label("hands").check()
        page.get_by_role("button", name="Find the masks").click()
        page.get_by_role("link", name="The masks are right: plan").click(timeout=LONG)
        run = only_run(http)["id"]
        given = http.get(f"/v1/runs/{run}").json()["settings"]
        asked = {"model": str(nano), "preset": "nano", "num_inference_steps": 2, "lora": ["hands"], "seed": 2**53 - 1}
        asked |= {"drift_correction": "reinhard-first"}
        assert {name: given.get(name) for name in asked} == asked
        assert not {"prompt", "negative_prompt", "guidance_scale", "text"} & given.keys()
        assert http.get(f"/v1/runs/{run}").json()["plan"]["sampling"]["resolved"]["steps"] == 2

        page.goto(f"{http.base_url}/studio/#/run/{run}/inputs")
        page.get_by_text("Words, model, sampling").click()
        assert page.get_by_label("hands").is_checked()
        page.get_by_label("hands").uncheck()
        page.get_by_label("Steps", exact=True).fill("")
        page.get_by_label("Preset").select_option("the model's own")
        page.get_by_role("button", name="Find the masks").click()
        page.get_by_role("link", name="The masks are right: plan").wait_for(timeout=LONG)
        given = http.get(f"/v1/runs/{run}").json()["settings"]
        assert not {"lora", "num_inference_steps", "preset"} & given.keys()
        assert faults == []


def test_refusals_are_told_in_the_page(studio, tmp_path):
    page, http, _ = studio
    (tmp_path / "notes.png").write_text("no picture at all")
    page.goto(f"{http.base_url}/studio/#/new")
    page.get_by_label("Picture of the character").set_input_files(tmp_path / "notes.png")
    page.locator("#notice.bad").wait_for()
    assert "The file" in page.locator("#notice").inner_text()
    page.get_by_role("button", name="Find the masks").click()
    page.get_by_text("Choose a picture and a clip first.").wait_for()
    assert http.get("/v1/runs").json()["runs"] == []


@pytest.fixture
def planned(studio):
    """The page at the masks of a run of five frames: (page, http client, faults, run)."""
    page, http, faults = studio
    page.goto(f"{http.base_url}/studio/#/new")
    page.get_by_role("button", name="animation").click()
    page.get_by_text("is chosen").wait_for()
    page.get_by_text("Length, rate, size, sound, seed").click()
    page.get_by_label("Frames from the beginning").fill("5")
    page.get_by_role("button", name="Find the masks").click()
    page.get_by_role("heading", name="Who moves whom").wait_for(timeout=LONG)
    page.locator("canvas[aria-busy=false]").wait_for()
    return page, http, faults, only_run(http)["id"]


def dab(page, colour):
    """Paints in the middle of the frame that is shown."""
    page.get_by_role("button", name=colour, exact=True).click()
    page.get_by_label("Brush, in pixels").fill("40")
    box = page.locator("canvas").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def test_repainted_masks_are_planned_anew(planned):
    """Masks that nothing can be rendered with are told of; painted right, they can, and the plan is that of the new ones."""
    page, http, faults, run = planned
    paint_all(page, http, run, (0, 0, 255))
    dab(page, "blue")
    page.get_by_role("link", name="The masks are right: plan").click()
    page.get_by_text("driving character 1 is cut off at the top").wait_for(timeout=LONG)
    assert page.get_by_role("button", name="Render", exact=True).is_enabled()

    page.get_by_role("link", name="Masks", exact=True).click()
    page.get_by_role("heading", name="Who moves whom").wait_for()
    paint_all(page, http, run, (0, 0, 0))
    dab(page, "red")
    page.get_by_role("link", name="The masks are right: plan").click()
    page.get_by_text("the reference mask and the driving mask share no colour").wait_for(timeout=LONG)
    assert page.get_by_role("button", name="Render", exact=True).count() == 0

    page.get_by_role("link", name="To the masks").click()
    page.locator("canvas[aria-busy=false]").wait_for()
    dab(page, "blue")
    page.locator("input[type=number]").first.fill("4")
    page.get_by_role("button", name="Save, and the same through frame").click()
    page.get_by_text("Frames 0 to 4 are saved.").wait_for()
    page.get_by_role("link", name="The masks are right: plan").click()
    page.get_by_role("heading", name="What will be rendered").wait_for(timeout=LONG)
    assert page.get_by_role("button", name="Render", exact=True).is_enabled()
    assert page.get_by_text("is cut off at the top").count() == 0
    assert faults == []


def paint_all(page, http, run, colour):
    """The clip's five masks in one colour, as the page finds them."""
    buffer = io.BytesIO()
    Image.new("RGB", (128, 128), colour).save(buffer, format="PNG")
    where = f"/v1/runs/{run}/masks/driving/0.png"
    assert http.put(where, params={"through": 4}, content=buffer.getvalue()).is_success
    page.reload()
    page.locator("canvas[aria-busy=false]").wait_for()


def test_what_was_painted_stays_where_it_cannot_be_saved(planned):
    page, http, _, run = planned
    page.route(
        "**/masks/driving/0.png*", lambda route: route.abort() if route.request.method == "PUT" else route.continue_()
    )
    before = mask_of(http, run, 0)
    dab(page, "blue")
    for leave in (
        lambda: page.get_by_role("button", name="Next frame").click(),
        lambda: page.get_by_role("link", name="The masks are right: plan").click(),
    ):
        with page.expect_event("requestfailed"):
            leave()
        page.get_by_text("Frame 0 of 4").wait_for()
        page.get_by_role("heading", name="Who is who").wait_for()
    assert (mask_of(http, run, 0) == before).all()
    page.unroute("**/masks/driving/0.png*")
    with page.expect_response(lambda response: response.request.method == "PUT"):
        page.get_by_role("button", name="Next frame").click()
    page.get_by_text("Frame 1 of 4").wait_for()
    assert tuple(mask_of(http, run, 0)[64, 64]) == (0, 0, 255)
