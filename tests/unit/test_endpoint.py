"""Questions to an endpoint over real HTTP: typed answers, and every fault that servers and models have."""

import json
import multiprocessing
import os
import socket
from contextlib import suppress
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from endpoint_server import Turn, busy, scripted_endpoint
from pydantic import BaseModel, Field

from scail2.data.endpoint.account import Account, Pace, Spent
from scail2.data.endpoint.answers import read_answer
from scail2.data.endpoint.client import Endpoint
from scail2.data.endpoint.failures import (
    AnswerCutError,
    AnswerRefusedError,
    AnswerUnusableError,
    BudgetSpentError,
    EndpointRefusedError,
    EndpointUnreachableError,
)
from scail2.data.endpoint.pictures import encoded_picture
from scail2.data.endpoint.settings import AnswerForm, Budget, EndpointSettings, Prices
from scail2.errors import InputError
from scail2.files.documents import load_toml


class Verdict(BaseModel):
    good: bool
    score: int = Field(ge=0, le=10)
    where: Literal["pose", "scene"] = "pose"


GOOD = {"good": True, "score": 7, "where": "scene"}


def settings(server, **changes) -> EndpointSettings:
    return replace(EndpointSettings(address=server.address, model="eyes", retries=2, timeout=5.0), **changes)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_a_question_arrives_whole_and_its_answer_comes_back_typed():
    picture = noise(20, 30)
    with scripted_endpoint(Turn(GOOD, usage=(120, 8))) as server, Endpoint(settings(server)) as endpoint:
        reply = endpoint.reply("Is this good?", [picture, picture[:10]], Verdict, seed=5)
    assert reply.answer == Verdict(**GOOD)
    assert (reply.form, reply.attempts, reply.prompt_tokens, reply.answer_tokens) == (AnswerForm.JSON_SCHEMA, 1, 120, 8)
    (asked,) = server.asked
    assert asked.path == "/v1/chat/completions"
    assert (asked.body["model"], asked.body["seed"], asked.body["temperature"]) == ("eyes", 5, 0.0)
    assert asked.body["max_tokens"] == 1024
    assert asked.text == "Is this good?"  # the schema is the server's business here
    assert asked.schema["strict"]
    assert asked.schema["schema"]["required"] == ["good", "score", "where"]
    first, second = asked.pictures
    assert np.array_equal(first, picture)
    assert np.array_equal(second, picture[:10])


def test_nothing_goes_out_that_the_user_did_not_name(monkeypatch):
    for name, value in (("API_KEY", "sk-env"), ("ORG_ID", "org-env"), ("PROJECT_ID", "p-env")):
        monkeypatch.setenv(f"OPENAI_{name}", value)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Secret: mine")
    monkeypatch.setenv("JUDGE_KEY", " sk-mine ")
    with scripted_endpoint(Turn(GOOD)) as server:
        with Endpoint(settings(server)) as endpoint:
            endpoint.ask("?", [], Verdict)
        with Endpoint(settings(server, key_variable="JUDGE_KEY")) as endpoint:
            endpoint.ask("?", [], Verdict)
    without, with_key = (asked.headers for asked in server.asked)
    assert "authorization" not in without
    assert with_key["authorization"] == "Bearer sk-mine"
    told = json.dumps([without, with_key])
    assert not [
        word for word in ("sk-env", "org-env", "p-env", "mine}", "x-secret", "stainless-os") if word in told.lower()
    ]


def test_a_redirect_is_told_and_not_followed():
    with scripted_endpoint(Turn(GOOD)) as other, scripted_endpoint() as server:
        server.script = [Turn("gone", status=307, headers={"Location": f"{other.address}/chat/completions"})]
        with (
            Endpoint(settings(server)) as endpoint,
            pytest.raises(EndpointRefusedError, match=r"points to .*127\.0\.0\.1"),
        ):
            endpoint.ask("?", [], Verdict)
        assert other.asked == []


