"""Judging by a model and by people, by value: judges with known habits, and votes that are counted by hand."""

import json
import re
from itertools import count

import numpy as np
import pytest
from endpoint_server import Turn, scripted_endpoint
from PIL import Image
from run_material import write_video

from scail2.cli.app import main
from scail2.errors import InputError
from scail2.evaluation.gsb import count_votes
from scail2.evaluation.judging import (
    Dimension,
    Preference,
    shown,
    summarise_comparisons,
    summarise_scores,
)
from scail2.files.documents import load_json


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code or 0


def test_a_judge_sees_the_whole_film_or_neighbouring_frames():
    film = shown(np.arange(81), 5)
    assert list(film.spread) == [0, 20, 40, 60, 80]
    assert list(film.neighbours) == [38, 39, 40, 41, 42]
    assert film.frames(Dimension.SMOOTHNESS) is film.neighbours
    assert film.frames(Dimension.APPEARANCE) is film.spread
    assert list(shown(np.arange(3), 5).spread) == [0, 1, 2]


def test_scores_say_how_far_repeats_agree():
    summary = summarise_scores({"a": [4, 4], "b": [2, 3], "c": [5, 5]})
    assert summary.mean.mean == pytest.approx((4 + 2.5 + 5) / 3)
    assert summary.mean.low >= 2.5
    assert summary.spread == pytest.approx(1 / 3)
    assert summary.same == pytest.approx(2 / 3)
    assert np.isnan(summarise_scores({"a": [4]}).same)


def answers(*pairs: tuple[str, str]) -> list[tuple[Preference, Preference]]:
    return [tuple(Preference(reason="", better=each) for each in pair) for pair in pairs]


def test_a_judge_who_likes_the_first_film_decides_nothing():
    result = summarise_comparisons({str(n): answers(("first", "first")) for n in range(4)})
    assert [share.mean for share in (result.win, result.tie, result.lose)] == [0, 1, 0]
    assert (result.agreement, result.first_liked) == (0, 1)
    assert result.margin.mean == 0


def test_comparisons_are_counted_over_both_orders():
    result = summarise_comparisons(
        {
            "won": answers(("first", "second")),  # ours both times
            "lost": answers(("second", "first")),
            "won by one": answers(("first", "same"), ("same", "same")),
            "undecided": answers(("first", "first"), ("same", "same")),
        }
    )
    assert [share.mean for share in (result.win, result.tie, result.lose)] == [0.5, 0.25, 0.25]
    assert 0 <= result.win.low < 0.5 < result.win.high <= 1
    assert result.margin.mean == pytest.approx(0.25)
    assert result.agreement == pytest.approx(4 / 6)
    assert result.first_liked == pytest.approx(5 / 7)


# ---- the commands ---------------------------------------------------------------------------------------------------


@pytest.fixture
def contest(tmp_path):
    """Two systems, two cases of six grey frames, and pictures: system `good` is brighter."""
    for system, level in (("good", 200), ("bad", 60)):
        (tmp_path / system).mkdir()
        for number, case in enumerate(("one", "two")):
            frames = np.full((6, 32, 32, 3), level + number, np.uint8)
            write_video(tmp_path / system / f"{case}.mkv", frames)
    write_video(tmp_path / "good" / "three.mkv", frames)  # the other system has no such case
    return ("--films", f"good={tmp_path / 'good'}", "--films", f"bad={tmp_path / 'bad'}")


def bright_judge(asked):
    """Likes bright films, and says so by what it was really shown."""
    levels = [float(picture.mean()) for picture in asked.pictures]
    if "Two films" in asked.text:
        half = len(levels) // 2
        first, second = np.mean(levels[:half]), np.mean(levels[half:])
        return Turn({"reason": "light", "better": "first" if first > second else "second"})
    return Turn({"reason": "light", "score": 5 if np.mean(levels) > 128 else 2})


