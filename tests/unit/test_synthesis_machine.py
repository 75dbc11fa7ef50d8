"""The machine of the loop: whatever happens, pairs come to an end within their budget, and journals say how."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scail2.data.triplet_settings import PUBLISHED_SHARES, SampleKind
from scail2.errors import InputError
from scail2.synthesis.events import (
    EXPECTED,
    Captioned,
    ClipChecked,
    ClipJudged,
    Drawn,
    Edited,
    Extracted,
    Failed,
    Generated,
    Phase,
    PictureJudged,
    Reason,
    Selected,
    Woven,
)
from scail2.synthesis.journal import EVENTS, Circumstances, PairJournal, replayed
from scail2.synthesis.machine import Budget, advance, begin
from scail2.synthesis.roles.protocol import Finding, Task

KINDS = list(PUBLISHED_SHARES)
BUDGETS = st.builds(
    Budget,
    draws=st.integers(1, 4),
    characters=st.integers(1, 3),
    pose_edits=st.integers(0, 3),
    environment_edits=st.integers(0, 3),
    clips=st.integers(1, 3),
    failures=st.integers(1, 4),
)


def any_event(draw, state, favour_success: bool):
    """Whatever can happen in this state."""
    if draw(st.integers(0, 9)) == 0 and not favour_success:
        return Failed(message="no answer")
    finding = Finding.PASS if favour_success else draw(st.sampled_from(list(Finding)))
    match state.phase:
        case Phase.DRAW:
            order = state.order or tuple(draw(st.permutations(range(2 if state.kind.is_multi else 1))))
            names = tuple(f"c{n}" for n in range(3 if favour_success else draw(st.integers(0, 3))))
            return Drawn(motion=state.motion if state.turn else f"m{state.draws}", order=order, candidates=names)
        case Phase.SELECT:
            options = state.remaining if favour_success else (*state.remaining, None)
            return Selected(character=draw(st.sampled_from(options)))
        case Phase.WEAVE:
            return Woven(words="…")
        case Phase.EDIT:
            return Edited(picture=f"p{state.events}")
        case Phase.JUDGE_PICTURE:
            return PictureJudged(finding=finding)
        case Phase.GENERATE:
            return Generated(clip=f"v{state.events}", seed=state.events)
        case Phase.CHECK_CLIP:
            return ClipChecked(passed=favour_success or draw(st.booleans()))
        case Phase.JUDGE_CLIP:
            return ClipJudged(finding=finding)
        case Phase.EXTRACT:
            return Extracted(found=favour_success or draw(st.booleans()))
        case _:
            return Captioned(real="y", synthetic="ỹ")


@given(st.data(), st.sampled_from(KINDS), BUDGETS, st.booleans())
@settings(max_examples=120, deadline=None)
def test_every_path_ends_within_its_budget_and_for_a_reason(data, kind, budget, favour_success):
    state, happened = begin(kind), []
    passed: set[str] = set()
    for _ in range(budget.most_events(2) + 1):
        if state.phase.is_over:
            break
        event = any_event(data.draw, state, favour_success)
        if isinstance(event, PictureJudged) and event.finding is Finding.PASS:
            passed.add(state.picture)
        if isinstance(event, ClipJudged) and event.finding is Finding.PASS:
            passed.add(state.clip)
        happened.append((state.phase, event))
        state = advance(state, event, budget)
        assert state.failures <= budget.failures
        assert state.pose_edits <= budget.pose_edits
        assert state.environment_edits <= budget.environment_edits
        assert state.clips <= budget.clips
        assert state.characters <= budget.characters
        assert state.draws <= budget.draws + max(0, len(state.order) - 1)
    assert state.phase.is_over
    assert state.events == len(happened) <= budget.most_events(2)
    if favour_success:
        assert state.phase is Phase.ACCEPTED
    if state.phase is Phase.ACCEPTED:
        assert [each.performer for each in state.replaced] == ([] if kind.is_pose else list(state.order))
        assert {each.picture for each in state.replaced} | {each.clip for each in state.replaced} <= passed
        assert state.cause is None
    else:
        assert state.cause in Reason


@pytest.mark.parametrize("kind", KINDS)
def test_the_straight_path(kind):
    state, events = begin(kind), 0
    answers = {
        Drawn: Drawn(motion="m", order=(1, 0) if kind.is_multi else (0,), candidates=("a", "b")),
        Selected: Selected(character="a"),
        Woven: Woven(words="w"),
        Edited: Edited(picture="p", source="s"),
        PictureJudged: PictureJudged(finding=Finding.PASS),
        Generated: Generated(clip="c", seed=3),
        ClipChecked: ClipChecked(passed=True),
        ClipJudged: ClipJudged(finding=Finding.PASS),
        Extracted: Extracted(found=True),
        Captioned: Captioned(real="y", synthetic="ỹ"),
    }
    while not state.phase.is_over:
        state = advance(state, answers[EXPECTED[state.phase]], Budget())
        events += 1
    one = {SampleKind.REPLACEMENT_MULTI: 2}.get(kind, 1)
    assert events == (3 if kind.is_pose else 8 * one + 1)
    assert [each.performer for each in state.replaced] == ([] if kind.is_pose else list(state.order))


def path(*events, kind=SampleKind.ANIMATION_SINGLE, budget=Budget()):
    state = begin(kind)
    for event in events:
        state = advance(state, event, budget)
    return state


TO_JUDGE = (
    Drawn(motion="m", order=(0,), candidates=("a", "b")),
    Selected(character="a"),
    Woven(words="w"),
    Edited(picture="p"),
)


def test_findings_lead_where_the_method_says():
    pose = path(*TO_JUDGE, PictureJudged(finding=Finding.POSE, remark="arm"))
    assert (pose.phase, pose.task, pose.picture, pose.remark) == (Phase.WEAVE, Task.POSE, "p", "arm")
    scene = path(*TO_JUDGE, PictureJudged(finding=Finding.ENVIRONMENT))
    assert (scene.phase, scene.task, scene.picture) == (Phase.WEAVE, Task.ENVIRONMENT, "p")
    failed = path(*TO_JUDGE, PictureJudged(finding=Finding.FAILURE))
    assert (failed.phase, failed.excluded, failed.remaining) == (Phase.SELECT, ("a",), ("b",))
    nobody = path(TO_JUDGE[0], Selected(character=None))
    assert (nobody.phase, nobody.cause) == (Phase.DRAW, Reason.NO_CANDIDATE)
    standing = path(*TO_JUDGE, PictureJudged(finding=Finding.ENVIRONMENT), kind=SampleKind.REPLACEMENT_SINGLE)
    assert standing.task is Task.STAND
    tired = path(*TO_JUDGE, PictureJudged(finding=Finding.POSE), budget=Budget(pose_edits=0, characters=1, draws=1))
    assert (tired.phase, tired.cause) == (Phase.DISCARDED, Reason.POSE)


def test_what_cannot_happen_is_refused():
    for event in (Woven(words="w"), Captioned(real="y")):
        with pytest.raises(ValueError, match="cannot happen in the phase draw"):
            path(event)
    with pytest.raises(ValueError, match="none of the candidates"):
        path(TO_JUDGE[0], Selected(character="z"))
    over = path(*[Failed(message="x")] * 4)
    assert (over.phase, over.cause) == (Phase.DISCARDED, Reason.NO_ANSWER)
    with pytest.raises(ValueError, match="cannot happen in the phase discarded"):
        advance(over, Failed(message="x"), Budget())
    with pytest.raises(InputError, match="never synthesised"):
        begin(SampleKind.ANIMATION_MULTI)


def test_every_event_has_a_name_and_a_phase():
    assert set(EVENTS.values()) == {*EXPECTED.values(), Failed}
    assert "picture_judged" in EVENTS


@given(st.data(), st.sampled_from(KINDS), BUDGETS)
@settings(max_examples=12, deadline=None)
def test_a_journal_gives_back_the_state_at_any_point(tmp_path_factory, data, kind, budget):
    file = tmp_path_factory.mktemp("journal") / "shard.jsonl"
    journal = PairJournal(file, budget)
    journal.begin("7", 0, kind)
    state, states = begin(kind), [begin(kind)]
    while not state.phase.is_over:
        event = any_event(data.draw, state, False)
        journal.note("7", 0, state.phase, event, Circumstances(seed=state.events, prompt="p", cost=0.5))
        state = advance(state, event, budget)
        states.append(state)
    (attempt,) = journal.attempts()["7"]
    assert attempt.state == state
    assert [each.how.seed for each in attempt.happenings] == list(range(len(states) - 1))
    place = data.draw(st.integers(0, len(states) - 1))
    journal.rewind("7", 0, place)
    (attempt,) = journal.attempts()["7"]
    assert attempt.state == states[place]
    # A crash in the middle of a line: what was whole before it counts.
    content = file.read_bytes()
    file.write_bytes(content + b'{"event": "wov')
    assert PairJournal(file, budget).attempts()["7"][0].state == states[place]


def test_a_journal_that_was_changed_is_told_from_one_that_was_not(tmp_path):
    journal = PairJournal(tmp_path / "j.jsonl", Budget())
    journal.begin("0", 0, SampleKind.ANIMATION_SINGLE)
    state = begin(SampleKind.ANIMATION_SINGLE)
    for event in TO_JUDGE:
        journal.note("0", 0, state.phase, event, Circumstances())
        state = advance(state, event, Budget())
    lines = journal.path.read_text().splitlines()
    (tmp_path / "gap.jsonl").write_text("\n".join(lines[:2] + lines[3:]))
    with pytest.raises(InputError, match=r"gap.jsonl, pair 0: the journal says .* phase weave, but .* lead to select"):
        PairJournal(tmp_path / "gap.jsonl", Budget()).attempts()
    changed = [json.loads(line) for line in lines]
    changed[2]["what"]["character"] = "stranger"
    (tmp_path / "changed.jsonl").write_text("\n".join(map(json.dumps, changed)))
    with pytest.raises(InputError, match="does not add up: stranger"):
        PairJournal(tmp_path / "changed.jsonl", Budget()).attempts()
    (tmp_path / "orphan.jsonl").write_text(lines[1])
    with pytest.raises(InputError, match="follows from nothing"):
        PairJournal(tmp_path / "orphan.jsonl", Budget()).attempts()


def test_budgets_bound_events():
    tight = Budget(draws=1, characters=1, pose_edits=0, environment_edits=0, clips=1, failures=1)
    assert tight.most_events(1) == 1 + 1 + 3 + 3 + 1 + 1
    assert dataclasses.replace(tight, draws=2).most_events(1) > tight.most_events(1)
    state = replayed(SampleKind.POSE_SINGLE, [], tight, "nothing")
    assert state.phase is Phase.DRAW
