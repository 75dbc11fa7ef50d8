"""Documents from anybody: decoded into types, or refused in a sentence that names the file and the key."""

import json
import os
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from scail2.errors import InputError, short
from scail2.files.documents import Between, DocumentError, decode, load_json, load_toml, parse_json


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Member:
    name: str
    place: tuple[int, int]
    rate: Fraction = Fraction(16)


@dataclass(frozen=True)
class Listing:
    version: Literal[1]
    members: tuple[Member, ...]
    shares: dict[str, float]
    colour: Colour = Colour.RED
    folder: Path | None = None
    steps: Annotated[int, Between(1, 1000)] = 30
    title: str | int = ""

    def __post_init__(self):
        if self.title == "forbidden":
            raise InputError("the title is taken.")


GOOD = {
    "version": 1,
    "members": [{"name": "a", "place": [3, 4], "rate": "30000/1001"}, {"name": "b", "place": [0, 1]}],
    "shares": {"one": 1, "half": 0.5},
    "colour": "blue",
    "folder": "somewhere",
    "title": 7,
}


def test_a_document_becomes_what_was_asked_for(tmp_path):
    path = tmp_path / "good.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())  # some editors begin files with a byte-order mark
    listing = load_json(path, Listing)
    assert listing == Listing(
        version=1,
        members=(Member("a", (3, 4), Fraction(30000, 1001)), Member("b", (0, 1))),
        shares={"one": 1.0, "half": 0.5},
        colour=Colour.BLUE,
        folder=Path("somewhere"),
        title=7,
    )
    assert isinstance(listing.shares["one"], float)


WRONG_VALUES = [
    ({"version": 2}, "'version' must be one of 1, not 2"),
    ({"version": True}, "'version' must be one of 1, not True"),
    ({"members": {"a": 1}}, "'members' must be a list"),
    ({"members": [7]}, r"'members\[0\]' must be a table, not 7"),
    ({"members": [{"place": [1, 2]}]}, r"'members\[0\].name' is missing"),
    ({"members": [{"name": "a", "place": [1]}]}, r"'members\[0\].place' must have 2 entries, not 1"),
    ({"members": [{"name": "a", "place": [1, 2.5]}]}, r"'members\[0\].place\[1\]' must be a whole number, not 2.5"),
    ({"members": [{"name": "a", "place": [1, 2], "rate": "1/0"}]}, r"rate' must be a fraction"),
    ({"members": [{"name": "a", "place": [1, 2], "rate": "9" * 5000}]}, r"rate' must be a fraction"),
    ({"shares": {"one": "1"}}, "'shares.one' must be a number, not '1'"),
    ({"shares": {"one": True}}, "'shares.one' must be a number, not True"),
    ({"shares": []}, "'shares' must be a table"),
    ({"colour": ["red"]}, "'colour' must be one of red, blue, not "),
    ({"colour": {}}, "'colour' must be one of red, blue"),
    ({"folder": 3}, "'folder' must be a path, not 3"),
    ({"folder": "a\0b"}, "'folder' must be a path"),
    ({"steps": 0}, "'steps': must be from 1 to 1000, not 0"),
    ({"title": 1.5}, "'title' must be text or a whole number, not 1.5"),
    ({"title": "forbidden"}, "the title is taken"),
    ({"extra": 1}, "'extra' is a key that has no meaning here"),
]


@pytest.mark.parametrize(("change", "told"), WRONG_VALUES, ids=[str(change)[:40] for change, _ in WRONG_VALUES])
def test_wrong_values_are_named_with_file_and_key(tmp_path, change, told):
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(DocumentError, match=told) as refused:
        load_json(path, Listing)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