def test_films_are_judged_and_nothing_is_asked_twice(contest, tmp_path, capsys):
    out = tmp_path / "out"
    with scripted_endpoint(answers=bright_judge) as server:
        (tmp_path / "judge.toml").write_text(f'address = "{server.address}"\nmodel = "eyes"\n')
        ask = ("judge", "films", *contest, "--endpoint", tmp_path / "judge.toml", "--out", out, "--repeats", 2,
               "--dimension", "imaging", "--dimension", "smoothness")  # fmt: skip
        assert run(*ask, "--frames", 5) == 2
        assert "A question shows 10 pictures (5 frames of each film" in capsys.readouterr().err
        assert server.asked == []
        assert run(*ask) == 0
        # Two cases, two dimensions, twice: two scores and both orders of one pair.
        assert len(server.asked) == 2 * 2 * 2 * (2 + 2)
        assert {len(asked.pictures) for asked in server.asked} == {3, 6}
        assert run(*ask) == 0
        assert len(server.asked) == 32
        found = json.loads((out / "judgement.json").read_text())
        next(iter((out / "answers").iterdir())).unlink()
        assert run(*ask) == 0
        assert len(server.asked) == 33
        kept = next(iter((out / "answers").iterdir()))
        whole = kept.read_bytes()
        kept.write_text('{"answer": {"score": 9}}')
        assert run(*ask) == 2
        assert "holds no answer any more" in capsys.readouterr().err
        kept.write_bytes(whole)
    assert json.loads((out / "judgement.json").read_text()) == found
    assert found["systems"]["good"]["imaging"]["mean"]["mean"] == 5
    assert found["systems"]["bad"]["smoothness"]["mean"]["mean"] == 2
    (pair,) = found["comparisons"]
    assert (pair["system"], pair["against"], pair["imaging"]["win"]["mean"]) == ("good", "bad", 1)
    assert (pair["imaging"]["agreement"], pair["imaging"]["first_liked"], pair["imaging"]["cases"]) == (1, 0.5, 2)
    assert found["settings"]["judge"]["model"] == "eyes"
    assert run("judge", "films", "--films", contest[1], "--endpoint", tmp_path / "none.toml", "--out", out) == 2
    assert run(*ask, "--dimension", "beauty") == 2
    assert "no dimension 'beauty'" in capsys.readouterr().err


def test_likeness_to_a_picture_is_asked_only_where_one_is_shown(contest, tmp_path, capsys):
    references = tmp_path / "references"
    references.mkdir()
    for case in ("one", "two"):
        Image.new("RGB", (32, 32), (130, 130, 130)).save(references / f"{case}.png")
    with scripted_endpoint(answers=bright_judge) as server:
        (tmp_path / "judge.toml").write_text(f'address = "{server.address}"\nmodel = "eyes"\n')
        ask = ("judge", "films", *contest, "--endpoint", tmp_path / "judge.toml", "--repeats", 1)
        assert run(*ask, "--out", tmp_path / "none", "--dimension", "appearance") == 2
        told = capsys.readouterr().err
        assert (
            "appearance is judged against the reference picture, and the case one has none: give --references" in told
        )
        assert server.asked == []
        assert not (tmp_path / "none").exists()
        assert run(*ask, "--out", tmp_path / "without") == 0
        assert "appearance is not asked about: that takes --references" in capsys.readouterr().err
        assert not any("reference picture" in asked.text for asked in server.asked)
        assert len(server.asked) == 2 * 3 * (2 + 2)
        assert run(*ask, "--out", tmp_path / "with", "--references", references) == 0
        assert "not asked about" not in capsys.readouterr().err
        assert sum("the one of the reference picture" in asked.text for asked in server.asked) == 2 * (2 + 2)
    dimensions = {
        name: list(json.loads((tmp_path / name / "judgement.json").read_text())["systems"]["good"])
        for name in ("without", "with")
    }
    assert dimensions["without"] == ["imaging", "smoothness", "temporal_consistency"]
    assert dimensions["with"] == [*dimensions["without"], "appearance"]
    for name, given, asked in (("bare", (), 2), ("pictured", ("--references", references), 3)):
        assert run("judge", "page", *contest, *given, "--out", tmp_path / name) == 0
        assert len(page_content(tmp_path / name)["questions"]) == asked


def page_content(folder) -> dict:
    text = (folder / "page" / "index.html").read_text()
    return json.loads(re.search(r'id="contest">(.*?)</script>', text)[1])


