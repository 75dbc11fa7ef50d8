"""From a model's text to a typed answer: the JSON is found wherever the model put it, and checked."""

import json
import re
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

Answer = TypeVar("Answer", bound=BaseModel)

# What reasoning models think aloud is no part of the answer.
_THOUGHTS = re.compile(r"<(think|thinking|reasoning)>.*?(</\1>|\Z)", re.DOTALL | re.IGNORECASE)
# Texts are a few thousand tokens; each opening brace is one attempt at most.
_MAX_OBJECTS = 64


def read_answer(text: str, kind: type[Answer]) -> Answer:
    """The answer in a text: all of it, or the last JSON object in it that fits.

    Raises:
        ValueError: no part of the text is such an answer; one line that says why, fit to be told to the model.
    """
    text = _THOUGHTS.sub("", text).strip()
    reason = "it holds no JSON object"
    for value in reversed(list(_objects(text))):
        try:
            return kind.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            reason = f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"
    raise ValueError(reason)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """JSON objects in a text that lie in no other, in order."""
    decoder, place = json.JSONDecoder(), 0
    for _ in range(_MAX_OBJECTS):
        place = text.find("{", place)
        if place < 0:
            return
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            place += 1
            continue
        yield value


def shape_in_words(kind: type[BaseModel]) -> str:
    """What a prompt says of an answer's shape where the server does not see to it."""
    schema = json.dumps(kind.model_json_schema(), ensure_ascii=False)
    return f"Answer with one JSON object and nothing else. It must fit this JSON schema:\n{schema}"
