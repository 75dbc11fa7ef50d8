"""Numbered work: by ranks, by processes that die, by several commands at once; no piece twice, none lost, none half."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numbered_work
import pytest
from numbered_work import Lines, expected

from scail2.errors import InputError
from scail2.execution.crew import Crew, run_for_rank
from scail2.execution.feed import DEATHS, Deaths, Feed
from scail2.execution.ranks import Rank, given_rank
from scail2.execution.tasks import Care, Ended, Lost, Outcome, Watch
from scail2.files.ownership import lock_beside, locked


def pieces(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("piece-*.txt")}


def whole(count: int) -> dict[str, str]:
    return {f"piece-{number}.txt": expected(number) for number in range(count)}


def nothing(_message) -> None:
    pass


# ---- ranks ----------------------------------------------------------------------------------------------------------


def test_ranks_begin_with_their_own_and_go_on_with_the_others_from_the_end():
    assert Rank(1, 3).order(range(8)) == [1, 4, 7, 6, 5, 3, 2, 0]
    assert Rank(1, 3, own_only=True).order(range(8)) == [1, 4, 7]
    assert sorted(n for r in range(5) for n in Rank(r, 5, own_only=True).order(range(23))) == list(range(23))
    assert Rank().order([2, 5]) == [2, 5]


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        ({}, Rank(0, 1)),
        ({"ID": "0", "COUNT": "64", "MIN": "0", "MAX": "63", "STEP": "1"}, Rank(0, 64)),
        ({"ID": "17", "COUNT": "64", "MIN": "1", "MAX": "64", "STEP": "1"}, Rank(16, 64)),
        ({"ID": "12", "COUNT": "4", "MIN": "4", "MAX": "16", "STEP": "4"}, Rank(2, 4)),
        ({"ID": "7", "COUNT": "2", "MIN": "3", "MAX": "7", "STEP": "1"}, Rank(1, 2)),  # --array=3,7
        ({"ID": "5"}, Rank(0, 1)),
    ],
)
def test_a_slurm_arrays_task_knows_its_rank(variables, rank):
    environment = {f"SLURM_ARRAY_TASK_{name}": value for name, value in variables.items()}
    assert given_rank(None, None, environment=environment) == rank
    assert given_rank(3, 9, environment=environment) == Rank(3, 9)  # what is asked for counts more


@pytest.mark.parametrize(
    ("given", "environment", "said"),
    [
        ((1, None), {}, "belong together"),
        ((None, 4), {}, "belong together"),
        ((4, 4), {}, "0 … 3"),
        ((None, None), {"SLURM_ARRAY_TASK_ID": "x"}, "SLURM_ARRAY_TASK_ID is 'x'"),
        ((None, None), {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "-1"}, "SLURM_ARRAY_TASK_COUNT"),
    ],
)
def test_ranks_that_are_none_are_refused(given, environment, said):
    with pytest.raises(InputError, match=said):
        given_rank(*given, environment=environment)


def test_own_only_needs_ranks_that_count_evenly():
    with pytest.raises(InputError, match="one of several ranks"):
        given_rank(None, None, own_only=True, environment={})
    uneven = {"ID": "7", "COUNT": "2", "MIN": "3", "STEP": "1"}
    with pytest.raises(InputError, match="count evenly"):
        given_rank(
            None, None, own_only=True, environment={f"SLURM_ARRAY_TASK_{name}": text for name, text in uneven.items()}
        )


# ---- what is handed out ---------------------------------------------------------------------------------------------


def test_a_feed_waits_for_what_others_hold_and_then_leaves_it_to_them():
    now = [0.0]
    feed = Feed([0, 1, 2], patience=3.0, clock=lambda: now[0])
    assert [feed.take(), feed.take(), feed.take(), feed.take()] == [0, 1, 2, None]
    feed.settle(0, Outcome.HELD)
    feed.settle(1, Outcome.MADE)
    feed.put_back(2)
    assert feed.take() == 2
    feed.settle(2, Outcome.THERE)
    assert feed.take() is None  # 0 is asked for again a moment later, not at once
    now[0] = 1.0
    assert feed.take() == 0
    feed.settle(0, Outcome.HELD)
    now[0] = 2.9
    assert not feed.is_over()
    now[0] = 3.1
    assert feed.is_over()
    assert feed.take() is None
    assert (feed.made, feed.held()) == ([1], [0])


def test_three_deaths_at_one_item_are_its_fault_and_several_items_are_then_told_apart():
    deaths = Deaths()
    deaths.note(4, {"a", "b"}, "SIGKILL")
    assert deaths.care(4) == Care({}, one_at_a_time=True)
    assert deaths.care(5) == Care()
    for _ in range(DEATHS - 1):
        assert not deaths.care(4).left_out
        deaths.note(4, {"b"}, "SIGKILL")
    assert deaths.care(4).left_out == {"b": f"its process ended {DEATHS} times (SIGKILL)"}


@pytest.mark.parametrize(("number", "said"), [(None, "before they work"), (7, "Piece 7")])
def test_processes_that_die_of_nothing_in_particular_are_not_replaced_for_ever(number, said):
    deaths = Deaths()
    deaths.note(number, (), "exit code 1")
    deaths.note(number, (), "exit code 1")
    with pytest.raises(InputError, match=said):
        deaths.note(number, (), "exit code 1")


# ---- work -----------------------------------------------------------------------------------------------------------


def test_ranks_share_the_work_and_none_is_made_twice(tmp_path):
    for number in (0, 1):
        run_for_rank(Lines(tmp_path), range(6), Crew(rank=Rank(number, 2, own_only=True)), nothing)
        assert sorted(pieces(tmp_path)) == [
            f"piece-{n}.txt" for n in range(6) if n % 2 <= number and (number or n % 2 == 0)
        ]
    assert pieces(tmp_path) == whole(6)
    assert run_for_rank(Lines(tmp_path), range(6), Crew(workers=2), nothing).made == []
    assert sorted(Lines(tmp_path).diary()) == sorted(f"made {number}" for number in range(6))


def test_what_another_makes_is_left_to_him(tmp_path, monkeypatch):
    monkeypatch.setattr(Feed.__init__, "__defaults__", (0.2, *Feed.__init__.__defaults__[1:]))
    tasks = Lines(tmp_path)
    with locked(tasks.place(1), lock_beside(tasks.place(1))):
        report = run_for_rank(tasks, range(3), Crew(), nothing)
    assert (report.made, report.held) == ([0, 2], [1])
    assert sorted(pieces(tmp_path)) == ["piece-0.txt", "piece-2.txt"]


def test_a_sample_that_fails_ends_the_work_with_its_sentence(tmp_path):
    with pytest.raises(InputError, match="item 1/2 has no colour"):
        run_for_rank(Lines(tmp_path, wrong="1/2"), range(2), Crew(workers=2), nothing)
    assert "piece-1.txt" not in pieces(tmp_path)


def test_workers_that_die_are_replaced_and_an_item_that_kills_them_is_left_out(tmp_path):
    """Two die once each, of accidents; one item kills everybody who tries it, and is named instead of its value."""
    tasks = Lines(tmp_path, deadly=("3/1",), accidents=("0/2", "2/3"))
    heard = []
    report = run_for_rank(tasks, range(5), Crew(workers=2), heard.append)
    reason = f"its process ended {DEATHS} times (SIGKILL, often for want of memory)"
    assert pieces(tmp_path) == whole(5) | {"piece-3.txt": expected(3, "3/1", reason)}
    assert (report.made, report.held) == ([0, 1, 2, 3, 4], [])
    assert sorted(each.number for each in heard if isinstance(each, Lost)) == [0, 2, 3, 3, 3]
    assert sorted(tasks.diary()) == sorted([*(f"made {n}" for n in range(5)), *["prepared"] * 7])


@pytest.mark.parametrize("ended", [1, 9])
def test_a_killed_command_leaves_whole_pieces_and_the_next_one_makes_the_rest(tmp_path, ended):
    """Its workers end with it: they share its standard output, which the test reads to the end."""
    command = [sys.executable, numbered_work.__file__, tmp_path, str(ended)]
    killed = subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    left = pieces(tmp_path)
    assert left.items() <= whole(6).items()
    assert len(left) < 6
    report = run_for_rank(Lines(tmp_path), range(6), Crew(), nothing)
    assert pieces(tmp_path) == whole(6)
    assert len(report.made) + len(left) == 6
    made = [line for line in Lines(tmp_path).diary() if line != "prepared"]
    assert len(made) == len(set(made))


def test_two_commands_at_once_share_the_work(tmp_path):
    """A second command begins inside the first one's first item, and takes everything but that piece."""
    others = []

    def listen(message) -> None:
        if isinstance(message, Ended) and not others:
            others.append(None)
            child = os.fork()
            if child == 0:
                run_for_rank(Lines(tmp_path), range(4), Crew(rank=Rank(1, 2)), nothing)
                os._exit(0)
            others.append(child)

    report = run_for_rank(Lines(tmp_path), range(4), Crew(rank=Rank(0, 2)), listen)
    os.waitpid(others[1], 0)
    assert pieces(tmp_path) == whole(4)
    assert 0 in report.made
    assert sorted(Lines(tmp_path).diary()) == [f"made {number}" for number in range(4)]


def test_an_item_is_told_by_name():
    heard = []
    watch = Watch(3, heard.append, Care({"b": "it is deadly"}))
    assert (watch.begin("a"), watch.begin("b")) == (None, "it is deadly")
    watch.end("a", 2)
    assert [(type(each).__name__, each.number, each.item) for each in heard] == [("Begun", 3, "a"), ("Ended", 3, "a")]


def test_ray_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("scail2.execution.ray_actors.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'scail2\[ray\]'"):
        run_for_rank(Lines(tmp_path), range(2), Crew(ray="local"), nothing)


def test_ray_actors_do_the_same_work_and_survive_the_same_deaths(tmp_path):
    pytest.importorskip("ray")
    tasks = Lines(tmp_path, deadly=("1/1",))
    report = run_for_rank(tasks, range(3), Crew(workers=2, ray="local"), nothing)
    reason = f"its process ended {DEATHS} times (in Ray, often for want of memory)"
    assert pieces(tmp_path) == whole(3) | {"piece-1.txt": expected(1, "1/1", reason)}
    assert report.made == [0, 1, 2]