def test_a_busy_or_failing_server_is_asked_again_and_all_of_it_is_counted():
    turns = (busy(429), busy(500), Turn(GOOD, usage=(1000, 500)))
    with scripted_endpoint(*turns) as server:
        asked = settings(server, prices=Prices(prompt=2.0, answer=8.0))
        with Endpoint(asked) as endpoint:
            assert endpoint.ask("?", [], Verdict).score == 7
            spent = endpoint.account.spent
    assert spent == Spent(
        requests=3, answers=1, prompt_tokens=1000, answer_tokens=500, cost=0.006,
        statuses={"200": 1, "429": 1, "500": 1},
    )  # fmt: skip


def test_retry_after_is_obeyed(monkeypatch):
    slept = []
    monkeypatch.setattr("openai._base_client.time.sleep", slept.append)
    turns = (Turn("slow down", status=429, headers={"Retry-After": "7"}), Turn(GOOD))
    with scripted_endpoint(*turns) as server, Endpoint(settings(server)) as endpoint:
        endpoint.ask("?", [], Verdict)
    assert slept == [7.0]


def test_a_server_that_stays_busy_is_unreachable_in_its_own_words_without_the_key(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-mine")
    with scripted_endpoint(busy(429, message="sk-mine has no quota\nleft")) as server:
        asked = settings(server, key_variable="JUDGE_KEY")
        with Endpoint(asked) as endpoint, pytest.raises(EndpointUnreachableError) as failure:
            endpoint.ask("?", [], Verdict)
    assert len(server.asked) == 3
    assert "429" in str(failure.value)
    assert "*** has no quota left" in str(failure.value)
    assert "sk-mine" not in str(failure.value)


@pytest.mark.parametrize("turn", [Turn(GOOD, closes=True), Turn(GOOD, hangs=True)], ids=["breaks off", "never closes"])
def test_a_connection_that_breaks_off_or_never_ends_is_tried_again(turn):
    with scripted_endpoint(turn, Turn(GOOD)) as server, Endpoint(settings(server, timeout=0.2)) as endpoint:
        assert endpoint.ask("?", [], Verdict).good
        assert endpoint.account.spent.requests == 2
    with scripted_endpoint(turn) as server:
        impatient = Endpoint(settings(server, timeout=0.1, retries=0))
        with impatient, pytest.raises(EndpointUnreachableError, match=r"127\.0\.0\.1.*is it running"):
            impatient.ask("?", [], Verdict)


def test_nobody_there_is_said_in_a_sentence():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    nobody = EndpointSettings(address=address, model="m", retries=0)
    with Endpoint(nobody) as endpoint, pytest.raises(EndpointUnreachableError, match="cannot be reached"):
        endpoint.ask("?", [], Verdict)


@pytest.mark.parametrize("status", [400, 422, 501])
def test_a_refused_form_is_given_up_for_good(status):
    def answers(asked):
        refused = {"json_schema": status, "json_object": status}.get(asked.form)
        return Turn("response_format?", status=refused) if refused else Turn(f"Well:\n```json\n{json.dumps(GOOD)}\n```")

    with scripted_endpoint(answers=answers) as server, Endpoint(settings(server, retries=0)) as endpoint:
        assert endpoint.ask("Is it?", [noise(4, 4)], Verdict).score == 7
        assert endpoint.form is AnswerForm.PROMPT
        assert endpoint.ask("And this?", [], Verdict).score == 7
    assert server.forms == ["json_schema", "json_object", "prompt", "prompt"]
    assert '"maximum": 10' in server.asked[-1].text  # the prompt says what the server does not


def test_a_server_that_fails_at_schemas_is_asked_in_another_form():
    def answers(asked):
        return busy(500) if asked.form == "json_schema" else Turn(GOOD)

    with scripted_endpoint(answers=answers) as server, Endpoint(settings(server, retries=1)) as endpoint:
        endpoint.ask("?", [], Verdict)
        endpoint.ask("?", [], Verdict)
    assert server.forms == ["json_schema", "json_schema", "json_object", "json_object"]


def test_a_request_that_no_form_helps_is_refused_and_the_form_is_not_blamed():
    with scripted_endpoint(Turn("context too long", status=400)) as server, Endpoint(settings(server)) as endpoint:
        with pytest.raises(EndpointRefusedError, match=r"400: .*context too long"):
            endpoint.ask("?", [], Verdict)
        assert endpoint.form is AnswerForm.JSON_SCHEMA
    with scripted_endpoint(Turn("no such key", status=401)) as server, Endpoint(settings(server)) as endpoint:
        with pytest.raises(EndpointRefusedError, match="refuses the key"):
            endpoint.ask("?", [], Verdict)
        assert len(server.asked) == 1


def test_garbage_is_sent_back_with_the_reason_until_it_fits():
    turns = (Turn("It is good."), Turn({"good": True, "score": 70}), Turn(GOOD))
    with scripted_endpoint(*turns) as server, Endpoint(settings(server)) as endpoint:
        reply = endpoint.reply("?", [], Verdict)
    assert (reply.answer.score, reply.attempts, reply.prompt_tokens) == (7, 3, 300)
    last = server.asked[-1].body["messages"]
    assert [message["role"] for message in last] == ["user", "assistant", "user", "assistant", "user"]
    assert "no JSON object" in last[2]["content"]
    assert "score" in last[4]["content"]


def test_garbage_for_ever_is_no_answer_and_a_form_that_worked_stays():
    junk = [Turn("<html>"), Turn(raw=b"not even JSON"), Turn(None), Turn({"good": "perhaps"})]
    with scripted_endpoint(Turn(GOOD), *junk) as server, Endpoint(settings(server, attempts=4)) as endpoint:
        endpoint.ask("?", [], Verdict)
        with pytest.raises(AnswerUnusableError, match="4 attempts"):
            endpoint.ask("?", [], Verdict)
        assert endpoint.form is AnswerForm.JSON_SCHEMA
    assert set(server.forms) == {"json_schema"}


def test_a_server_that_overlooks_the_schema_is_told_it_in_the_prompt():
    def answers(asked):
        return Turn(GOOD) if "JSON schema" in asked.text else Turn("Looks fine to me!")

    with scripted_endpoint(answers=answers) as server, Endpoint(settings(server, attempts=1)) as endpoint:
        assert endpoint.ask("?", [], Verdict).good
        assert endpoint.ask("?", [], Verdict).good
    assert server.forms == ["json_schema", "json_object", "json_object"]


def test_a_cut_answer_gets_more_room_and_is_no_answer_when_that_does_not_help():
    cut = Turn('{"good": tr', finish="length")
    with scripted_endpoint(cut, Turn(GOOD), cut) as server, Endpoint(settings(server, answer_tokens=50)) as endpoint:
        assert endpoint.ask("?", [], Verdict).good
        with pytest.raises(AnswerCutError, match="200 tokens"):
            endpoint.ask("?", [], Verdict)
    assert [asked.body["max_tokens"] for asked in server.asked] == [50, 100, 50, 100, 200]


@pytest.mark.parametrize("turn", [Turn(refusal="I cannot help with that."), Turn("", finish="content_filter")])
def test_a_refusal_is_not_argued_with(turn):
    with scripted_endpoint(turn) as server, Endpoint(settings(server)) as endpoint:
        with pytest.raises(AnswerRefusedError, match="declines"):
            endpoint.ask("?", [], Verdict)
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("budget", "asked"),
    [(Budget(requests=2), 2), (Budget(tokens=220), 2), (Budget(cost=0.25), 3), (Budget(), 5)],
)
def test_a_budget_ends_the_questions(budget, asked):
    with scripted_endpoint(Turn(GOOD, usage=(100, 10))) as server:
        wanted = settings(server, budget=budget, prices=Prices(prompt=1000.0))
        with Endpoint(wanted) as endpoint:
            for _ in range(asked):
                endpoint.ask("?", [], Verdict)
            if budget != Budget():
                with pytest.raises(BudgetSpentError, match="raise budget"):
                    endpoint.ask("?", [], Verdict)
    assert len(server.asked) == asked


