"""Roles behind an endpoint: what is asked over real HTTP, and what answers and their lack do to the loop."""

import json
from dataclasses import replace

import numpy as np
import pytest
from endpoint_server import Turn, busy, scripted_endpoint
from synthesis_material import WELL, answered, pair_loop, puppet_bench, puppet_roles

from scail2.data.endpoint.client import Endpoint
from scail2.data.endpoint.settings import AnswerForm, EndpointSettings, Prices
from scail2.data.triplet_settings import SampleKind
from scail2.modes import AnimationMode
from scail2.synthesis.bench import Job
from scail2.synthesis.events import Phase
from scail2.synthesis.report import reported
from scail2.synthesis.roles import endpoint as roles
from scail2.synthesis.roles.protocol import Edit, Finding, Made, Picture, Task


def client(server, **changes) -> Endpoint:
    settings = EndpointSettings(address=server.address, model="eyes", retries=1, prices=Prices(prompt=10.0), **changes)
    return Endpoint(settings)


def scene(kind=SampleKind.ANIMATION_SINGLE, number=4):
    bench = puppet_bench()
    motion = bench.motions.motion(bench.motions.draw(kind, number)).motion
    character = bench.characters.character("puppet-7")
    base = Picture(image=character.image, source=character.source)
    return Edit(task=Task.POSE, base=base, character=character, motion=motion)


def test_a_selector_sees_the_first_frame_and_the_candidates_in_their_order():
    edit = scene()
    candidates = [puppet_bench().characters.character(f"puppet-{n}") for n in (3, 9)]
    answers = [{"reason": "tall", "candidate": n} for n in (2, 0, 5)]
    with scripted_endpoint(*map(Turn, answers)) as server, client(server) as endpoint:
        selector = roles.EndpointSelector(endpoint=endpoint)
        chosen = [selector.select(edit.motion, 0, candidates, seed) for seed in range(3)]
    assert [told.value.number for told in chosen] == [1, None, None]
    assert (chosen[0].value.reason, chosen[0].tokens, chosen[0].cost) == ("tall", 110, 0.001)
    shown = server.asked[0].pictures
    assert all(map(np.array_equal, shown, [edit.motion.clip.frames[0], candidates[0].image, candidates[1].image]))
    assert server.asked[1].body["seed"] == 1
    assert "candidates 1 to 2" in server.asked[0].text


@pytest.mark.parametrize(
    ("task", "pictures", "words"),
    [(Task.POSE, 2, "the very posture"), (Task.STAND, 1, "plain white"), (Task.ENVIRONMENT, 2, "surroundings replace")],
)
def test_a_weaver_is_told_what_the_edit_is_for_and_what_went_wrong(task, pictures, words):
    edit = replace(scene(), task=task, remark="the left arm hangs")
    with scripted_endpoint(Turn({"instruction": "Raise the arm."})) as server, client(server) as endpoint:
        told = roles.EndpointWeaver(endpoint=endpoint).weave(edit, 0)
    assert told.value == "Raise the arm."
    assert len(server.asked[0].pictures) == pictures
    prompt = " ".join(server.asked[0].text.split())
    assert words in prompt
    assert "the left arm hangs" in prompt
    assert edit.character.caption in prompt


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({}, Finding.PASS),
        ({"pose": "wrong", "environment": "wrong"}, Finding.POSE),
        ({"environment": "wrong"}, Finding.ENVIRONMENT),
        ({"quality": "poor"}, Finding.POSE),
        ({"character": "wrong", "pose": "wrong"}, Finding.FAILURE),
        ({"quality": "useless"}, Finding.FAILURE),
    ],
)
def test_what_a_judge_finds_decides_what_happens(changes, finding):
    edit = scene()
    picture = Picture(image=edit.guide[::-1].copy())
    with scripted_endpoint(Turn({**WELL, **changes, "remark": "so"})) as server, client(server) as endpoint:
        told = roles.EndpointJudge(endpoint=endpoint).judge_picture(picture, edit, 0)
    assert told.value.finding is finding
    assert told.value.reason == ("" if finding is Finding.PASS else "so")
    shown = server.asked[0].pictures
    assert all(map(np.array_equal, shown, [picture.image, edit.guide, edit.character.image]))


def test_a_judge_sees_moments_of_both_clips_beside_each_other_and_whom_is_meant():
    edit = scene(SampleKind.REPLACEMENT_MULTI)
    clip = replace(edit.motion.clip, frames=255 - edit.motion.clip.frames)
    made = Made(clip=clip, character=edit.character, motion=edit.motion, mode=AnimationMode.REPLACEMENT, performer=1)
    with scripted_endpoint(Turn(WELL)) as server, client(server) as endpoint:
        roles.EndpointJudge(endpoint=endpoint, frames=3).judge_clip(made, 0)
    (asked,) = server.asked
    moments = asked.pictures[:-1]
    for shown, number in zip(moments, (0, 2, 4), strict=True):
        assert np.array_equal(shown[:, :48], edit.motion.clip.frames[number])
        assert np.array_equal(shown[:, -48:], clip.frames[number])
    assert "exactly the scene at the left" in asked.text
    assert "of the 2 people there, number" in asked.text


def test_the_whole_loop_by_an_endpoint_that_takes_no_schemas_and_is_busy_at_first(tmp_path):
    calls = []

    def answers(asked):
        calls.append(asked)
        return busy() if len(calls) in (1, 7) else answered(asked)

    job = Job(key="0000000", number=0, kind=SampleKind.ANIMATION_SINGLE)
    with scripted_endpoint(answers=answers) as server, client(server) as endpoint:
        players = puppet_roles(
            0.0, selector=roles.EndpointSelector(endpoint=endpoint), weaver=roles.EndpointWeaver(endpoint=endpoint),
            judge=roles.EndpointJudge(endpoint=endpoint), captioner=roles.EndpointCaptioner(endpoint=endpoint),
        )  # fmt: skip
        bench = puppet_bench(players)
        state = pair_loop(tmp_path, bench).run(job, attempts=1)
        spent, form = endpoint.account.spent, endpoint.form
    assert state.phase is Phase.ACCEPTED
    assert state.captions == ("A dance.", "A dance.")
    assert form is AnswerForm.JSON_OBJECT
    assert spent.statuses == {"200": 6, "400": 1, "429": 2}
    attempts = pair_loop(tmp_path, bench).attempts(job.key)
    report = reported([attempts])
    assert report.tokens == spent.tokens == 6 * 110
    assert report.cost == pytest.approx(spent.cost)
    woven = next(each for each in attempts[0].happenings if each.phase is Phase.WEAVE)
    assert "very posture" in " ".join(woven.how.prompt.split())
    assert json.loads(woven.how.answer.split("```json")[1].strip("`\n")) == {"instruction": "Do it."}


def test_a_judge_who_declines_is_asked_no_more_than_the_budget_allows(tmp_path):
    job = Job(key="0000000", number=0, kind=SampleKind.ANIMATION_SINGLE)
    with scripted_endpoint(Turn(refusal="I will not look at this.")) as server, client(server) as endpoint:
        bench = puppet_bench(puppet_roles(0.0, judge=roles.EndpointJudge(endpoint=endpoint)))
        state = pair_loop(tmp_path, bench).run(job, attempts=1)
    assert state.phase is Phase.DISCARDED
    assert len(server.asked) == bench.budget.failures
    last = pair_loop(tmp_path, bench).attempts(job.key)[0].happenings[-1]
    assert "I will not look at this." in last.event.message
