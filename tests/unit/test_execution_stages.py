"""Stages that items pass at once: they overlap, nothing piles up, what fails is named, what it took predicts what more takes."""

import json
import pickle
from threading import Event, Lock, Thread

import pytest

from scail2.cli.app import main
from scail2.cli.stages import StageDisplay, stage_table
from scail2.cli.terminal import Terminal
from scail2.errors import InputError
from scail2.execution.feed import Care
from scail2.execution.figures import Figures, Resource, StageFigures, added, read_figures, write_figures
from scail2.execution.forecast import UTILISATION, Machines, forecast
from scail2.execution.overlap import IN_A_ROW, overlapped
from scail2.execution.stages import StageBoard, stage_of
from scail2.execution.tasks import Begun, Ended, Reported, Watch

STAGES = {"edit": Resource.GPU, "generate": Resource.GPU, "judge": Resource.ENDPOINT}
SOON = 30  # seconds after which a test has failed


def stage(figures: Figures, name: str) -> StageFigures:
    return next(each for each in figures.stages if each.name == name)


def quiet_watch(care: Care | None = None) -> Watch:
    return Watch(0, lambda message: None, care)


def test_an_item_at_the_endpoint_leaves_the_gpu_to_the_next():
    """The first item's answer comes only when the second has been to the GPU: without overlap nobody would end."""
    board, second_edited = StageBoard(STAGES), Event()

    def make(place: int, key: str) -> str:
        with board.at("edit", place):
            if place == 1:
                second_edited.set()
        with board.at("judge", place):
            assert second_edited.wait(SOON)
        return key.upper()

    made = list(overlapped(["a", "b", "c"], make, quiet_watch(), board, in_flight=2))
    assert [(each.key, each.result, each.reason) for each in made] == [
        ("a", "A", None),
        ("b", "B", None),
        ("c", "C", None),
    ]
    assert stage(board.figures(), "edit").visits == stage(board.figures(), "judge").visits == 3


def test_two_stages_on_one_gpu_never_run_at_once_and_what_was_begun_first_goes_first():
    board, at_work, most, order = StageBoard(STAGES), [0], [0], []
    holding, queued = Event(), [Event() for _ in range(3)]

    def visit(name: str, item: int) -> None:
        with board.at(name, item):
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
            order.append(item)
            if item == 0:
                holding.set()
                assert all(each.wait(SOON) for each in queued)
            at_work[0] -= 1

    threads = [Thread(target=visit, args=("edit", 0))]
    threads[0].start()
    assert holding.wait(SOON)
    for count, (name, item) in enumerate([("edit", 3), ("generate", 1), ("edit", 2)], start=1):
        threads.append(Thread(target=visit, args=(name, item)))
        threads[-1].start()
        while sum(each.waiting for each in board.figures().stages) < count:
            pass
        queued[count - 1].set()
    for each in threads:
        each.join(SOON)
    assert (order, most) == ([0, 1, 2, 3], [1])
    assert stage(board.figures(), "edit").most_waiting == 2


def test_no_more_items_are_begun_than_may_be_in_progress():
    """The first is slow: the others stop at the third, whatever there is to do."""
    board, begun, lock = StageBoard({}), [], Lock()
    three = Event()

    def make(place: int, key: str) -> int:
        with lock:
            begun.append(key)
            if len(begun) == 3:
                three.set()
        if place == 0:
            assert three.wait(SOON)
        return place

    results = overlapped([str(number) for number in range(8)], make, quiet_watch(), board, in_flight=3)
    assert next(results).result == 0
    assert len(begun) <= 4  # three, and the one for which the first made room
    assert [each.result for each in results] == list(range(1, 8))


def test_errors_become_a_sentence_with_stage_and_key_after_a_second_try():
    board, tries = StageBoard(STAGES), []

    def make(place: int, key: str) -> str:
        tries.append(key)
        with board.at("generate"):
            if key == "b":
                raise RuntimeError("CUDA error: an illegal access\nand much more")
            if key == "c" and tries.count("c") == 1:
                raise ArithmeticError("a passing fault")
            return key

    made = list(overlapped(["a", "b", "c"], make, quiet_watch(), board))
    assert [each.result for each in made] == ["a", None, "c"]
    assert made[1].reason == "generate: RuntimeError: CUDA error: an illegal access"
    assert tries == ["a", "b", "b", "c", "c"]
    assert (stage(board.figures(), "generate").failed, stage(board.figures(), "generate").visits) == (3, 5)