def test_the_page_is_blind_and_its_votes_are_counted(contest, tmp_path):
    folder = tmp_path / "gsb"
    assert run("judge", "page", *contest, "--out", folder, "--question", "overall=Which </b> is better?") == 0
    content, key = page_content(folder), json.loads((folder / "key.json").read_text())
    assert content["questions"] == [{"id": "overall", "text": "Which </b> is better?"}]
    assert len(content["cases"]) == 2
    told = "".join(path.name for path in (folder / "page").rglob("*")) + (folder / "page" / "index.html").read_text()
    assert not re.search(r"\b(good|bad)\b", told.split('id="contest">')[1].split("</script>")[0])
    assert str(tmp_path) not in told
    assert {path.stem for path in (folder / "page" / "films").iterdir()} == set(key["films"])

    number = count()

    def ballot(*better: str | None, side: int = 0):
        """Votes for a system in each case; `side` is where `good` stands."""
        votes = []
        for case, choice in zip(sorted(key["cases"]), better, strict=False):
            of = {key["films"][film]["system"]: film for film in key["cases"][case]}
            sides = [of["good"], of["bad"]] if side == 0 else [of["bad"], of["good"]]
            votes.append({"case": case, "question": "overall", "left": sides[0], "right": sides[1],
                          "better": None if choice is None else of[choice], "seconds": 2.5})  # fmt: skip
        path = tmp_path / f"votes-{next(number)}.json"
        path.write_text(json.dumps({"page": key["page"], "person": path.stem, "votes": votes}))
        return path

    files = [ballot("good", "good"), ballot("good", None, side=1), ballot("bad")]
    (tally,) = count_votes(folder, files)
    assert (tally.system, tally.against, tally.votes, tally.people) == ("good", "bad", 5, 3)
    assert [share.mean for share in (tally.win, tally.tie, tally.lose)] == [0.6, 0.2, 0.2]
    assert (tally.win.low, tally.win.high) == (0.5, pytest.approx(2 / 3))  # two cases: 2 of 3 and 1 of 2 votes
    assert tally.margin.mean == pytest.approx((1 / 3 + 1 / 2) / 2)  # each case the mean of its votes
    assert tally.agreement == pytest.approx(1 / 4)
    assert tally.left == pytest.approx(2 / 4)
    assert run("judge", "votes", folder, *files, "--json", tmp_path / "tally.json") == 0
    assert load_json(tmp_path / "tally.json", dict)["votes"][0]["win"]["mean"] == 0.6

    kept = files[0].read_bytes()
    for given in (files[1:], files):
        assert run("judge", "votes", folder, *given, "--json", files[0]) == 2
        assert files[0].read_bytes() == kept, "somebody's votes are no count of votes"
    twice = json.loads(kept)
    (tmp_path / "twice.json").write_text(json.dumps(twice | {"votes": [twice["votes"][0]] * 2, "person": "eager"}))
    with pytest.raises(InputError, match=r"answers 'overall' of .* twice"):
        count_votes(folder, [tmp_path / "twice.json"])
    with pytest.raises(InputError, match="both by votes-0"):
        count_votes(folder, [files[0], files[0]])
    strange = json.loads(files[0].read_text())
    strange["votes"][0]["better"] = "somebody"
    (tmp_path / "strange.json").write_text(json.dumps(strange))
    with pytest.raises(InputError, match="does not show side by side"):
        count_votes(folder, [tmp_path / "strange.json"])
    (tmp_path / "strange.json").write_text(json.dumps(strange | {"page": "another"}))
    with pytest.raises(InputError, match="another page"):
        count_votes(folder, [tmp_path / "strange.json"])


def test_systems_without_a_common_case_are_refused(tmp_path, capsys):
    for system, case in (("a", "one"), ("b", "two")):
        (tmp_path / system).mkdir()
        write_video(tmp_path / system / f"{case}.mkv", np.zeros((5, 32, 32, 3), np.uint8))
    films = ("--films", f"a={tmp_path / 'a'}", "--films", f"b={tmp_path / 'b'}")
    assert run("judge", "page", *films, "--out", tmp_path / "out") == 2
    assert "share no case" in capsys.readouterr().err
    assert run("judge", "page", "--films", f"a={tmp_path / 'a'}", "--out", tmp_path / "out") == 2
    assert run("judge", "page", "--films", "a", "--out", tmp_path / "out") == 2
    assert not (tmp_path / "out").exists()
    for system in ("a", "b"):
        write_video(tmp_path / system / "both.mkv", np.zeros((5, 32, 32, 3), np.uint8))
    assert run("judge", "page", *films, "--out", tmp_path / "out") == 0
    assert "Left out, because not every folder has a film of that name: one, two." in capsys.readouterr().err