def test_a_budget_holds_over_processes_and_for_servers_that_count_nothing():
    with scripted_endpoint(Turn(GOOD, usage=None)) as server:
        wanted = settings(server, budget=Budget(tokens=2500))
        with Endpoint(wanted) as endpoint:
            endpoint.ask("x" * 300, [noise(8, 8), noise(8, 8)], Verdict)
            spent = endpoint.account.spent
        assert 2100 <= spent.estimated_tokens == spent.tokens <= 2150
        with Endpoint(wanted, Account(replace(spent, prompt_tokens=2500))) as endpoint, pytest.raises(BudgetSpentError):
            endpoint.ask("?", [], Verdict)


@pytest.mark.parametrize("usage", [(None, 8), (-(10**9), 8), (10**31, 8), ("12", 8), (True, 8), (1.5, 8)], ids=str)
def test_counts_that_are_none_are_estimated_and_cost_no_answer(usage):
    with scripted_endpoint(Turn(GOOD, usage=usage)) as server, Endpoint(settings(server)) as endpoint:
        endpoint.ask("x" * 300, [], Verdict)
        assert len(server.asked) == 1
        spent = endpoint.account.spent
        assert 0 < spent.tokens == spent.estimated_tokens < 1000


def test_an_answer_in_parts_is_put_together():
    told = json.dumps(GOOD)
    parts = [{"type": "text", "text": told[:5]}, {"type": "text", "text": told[5:]}]
    message = {"choices": [{"message": {"role": "assistant", "content": parts}, "finish_reason": "stop", "index": 0}]}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", **message}
    with scripted_endpoint(Turn(raw=json.dumps(body).encode())) as server, Endpoint(settings(server)) as endpoint:
        assert endpoint.ask("?", [], Verdict) == Verdict(**GOOD)
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("budget", "asked"), [(Budget(requests=7), 7), (Budget(tokens=661), 7), (Budget(cost=0.65), 7), (Budget(), 20)]
)
def test_processes_that_share_an_account_share_its_budget(budget, asked, tmp_path):
    """Two at once, then a third one after them."""
    forked = multiprocessing.get_context("fork")
    with scripted_endpoint(Turn(GOOD, usage=(100, 10))) as server:
        wanted = settings(server, budget=budget, prices=Prices(prompt=1000.0))

        def ask_on(questions=10):
            with Endpoint(wanted, Account(file=tmp_path / "journal" / "spent.json")) as endpoint:
                with suppress(BudgetSpentError):
                    for _ in range(questions):
                        endpoint.ask("?", [], Verdict)
                os._exit(0)

        crew = [forked.Process(target=ask_on) for _ in range(2)]
        for process in crew:
            process.start()
        for process in crew:
            process.join()
        assert [process.exitcode for process in crew] == [0, 0]
        # Where requests are counted none is too many; of what is only known by its answer, one may be under way.
        under_way = 0 if budget.tokens is None and budget.cost is None else 1
        assert asked <= len(server.asked) <= asked + under_way
        account = Account(file=tmp_path / "journal" / "spent.json")
        answers = len(server.asked)
        assert account.spent == Spent(
            requests=answers, answers=answers, prompt_tokens=100 * answers, answer_tokens=10 * answers,
            cost=pytest.approx(0.1 * answers), statuses={"200": answers},
        )  # fmt: skip
        if budget != Budget():
            with Endpoint(wanted, account) as endpoint, pytest.raises(BudgetSpentError, match="raise budget"):
                endpoint.ask("?", [], Verdict)
            raised = Budget(requests=100, tokens=10**6, cost=50.0)
            with Endpoint(replace(wanted, budget=raised), account) as endpoint:
                endpoint.ask("?", [], Verdict)
            assert account.spent.requests == answers + 1
        assert [path.name for path in (tmp_path / "journal").iterdir()] == ["spent.json"]


