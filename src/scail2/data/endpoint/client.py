"""`Endpoint`: a question with pictures goes out, a typed answer comes back, and every way it can fail has a type.

Forms of answers are tried from the surest down; a form that the server does not know is remembered, so it is asked for once.
The `openai` client carries requests, repeats those that met a busy or failing server, and obeys ``Retry-After``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self

import numpy as np
import openai
from pydantic import BaseModel, ValidationError, field_validator

from scail2.data.endpoint.account import Account, Pace
from scail2.data.endpoint.answers import Answer, read_answer, shape_in_words
from scail2.data.endpoint.failures import (
    AnswerCutError,
    AnswerRefusedError,
    AnswerUnusableError,
    EndpointRefusedError,
    EndpointUnreachableError,
)
from scail2.data.endpoint.pictures import data_urls
from scail2.data.endpoint.settings import AnswerForm, EndpointSettings
from scail2.errors import InputError, short

if TYPE_CHECKING:
    import httpx2

# What a request needs; what the client adds from environment variables and of this machine stays here.
_HEADERS = frozenset(
    {"host", "accept", "accept-encoding", "authorization", "connection", "content-type", "content-length", "user-agent"}
    | {"x-stainless-raw-response"}  # by which the client knows that the body is wanted as it came
)
_RETRIES = "x-stainless-retry-count"  # in which the client counts how often it sent a request before
# A server that does not know a form says so in one of these ways; some only fail.
_REFUSED_FORM = frozenset({400, 404, 415, 422, 501})
_BYTES_A_TOKEN, _TOKENS_A_PICTURE = 3, 1000
_LONGEST_REASON = 300


@dataclass(frozen=True, kw_only=True)
class Reply(Generic[Answer]):
    """An answer, and what it took.

    Attributes:
        answer: checked.
        text: as the model wrote it.
        form: how it was asked for.
        attempts: completions it took, the unusable ones included.
        prompt_tokens, answer_tokens, cost: of all of those.
    """

    answer: Answer
    text: str
    form: AnswerForm
    attempts: int
    prompt_tokens: int
    answer_tokens: int
    cost: float


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, content: Any) -> Any:
        """Some servers send parts."""
        if not isinstance(content, list):
            return content
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


_MOST_TOKENS = 10**9  # of one answer, if it is true


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(BaseModel):
    """What of a chat completion is needed; servers leave out much of the rest."""

    choices: list[_Choice]
    usage: _Usage | None = None

    @field_validator("usage", mode="before")
    @classmethod
    def _counted(cls, usage: Any) -> Any:
        """None, which is estimated, for counts that are none: servers send null, and worse."""
        if not isinstance(usage, dict) or not usage.keys() & _Usage.model_fields.keys():
            return None
        counts = [usage.get(name, 0) for name in _Usage.model_fields]
        whole = all(isinstance(each, int) and not isinstance(each, bool) for each in counts)
        return usage if whole and all(0 <= each <= _MOST_TOKENS for each in counts) else None


class _FormRefusedError(Exception):
    """The server does not take requests of this form."""


@dataclass
class _Question:
    messages: list[Any]
    kind: type[BaseModel]
    tokens: int
    seed: int | None
    attempts: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    cost: float = 0.0


class Endpoint:
    """Asks one endpoint; several threads may.

    Args:
        settings: which, and how.
        account: where its requests, tokens and cost are summed; several endpoints may share one, and then one budget and one
            pace. Its own by default.

    Raises:
        InputError: the key's variable is not set.
    """

    def __init__(self, settings: EndpointSettings, account: Account | None = None) -> None:
        self.settings = settings
        self.account = account or Account()
        self._key = settings.key()
        self._pace = Pace(settings.requests_per_minute, self.account)
        self._lock = Lock()
        self._first, self._known = 0, False  # the form to begin with, and whether it has worked
        hooks: dict[str, list[Callable[..., Any]]] = {"request": [self._before], "response": [self._after]}
        self._http = openai.DefaultHttpxClient(
            base_url=settings.address, timeout=settings.timeout, follow_redirects=False, event_hooks=hooks
        )
        self._client = openai.OpenAI(
            api_key=self._key or "none",
            base_url=settings.address,
            timeout=settings.timeout,
            max_retries=settings.retries,
            http_client=self._http,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends its connections."""
        self._http.close()

    @property
    def form(self) -> AnswerForm:
        """The form that the next question is asked in first."""
        return self.settings.forms[self._first]

    def ask(
        self, prompt: str, pictures: Sequence[np.ndarray], answer: type[Answer], *, seed: int | None = None
    ) -> Answer:
        """`reply`, without what it took."""
        return self.reply(prompt, pictures, answer, seed=seed).answer

    def reply(
        self, prompt: str, pictures: Sequence[np.ndarray], answer: type[Answer], *, seed: int | None = None
    ) -> Reply[Answer]:
        """The answer to a question.

        Args:
            pictures: each uint8 ``(H, W, 3)``, shown after the text in this order.
            answer: a pydantic model: what an answer must be.
            seed: sent along, for servers that heed it.

        Raises:
            NoAnswerError: this question got none (`AnswerRefusedError`, `AnswerCutError`, `AnswerUnusableError`).
            EndpointUnreachableError, EndpointRefusedError, BudgetSpentError: no question will, for now.
            InputError: more or other pictures than a request may hold.
        """
        if len(pictures) > self.settings.pictures:
            raise InputError(
                f"{len(pictures)} pictures are more than {self.settings.address} may be shown at once "
                f"({self.settings.pictures}): raise `pictures` if the server takes more."
            )
        urls = data_urls(pictures, self.settings.picture_side, self.settings.picture_bytes)
        forms = self.settings.forms[self._first :]
        for form in forms:
            question = self._question(prompt, urls, answer, form, seed)
            try:
                reply = self._in_form(question, answer, form)
            except (_FormRefusedError, AnswerUnusableError) as error:
                # A form that has worked is not given up for one bad answer.
                if form is forms[-1] or (isinstance(error, AnswerUnusableError) and self._known):
                    if isinstance(error, _FormRefusedError):
                        raise EndpointRefusedError(str(error)) from error
                    raise
                continue
            self._worked(form)
            return reply
        raise AssertionError("the last form either answers or raises")

    def _worked(self, form: AnswerForm) -> None:
        with self._lock:
            self._first = max(self._first, self.settings.forms.index(form))
            self._known = True

    def _question(
        self, prompt: str, urls: list[str], kind: type[BaseModel], form: AnswerForm, seed: int | None
    ) -> _Question:
        text = prompt if form is AnswerForm.JSON_SCHEMA else f"{prompt}\n\n{shape_in_words(kind)}"
        content: list[Any] = [{"type": "text", "text": text}]
        content += [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        messages = [{"role": "user", "content": content if urls else text}]
        return _Question(messages, kind, self.settings.answer_tokens, seed)

    def _in_form(self, question: _Question, kind: type[Answer], form: AnswerForm) -> Reply[Answer]:
        reason = ""
        for attempt in range(self.settings.attempts):
            choice = self._complete(question, form)
            question.attempts = attempt + 1
            if choice.message.refusal or choice.finish_reason == "content_filter":
                why = choice.message.refusal or "a filter took the answer away"
                raise AnswerRefusedError(f"{self._who} declines to answer: {short(why)}.")
            text = choice.message.content or ""
            if cut := choice.finish_reason == "length":
                reason = f"cut after {question.tokens} tokens"
                question.tokens *= 2
                continue
            try:
                answer = read_answer(text, kind)
            except ValueError as error:
                reason = str(error)
                question.messages += [
                    {"role": "assistant", "content": text or "(nothing)"},
                    {
                        "role": "user",
                        "content": f"That cannot be used: {reason}. Answer again, with the JSON object only.",
                    },
                ]
                continue
            return Reply(
                answer=answer,
                text=text,
                form=form,
                attempts=question.attempts,
                prompt_tokens=question.prompt_tokens,
                answer_tokens=question.answer_tokens,
                cost=question.cost,
            )
        failure = AnswerCutError if cut else AnswerUnusableError
        raise failure(
            f"{self._who} gave no usable answer in {self.settings.attempts} attempts ({form.value}): {reason}."
        )

    def _complete(self, question: _Question, form: AnswerForm) -> _Choice:
        self.account.admit(self.settings)
        asked: dict[str, Any] = {
            "model": self.settings.model,
            "messages": question.messages,
            self.settings.token_limit_name: question.tokens,
        }
        if self.settings.temperature is not None:
            asked["temperature"] = self.settings.temperature
        if question.seed is not None:
            asked["seed"] = question.seed
        completions = self._client.chat.completions.with_raw_response
        try:
            if form is AnswerForm.JSON_SCHEMA:
                raw = completions.parse(response_format=question.kind, **asked)
            elif form is AnswerForm.JSON_OBJECT:
                raw = completions.create(response_format={"type": "json_object"}, **asked)
            else:
                raw = completions.create(**asked)
        except openai.APIError as error:
            self._explain(error, form)
        return self._read(raw.http_response.content, question)

    def _read(self, content: bytes, question: _Question) -> _Choice:
        try:
            completion = _Completion.model_validate_json(content)
        except ValidationError:
            completion = _Completion(
                choices=[_Choice(message=_Message())]
            )  # a web page, say: an answer without content
        choice = completion.choices[0] if completion.choices else _Choice(message=_Message())
        usage = completion.usage or _estimate(question, choice)
        cost = self.settings.prices.of(usage.prompt_tokens, usage.completion_tokens)
        question.prompt_tokens += usage.prompt_tokens
        question.answer_tokens += usage.completion_tokens
        question.cost += cost
        self.account.add_answer(
            usage.prompt_tokens, usage.completion_tokens, cost=cost, estimated=completion.usage is None
        )
        return choice

    def _explain(self, error: openai.APIError, form: AnswerForm) -> NoReturn:
        if not isinstance(error, openai.APIStatusError):
            kind = "does not answer in time" if isinstance(error, openai.APITimeoutError) else "cannot be reached"
            cause = error.__cause__ or error
            why = self._clean(str(cause)) or type(cause).__name__
            raise EndpointUnreachableError(
                f"{self._who} {kind} ({why}); is it running, and is the address right?"
            ) from error
        status, told = error.status_code, self._clean(error.message)
        last = form is self.settings.forms[-1]
        if status in (401, 403):
            raise EndpointRefusedError(f"{self._who} refuses the key ({status}: {told}).") from error
        if 300 <= status < 400:
            place = error.response.headers.get("location", "elsewhere")
            raise EndpointRefusedError(
                f"{self._who} points to {short(place)}; name that address if it is meant, none is followed unasked."
            ) from error
        if status in _REFUSED_FORM or (status >= 500 and not last and not self._known):
            raise _FormRefusedError(f"{self._who} refuses the request ({status}: {told}).") from error
        if status == 429 or status >= 500:
            raise EndpointUnreachableError(
                f"{self._who} is busy or failing ({status}: {told}), after {self.settings.retries} retries."
            ) from error
        raise EndpointRefusedError(f"{self._who} refuses the request ({status}: {told}).") from error

    @property
    def _who(self) -> str:
        return f"The endpoint {self.settings.address} ({self.settings.model})"

    def _clean(self, text: str) -> str:
        """A server's words for an error message: one line, bounded, without the key."""
        line = " ".join((text.replace(self._key, "***") if self._key else text).split())
        return line if len(line) <= _LONGEST_REASON else line[:_LONGEST_REASON] + "…"

    def _before(self, request: "httpx2.Request") -> None:
        is_retry = request.headers.get(_RETRIES, "0") != "0"
        for name in set(request.headers) - _HEADERS:
            del request.headers[name]
        if self._key is None:
            request.headers.pop("authorization", None)
        self._pace.wait()
        if is_retry:
            self.account.add_retry()

    def _after(self, response: "httpx2.Response") -> None:
        self.account.add_status(response.status_code)


def _estimate(question: _Question, choice: _Choice) -> _Usage:
    """Tokens of a completion that came without a count: a budget must hold for such servers, too."""
    sizes, pictures = 0, 0
    for message in question.messages:
        content = message["content"]
        for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
            pictures += part["type"] == "image_url"
            sizes += len(part.get("text", "").encode())
    answer = len((choice.message.content or "").encode())
    return _Usage(
        prompt_tokens=sizes // _BYTES_A_TOKEN + pictures * _TOKENS_A_PICTURE + 1,
        completion_tokens=answer // _BYTES_A_TOKEN + 1,
    )