@pytest.mark.parametrize("in_flight", [1, 4])
def test_what_is_wrong_with_all_items_ends_the_work(in_flight):
    def no_endpoint(place: int, key: str) -> str:
        raise InputError("http://127.0.0.1:1/v1 does not answer")

    with pytest.raises(InputError, match="does not answer"):
        list(overlapped(["a", "b"], no_endpoint, quiet_watch(), StageBoard({}), in_flight=in_flight))

    def full_disk(place: int, key: str) -> str:
        raise OSError(28, "No space left on device", "x.tar")

    with pytest.raises(OSError, match="No space"):
        list(overlapped(["a", "b"], full_disk, quiet_watch(), StageBoard({}), in_flight=in_flight))

    def never(place: int, key: str) -> str:
        raise RuntimeError("no kernel image")

    keys = [f"{number:02d}" for number in range(30)]
    with pytest.raises(InputError, match=f"{IN_A_ROW} items in a row .* 09: RuntimeError: no kernel image"):
        list(overlapped(keys, never, quiet_watch(), StageBoard({}), in_flight=in_flight))


def test_items_that_killed_processes_are_left_out_and_the_others_made_one_at_a_time():
    heard, threads = [], set()

    def make(place: int, key: str) -> str:
        import threading

        threads.add(threading.current_thread().name)
        return key

    watch = Watch(5, heard.append, Care({"b": "its process ended 3 times"}, one_at_a_time=True))
    made = list(overlapped(["a", "b", "c"], make, watch, StageBoard({}), in_flight=3))
    assert [(each.result, each.reason) for each in made] == [
        ("a", None),
        (None, "its process ended 3 times"),
        ("c", None),
    ]
    assert threads == {"MainThread"}
    assert heard == [Begun(5, "a"), Ended(5, "a", 1), Ended(5, "b", 1), Begun(5, "c"), Ended(5, "c", 1)]


# ---- figures --------------------------------------------------------------------------------------------------------


def worked_board() -> StageBoard:
    """Two items: 3 s and 5 s of editing, one answer of 2 s that costs 0.25; 20 s on the clock."""
    now = [100.0]
    board = StageBoard(STAGES, {Resource.ENDPOINT: 8}, clock=lambda: now[0])
    for seconds in (3.0, 5.0):
        with board.at("edit"):
            now[0] += seconds
    with board.at("judge") as visit:
        now[0] += 2.0
        visit.cost = 0.25
    board.count()
    board.count("pose")
    now[0] = 120.0
    return board


def test_figures_are_counted_added_and_read_again(tmp_path):
    figures = worked_board().figures()
    assert (figures.seconds, figures.done, figures.discarded) == (20.0, 1, {"pose": 1})
    assert figures.places == {Resource.GPU: 1, Resource.ENDPOINT: 8}
    edit, judge = stage(figures, "edit"), stage(figures, "judge")
    assert (edit.visits, edit.busy, judge.busy, judge.cost) == (2, 8.0, 2.0, 0.25)
    both = added([figures, figures])
    assert (both.done, both.discarded, both.seconds, both.places[Resource.ENDPOINT]) == (2, {"pose": 2}, 20.0, 16)
    assert (stage(both, "edit").visits, stage(both, "edit").busy, stage(both, "judge").cost) == (4, 16.0, 0.5)
    write_figures(tmp_path / "f.json", both)
    assert read_figures(tmp_path / "f.json") == both


def test_a_board_begins_anew_in_another_process():
    board = pickle.loads(pickle.dumps(worked_board()))
    assert (board.figures().done, board.figures().places[Resource.ENDPOINT]) == (0, 8)
    assert [each.visits for each in board.figures().stages] == [0, 0, 0]


def test_an_error_knows_its_stage():
    board = StageBoard(STAGES)
    with pytest.raises(ValueError, match="odd") as caught, board.at("judge"):
        raise ValueError("odd")
    assert stage_of(caught.value) == "judge"
    assert stage_of(ValueError("elsewhere")) is None


def test_workers_are_added_up_in_the_table(tmp_path):
    display = StageDisplay("making", tmp_path / "f.json", "a test")
    figures = worked_board().figures()
    for worker in ("process 1", "process 2", "process 1"):  # what one says replaces what it said before
        display.listen(Reported(worker, figures))
    display.progress(0, 8)
    display.progress(2, 8)
    console = Terminal(width=120, file=(tmp_path / "screen").open("w"), force_terminal=False)
    console.print(display)
    console.file.close()
    lines = (tmp_path / "screen").read_text().splitlines()
    assert lines[0].startswith("making: 2 of 8, 2 discarded, ")
    assert lines[2].split() == ["edit", "gpu", "0", "0", "4", "12.0", "4", "0", "0"]
    assert lines[4].split() == ["judge", "endpoint", "0", "0", "2", "6.0", "2", "0", "0", "0.5"]
    display.write()
    assert read_figures(tmp_path / "f.json").source == "a test"
    assert stage_table(figures).row_count == 3


# ---- plans ----------------------------------------------------------------------------------------------------------