def test_what_is_no_account_is_refused_before_anything_is_asked(tmp_path):
    (tmp_path / "spent.json").write_text('{"spent": {"cost": "much"}}')
    account = Account(file=tmp_path / "spent.json")
    with scripted_endpoint(Turn(GOOD)) as server, Endpoint(settings(server), account) as endpoint:
        with pytest.raises(InputError, match=r"spent\.json.*cost"):
            endpoint.ask("?", [], Verdict)
        assert server.asked == []


def test_those_who_share_an_account_take_turns(tmp_path):
    """Each has the next turn after the other's; a turn beyond belief was taken before a clock was set back."""
    now, slept = [100.0], []
    paces = [
        Pace(30, Account(file=tmp_path / "spent.json"), clock=lambda: now[0], sleep=slept.append) for _ in range(2)
    ]
    for each in (*paces, *paces):
        each.wait()
    assert slept == [2.0, 4.0, 6.0]
    now[0] -= 2 * 1001
    paces[0].wait()
    assert len(slept) == 3


def test_requests_are_spaced():
    now, slept = [100.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    pace = Pace(30, clock=lambda: now[0], sleep=sleep)
    for _ in range(3):
        pace.wait()
    now[0] += 10
    pace.wait()
    assert slept == [2.0, 2.0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('<think>{"good": false, "score": 1}</think>{"good": true, "score": 2}', 2),
        ('{"example": 1} is the shape, so: {"good": true, "score": 3} {"note": "done"}', 3),
        ('{"good": true, "score": 4}\n{', 4),
        ("{" * 10_000, None),
        ('<think>{"good": true, "score": 5}', None),
        ('[{"good": true, "score": 6}]', 6),
    ],
)
def test_json_is_found_wherever_the_model_put_it(text, expected):
    if expected is None:
        with pytest.raises(ValueError, match="no JSON object"):
            read_answer(text, Verdict)
    else:
        assert read_answer(text, Verdict).score == expected


