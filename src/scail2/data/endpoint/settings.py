"""Which endpoint is asked, and how much it may be asked: plain data that a TOML file holds and a process can be handed."""

import os
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Literal
from urllib.parse import urlsplit

from scail2.errors import InputError, short
from scail2.files.documents import Between


class AnswerForm(StrEnum):
    """How an answer's shape is asked for, from the surest way to the one that every server understands."""

    JSON_SCHEMA = "json_schema"  # the server holds the model to the schema
    JSON_OBJECT = "json_object"  # the server holds the model to JSON, the prompt says which
    PROMPT = "prompt"  # only the prompt says so


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Money for a million tokens, in one currency of the user's choice."""

    prompt: Annotated[float, Between(0, 1e6)] = 0.0
    answer: Annotated[float, Between(0, 1e6)] = 0.0

    def of(self, prompt_tokens: int, answer_tokens: int) -> float:
        """Price of one request."""
        return (prompt_tokens * self.prompt + answer_tokens * self.answer) / 1e6


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Ceilings of everything that is asked of one endpoint; None for none.

    Requests that are under way when one is reached are the last. In a synthesis they hold for the folder: for all workers,
    machines and calls together; elsewhere for one call of the command.
    """

    requests: Annotated[int, Between(1, 10**9)] | None = None
    tokens: Annotated[int, Between(1, 10**12)] | None = None
    cost: Annotated[float, Between(0, 1e9)] | None = None


@dataclass(frozen=True, kw_only=True)
class EndpointSettings:
    """An OpenAI-compatible endpoint.

    Attributes:
        address: e.g. ``http://127.0.0.1:8000/v1``; nothing else is ever spoken to, redirects included.
        model: the name by which the endpoint knows it.
        key_variable: environment variable that holds the key; None for an endpoint that wants none. Variables that the
            `openai` client reads by itself are not used.
        timeout: seconds without a byte before a request fails.
        retries: further attempts at a request that met a busy or failing server (429, 5xx, a broken connection).
        attempts: answers asked for in one form until one can be used.
        requests_per_minute: at most so many, evenly spaced, by whoever shares the budget; None for as fast as it goes.
        answer_tokens: length to which an answer may grow; doubled for each answer that was cut.
        token_limit_name: the parameter in which that is told.
        temperature: None leaves it to the server.
        forms: how answers may be asked for, in this order.
        picture_side: longest side in pixels; larger pictures are made smaller.
        picture_bytes: largest encoded picture; PNG up to here, else JPEG of falling quality, then smaller.
        pictures: most pictures in one request.
        prices: for the cost, which a `budget` may bound.
    """

    address: str
    model: str
    key_variable: str | None = None
    timeout: Annotated[float, Between(0.01, 3600)] = 120.0
    retries: Annotated[int, Between(0, 20)] = 4
    attempts: Annotated[int, Between(1, 10)] = 3
    requests_per_minute: Annotated[float, Between(0.01, 1e6)] | None = None
    answer_tokens: Annotated[int, Between(1, 10**6)] = 1024
    token_limit_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: Annotated[float, Between(0, 2)] | None = 0.0
    forms: tuple[AnswerForm, ...] = tuple(AnswerForm)
    picture_side: Annotated[int, Between(16, 16384)] = 1024
    picture_bytes: Annotated[int, Between(1024, 10**8)] = 2_000_000
    pictures: Annotated[int, Between(1, 1000)] = 8
    prices: Prices = field(default_factory=Prices)
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.address)
            fine = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            fine = False
        if not fine:
            raise InputError(f"An endpoint's address looks like http://127.0.0.1:8000/v1, not {short(self.address)}.")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise InputError(
                "An endpoint's address holds no user, password or query: name the environment variable that holds the key as "
                "key_variable."
            )
        if not self.model:
            raise InputError(f"The endpoint {self.address} needs the name of a model.")
        if not self.forms or len(set(self.forms)) != len(self.forms):
            raise InputError(f"An endpoint's forms of answers are some of {', '.join(AnswerForm)}, each once.")
        if self.budget.cost is not None and not (self.prices.prompt or self.prices.answer):
            raise InputError(f"A budget of cost for {self.address} needs prices for a million tokens (prompt, answer).")

    def key(self) -> str | None:
        """The key from the environment, None for an endpoint that wants none.

        Raises:
            InputError: the variable is not set.
        """
        if self.key_variable is None:
            return None
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise InputError(
                f"The key for {self.address} is to be in the environment variable {self.key_variable}, which is not set."
            )
        return key