MEASURED = Figures(
    seconds=900.0,
    done=10,
    discarded={"pose": 3, "clip": 2},
    stages=(
        StageFigures(name="edit", resource=Resource.GPU, visits=20, busy=400.0),
        StageFigures(name="generate", resource=Resource.GPU, visits=15, busy=500.0),
        StageFigures(name="judge", resource=Resource.ENDPOINT, visits=40, busy=160.0, cost=0.2),
        StageFigures(name="extract", resource=Resource.CPU),
    ),
    source="a run of ten",
)


def test_a_plan_is_what_a_pair_took_times_their_number():
    plan = forecast(MEASURED, 1000, Machines(gpus=4, requests=2, price=3.0))
    assert plan.hours == {
        Resource.GPU: pytest.approx(1000 * 90 / 4 / 3600),
        Resource.ENDPOINT: pytest.approx(1000 * 16 / 2 / 3600),
    }
    assert plan.bottleneck is Resource.GPU
    assert plan.total_hours == pytest.approx(6.25 / UTILISATION)
    assert plan.gpu_money == pytest.approx(6.25 / UTILISATION * 4 * 3)
    assert plan.endpoint_money == pytest.approx(20.0)
    assert plan.discarded == pytest.approx(1 / 3)
    assert [(each.name, each.visits, each.seconds) for each in plan.stages] == [
        ("edit", 2.0, 40.0), ("generate", 1.5, 50.0), ("judge", 4.0, 16.0),
    ]  # fmt: skip
    assert forecast(MEASURED, 1000, Machines(gpus=64, requests=1)).bottleneck is Resource.ENDPOINT


def test_a_plan_of_nothing_is_refused():
    with pytest.raises(InputError, match="nothing was finished"):
        forecast(Figures(seconds=1.0, done=0), 10, Machines())


def dry_run(capsys, *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["synthesize", "--dry-run", *map(str, words)])
    out, err = capsys.readouterr()
    return end.value.code, out, err


def test_the_command_plans_from_a_file_and_from_what_is_expected(tmp_path, capsys):
    write_figures(tmp_path / "f.json", MEASURED)
    code, out, _ = dry_run(
        capsys, "--pairs", 1000, "--gpus", 4, "--requests", 2, "--price", 3, "--measured", tmp_path / "f.json"
    )
    assert code == 0
    assert "stage times: a run of ten\n" in out
    assert "1000 pairs: 6 h 56 min at 90% use of what everything waits for (gpu); 33% are discarded" in out
    assert "GPUs: 27.8 card hours, 83 at 3 an hour" in out
    assert "endpoint: 20.00" in out
    code, out, _ = dry_run(capsys, "--pairs", 60000, "--gpus", 64, "--card", "a100 80", "--requests", 64)
    assert code == 0
    assert "stage times: not measured: wan-animate as predicted" in out
    # 2.5 edits of 336 s and 1.4 clips of 81 frames at 2.9 s each, on 64 cards
    hours = 60000 * (2.5 * 336 + 1.4 * 81 * 2.9) / 64 / 3600
    assert f"gpu: {hours:,.0f} h ({hours / 24:.1f} days) with 64 at once" in out


def test_a_plans_players_decide_what_a_pair_is_expected_to_take(tmp_path, capsys):
    """Judged and edited by puppets, generated by Wan-Animate-2 (13.9 s a frame on an A100), 41 frames."""
    plan = tmp_path / "plan.toml"
    plan.write_text(
        'pairs = 500\nshares = {animation_single = 1.0}\n[motions]\npool = "puppets"\nframes = 41\n'
        '[generators.animation]\nname = "wan-animate-2"\nmodel = "nowhere"\n'
    )
    code, out, _ = dry_run(capsys, "--plan", plan, "--gpus", 8, "--card", "a100 80")
    assert code == 0
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert rows["generate"] == ["generate", "gpu", "1.40", f"{1.4 * 41 * 13.9:.4g}"]
    assert rows["edit"] == ["edit", "cpu", "2.50", "0"]
    assert out.count("500 pairs: ") == 1
    plan.write_text("pairs = 500\n")
    code, out, err = dry_run(capsys, "--plan", plan)
    assert (code, err) == (0, "")
    assert "the published way in place of this plan's puppets" in out


def test_files_that_hold_no_stage_times_are_refused(tmp_path, capsys):
    (tmp_path / "f.json").write_text(json.dumps({"seconds": 1, "done": "many"}))
    code, _, err = dry_run(capsys, "--measured", tmp_path / "f.json")
    assert code == 2
    assert "done" in err
    assert dry_run(capsys, "--card", "a toaster")[0] == 2
    with pytest.raises(SystemExit):
        main(["synthesize", "--pairs", "1"])
    assert "--out names the folder" in capsys.readouterr().err