def test_pictures_keep_within_their_limits():
    flat = np.full((300, 600, 3), 99, np.uint8)
    kind, content = encoded_picture(flat, side=150, size=100_000)
    assert kind == "image/png"
    assert content[16:24] == (150).to_bytes(4, "big") + (75).to_bytes(4, "big")  # width, height in a PNG's header
    kind, content = encoded_picture(noise(200, 200), side=1024, size=60_000)
    assert (kind, len(content) <= 60_000) == ("image/jpeg", True)
    kind, content = encoded_picture(noise(200, 200), side=1024, size=1500)
    assert len(content) <= 1500
    with pytest.raises(InputError, match="uint8"):
        encoded_picture(noise(4, 4)[..., 0], 10, 10)
    with scripted_endpoint(Turn(GOOD)) as server, Endpoint(settings(server, pictures=1)) as endpoint:
        with pytest.raises(InputError, match="2 pictures are more"):
            endpoint.ask("?", [flat, flat], Verdict)
        assert server.asked == []


def test_settings_are_read_from_a_file_and_mistakes_are_named(tmp_path):
    path = tmp_path / "endpoint.toml"
    path.write_text(
        'address = "http://127.0.0.1:8000/v1"\nmodel = "m"\nforms = ["prompt"]\n[prices]\nprompt = 1.5\n[budget]\ncost = 2'
    )
    told = load_toml(path, EndpointSettings)
    assert (told.forms, told.budget.cost, told.prices.of(2_000_000, 5)) == ((AnswerForm.PROMPT,), 2.0, 3.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"address": "localhost:8000"}, "looks like"),
        ({"address": "http://u:p@host/v1"}, "key_variable"),
        ({"address": "http://host:99999/v1"}, "looks like"),
        ({"model": ""}, "name of a model"),
        ({"budget": Budget(cost=1.0)}, "needs prices"),
        ({"forms": ()}, "forms"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        replace(EndpointSettings(address="http://127.0.0.1/v1", model="m"), **changes)


def test_a_key_that_is_not_there_is_missed_at_once(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(InputError, match="JUDGE_KEY, which is not set"):
        Endpoint(EndpointSettings(address="http://127.0.0.1/v1", model="m", key_variable="JUDGE_KEY"))