HOSTILE_JSON = [
    (b"[" * 100_000, "nested deeper than 64"),
    (b"[" * 65 + b"]" * 65, "nested deeper than 64"),
    (b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested deeper than 64"),
    (b"9" * 5000, "integer of 5000 digits"),
    (b'{"a": {"b": [1, 36893488147419103232]}}', r"'a.b\[1\]' is an integer of more than 64 bits"),
    (b'{"a": NaN}', "NaN is no number"),
    (b'{"a": -Infinity}', "-Infinity is no number"),
    (b'{"a": 1e999}', "'a' is inf"),
    (b'{"a": 1, "a": 2}', "the key 'a' is given twice"),
    (b"\xff\xfe{\x00}\x00", "UTF-16"),
    (b'{"a": "\xff"}', "not text in UTF-8"),
    (b"", "not JSON"),
    (b"{} {}", "not JSON"),
    (b"\0" * 100, "not JSON"),
]


@pytest.mark.parametrize(("content", "told"), HOSTILE_JSON, ids=[told for _, told in HOSTILE_JSON])
def test_hostile_json_is_refused_whatever_is_asked_for(content, told):
    with pytest.raises(DocumentError, match=told):
        parse_json(content, Any, "somewhere.json")


def test_nesting_up_to_the_limit_and_measures_that_are_no_numbers_are_read():
    value = parse_json(b"[" * 64 + b"]" * 64, list, "deep")
    assert str(value) == "[" * 64 + "]" * 64
    assert parse_json('{"a": Infinity}', dict[str, float], "measures", nonfinite=True) == {"a": float("inf")}


HOSTILE_TOML = [
    (f"seed = {'9' * 5000}", "number that cannot be read"),
    (f"seed = 0x{'f' * 5000}", "'seed' is an integer of more than 64 bits"),
    (f"a = {'[' * 5000}{']' * 5000}", "nested deeper than 64"),
    (f"{'.'.join('a' * 200)} = 1", "nested deeper than 64"),
    ("a = nan", "'a' is nan"),
    ("a = 1\na = 2", "not TOML"),
    ("a = 1979-05-27", "'a' must be a whole number"),
]


@pytest.mark.parametrize(("content", "told"), HOSTILE_TOML, ids=[told for _, told in HOSTILE_TOML])
def test_hostile_toml_is_refused(tmp_path, content, told):
    path = tmp_path / "settings.toml"
    path.write_text(content)
    with pytest.raises(DocumentError, match=told) as refused:
        load_toml(path, dict[str, int])
    assert len(str(refused.value)) < 400


def test_toml_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "bom.toml"
    path.write_bytes(b"\xef\xbb\xbfsteps = 4\n")
    assert load_toml(path, dict[str, int]) == {"steps": 4}


def test_what_cannot_be_read_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_json(tmp_path / "absent.json", Any)
    with pytest.raises(IsADirectoryError):
        load_json(tmp_path, Any)


def test_pipes_and_devices_are_refused_without_waiting_for_them(tmp_path):
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    device = tmp_path / "device.json"
    device.symlink_to("/dev/zero")
    for path in (pipe, device):
        with pytest.raises(DocumentError, match="not a regular file"):
            load_json(path, Any)


def test_the_size_of_documents_is_limited_and_the_limit_can_be_raised(tmp_path, monkeypatch):
    path = tmp_path / "long.json"
    path.write_text(json.dumps(list(range(1000))))
    monkeypatch.setenv("SCAIL2_MAX_DOCUMENT_BYTES", "1000")
    with pytest.raises(
        InputError, match=r"long.json: 4,890 bytes are more than the 1,000 allowed.*SCAIL2_MAX_DOCUMENT"
    ):
        load_json(path, Any)
    monkeypatch.setenv("SCAIL2_MAX_DOCUMENT_BYTES", "4890")
    assert load_json(path, list[int]) == list(range(1000))
    monkeypatch.setenv("SCAIL2_MAX_DOCUMENT_BYTES", "-1")
    with pytest.raises(InputError, match="must be a positive whole number"):
        load_json(path, Any)


def test_values_that_are_parsed_already_are_checked_alike():
    assert decode({1: 2.0, 2: 3}, dict[int, float], "state.pt") == {1: 2.0, 2: 3.0}
    with pytest.raises(DocumentError, match="the key 'a' of 'groups' must be a whole number"):
        decode({"a": 1}, dict[int, int], "state.pt", "groups")
    assert len(short("x" * 10**6)) < 100
    assert short([10**5000]) == "[an integer of more than 64 bits]"
