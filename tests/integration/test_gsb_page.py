"""The page for people in a real browser: votes are given, kept over a reload, saved as a file, and counted."""

import json
import shutil

import numpy as np
import pytest
from run_material import write_video

from scail2.evaluation.contests import find_contest
from scail2.evaluation.gsb import count_votes, write_page

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser: install Debian's package chromium")


@pytest.fixture
def page(tmp_path):
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--use-angle=swiftshader", "--disable-dev-shm-usage"]
        )
        opened = browser.new_page()
        opened.faults = []
        opened.on("pageerror", lambda error: opened.faults.append(str(error)))
        yield opened
        browser.close()


def test_votes_are_given_kept_and_saved(page, tmp_path):
    for system, level in (("light", 220), ("dark", 40)):
        (tmp_path / system).mkdir()
        for case in ("one", "two"):
            write_video(tmp_path / system / f"{case}.mkv", np.full((6, 64, 64, 3), level, np.uint8))
    contest = find_contest({name: tmp_path / name for name in ("light", "dark")})
    folder = tmp_path / "gsb"
    key = write_page(contest, folder, {"light": "Which film is lighter?", "better": "Which is better?"})
    address = (folder / "page" / "index.html").as_uri()
    page.goto(address)
    page.fill("#person", "Anna B.")
    page.click("#start")

    def shown(side: str) -> str:
        film = page.get_attribute(f"#{side}", "src").removeprefix("films/").removesuffix(".mp4")
        return key.films[film].system

    def vote() -> None:
        side = "left" if shown("left") == "light" else "right"
        page.check(f"input[name=light][value={side}]")
        page.check("input[name=better][value=same]")
        page.click("#next")

    page.click("#next")
    assert "answer every question" in page.inner_text("#progress")
    vote()
    for _ in range(20):  # the browser stores in another process, which a busy machine's reload may overtake
        page.reload()  # as whoever comes back another day
        if page.inner_text("#progress") == "2 of 2":
            break
    assert page.inner_text("#progress") == "2 of 2"
    page.click("#back")
    assert page.is_checked("input[name=better][value=same]")
    page.click("#next")
    assert {shown("left"), shown("right")} == {"light", "dark"}
    vote()
    with page.expect_download() as saved:
        page.click("#export")
    file = tmp_path / saved.value.suggested_filename
    assert file.name == f"votes-{key.page}-Anna_B_.json"
    saved.value.save_as(file)
    assert json.loads(file.read_text())["person"] == "Anna B."
    by_question = {tally.question: tally for tally in count_votes(folder, [file])}
    assert (by_question["light"].system, by_question["light"].win.mean, by_question["light"].votes) == ("light", 1, 2)
    assert by_question["better"].tie.mean == 1
    assert page.faults == []
