"""JSON and TOML from anybody, decoded into types or refused in one sentence that names the file and the key.

`json` and `tomllib` accept more than a program can bear: nesting that overflows the stack, integers that no C number
holds, NaN, keys given twice, values of another type than is meant. Whatever is read here is bounded, finite and of the
type asked for. Files that cannot be read at all raise the operating system's `OSError`, unchanged: a file that cannot
be read is not a damaged one.
"""

import dataclasses
import errno
import json
import math
import os
import stat
import tomllib
import types
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints, overload

from scail2.errors import MAX_INTEGER, InputError, short
from scail2.files.limits import DOCUMENT_BYTES

T = TypeVar("T")

MAX_NESTING = 64
_INTEGER_DIGITS = 20
_CONTAINERS = (Mapping, list, tuple)


class DocumentError(InputError):
    """A file that was read but does not hold what it must: the sentence names the file and the key."""


@dataclass(frozen=True, slots=True)
class Between:
    """Bounds (inclusive) of a number or of a text's or list's length: ``Annotated[int, Between(0, 10)]``."""

    low: float
    high: float


def load_json(path: str | Path, kind: type[T], *, nonfinite: bool = False, unknown: bool = False) -> T:
    """The content of a JSON file as ``kind``.

    Args:
        path: a regular file in UTF-8, with or without a byte-order mark.
        kind: what it must be: a dataclass, ``dict[str, float]``, ``list[Entry]``, `Any` …; see `decode`.
        nonfinite: whether NaN and Infinity are numbers here (measures may be; settings may not).
        unknown: whether keys that a dataclass does not have are passed over instead of refused.

    Raises:
        DocumentError: it is not JSON, or not of this kind.
        OSError: it cannot be read.
    """
    return parse_json(read_document(path), kind, path, nonfinite=nonfinite, unknown=unknown)


def parse_json(
    content: bytes | str, kind: type[T], where: str | Path, *, nonfinite: bool = False, unknown: bool = False
) -> T:
    """`load_json` for content that is in memory already; ``where`` says what it is, for the error."""
    text = content if isinstance(content, str) else _text(content, where)
    try:
        value = json.loads(
            text,
            object_pairs_hook=lambda pairs: _without_repeats(pairs, where),
            parse_int=lambda digits: _integer(digits, where),
            parse_constant=float if nonfinite else lambda word: _refuse(where, f"{word} is no number to work with"),
        )
    except RecursionError:
        _refuse(where, f"it is nested deeper than {MAX_NESTING} levels")
    except json.JSONDecodeError as error:
        _refuse(where, f"it is not JSON: {error}")
    return decode(value, kind, where, nonfinite=nonfinite, unknown=unknown)


def load_toml(path: str | Path, kind: type[T]) -> T:
    """The content of a TOML file as ``kind``; see `load_json`."""
    text = _text(read_document(path), path)
    try:
        value = tomllib.loads(text)
    except RecursionError:
        _refuse(path, f"it is nested deeper than {MAX_NESTING} levels")
    except tomllib.TOMLDecodeError as error:
        _refuse(path, f"it is not TOML: {error}")
    except ValueError as error:  # Python refuses decimal integers of more than 4300 digits
        _refuse(path, f"it holds a number that cannot be read: {error}")
    return decode(value, kind, path)


def read_document(path: str | Path) -> bytes:
    """The bytes of a regular file that is not larger than documents are; never waits for a pipe or reads a device."""
    if os.path.isdir(path):  # which can be opened, but not as a file
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            _refuse(path, "it is not a regular file")
        DOCUMENT_BYTES.check(facts.st_size, str(path))
        content = file.read(DOCUMENT_BYTES.value + 1)
    DOCUMENT_BYTES.check(len(content), str(path))  # files that grow, and those that state no size (/proc)
    return content


@overload
def decode(
    value: Any, kind: type[T], where: str | Path, key: str = "", *, nonfinite: bool = False, unknown: bool = False
) -> T: ...


@overload
def decode(
    value: Any, kind: Any, where: str | Path, key: str = "", *, nonfinite: bool = False, unknown: bool = False
) -> Any: ...


def decode(
    value: Any, kind: Any, where: str | Path, key: str = "", *, nonfinite: bool = False, unknown: bool = False
) -> Any:
    """A parsed value (JSON, TOML, a pickle of weights) as ``kind``, or `DocumentError` naming file and key.

    Kinds: dataclasses (fields with defaults may be absent; unknown keys are refused unless ``unknown``), ``bool``,
    ``int``, ``float`` (whole numbers count), ``str``, `Path`, `Fraction` ("30000/1001"), enumerations by value,
    ``Literal``, ``list[T]``, ``tuple[T, ...]``, ``tuple[A, B]``, ``dict[K, T]`` with text or other plain keys,
    unions, ``None``, ``Annotated[T, Between(low, high)]``, any other class by ``isinstance``, and `Any`, which is still
    bounded: nesting to 64 levels, integers to 64 bits, finite numbers.
    """
    _check_bounds(value, where, key, nonfinite)
    return _Decoder(where, unknown).decode(value, kind, key)


def _refuse(where: str | Path, reason: str) -> NoReturn:
    raise DocumentError(f"{where} cannot be used: {reason}.") from None


def _text(content: bytes, where: str | Path) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        _refuse(where, "it is written in UTF-16; save it as UTF-8")
    try:
        # Names of files that are not UTF-8 are kept as surrogates in what the program itself writes.
        return content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        _refuse(where, f"it is not text in UTF-8 (byte {error.start})")


def _integer(digits: str, where: str | Path) -> int:
    if len(digits) > _INTEGER_DIGITS + 1:
        _refuse(where, f"an integer of {len(digits.lstrip('-'))} digits is more than 64 bits hold")
    return int(digits)


def _without_repeats(pairs: list[tuple[str, Any]], where: str | Path) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        _refuse(where, f"the key {short(twice)} is given twice")
    return made


def _check_bounds(value: Any, where: str | Path, key: str, nonfinite: bool) -> None:
    """Walks the value without recursion: nothing in it is too deep, too large or not a number."""
    waiting: list[tuple[Any, Any, int]] = [(value, key, 1)]
    while waiting:
        each, at, depth = waiting.pop()
        if isinstance(each, _CONTAINERS):
            if depth > MAX_NESTING:
                _refuse(where, f"it is nested deeper than {MAX_NESTING} levels")
            inner = each.items() if isinstance(each, Mapping) else enumerate(each)
            # Of long lists of numbers only the wrong ones are kept.
            waiting += [(item, (at, name), depth + 1) for name, item in inner if not _is_plain(item)]
        elif isinstance(each, int) and abs(each) > MAX_INTEGER:
            _refuse(where, f"{_named(_flat(at))} is an integer of more than 64 bits")
        elif isinstance(each, float) and not nonfinite and not math.isfinite(each):
            _refuse(where, f"{_named(_flat(at))} is {each}, which is no number to work with")


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind is int:
        return -MAX_INTEGER <= value <= MAX_INTEGER
    return (kind is float and math.isfinite(value)) or kind is str or kind is bool or value is None


def _flat(at: Any) -> str:
    """The key path of a place that `_check_bounds` noted as nested pairs."""
    names: list[Any] = []
    while isinstance(at, tuple):
        at, name = at
        names.append(name)
    path = at
    for name in reversed(names):
        path = _joined(path, name)
    return path


def _joined(path: str, name: Any) -> str:
    if isinstance(name, int):
        return f"{path}[{name}]"
    return f"{path}.{name}" if path else str(name)


def _named(path: str) -> str:
    return f"'{path if len(path) <= 120 else path[:117] + '…'}'" if path else "its content"


_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    Fraction: "a fraction such as 30000/1001",
    type(None): "empty",
    dict: "a table",
    list: "a list",
    tuple: "a list",
}


def _words(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Annotated:
        return _words(get_args(kind)[0])
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if origin in (Union, types.UnionType):
        return " or ".join(_words(each) for each in get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "one of " + ", ".join(str(each.value) for each in kind)
    if dataclasses.is_dataclass(kind) or origin in (dict, Mapping):
        return "a table"
    return _WORDS.get(origin or kind) or ("a list" if origin is Sequence else f"a {getattr(kind, '__name__', kind)}")


@dataclass(frozen=True, slots=True)
class _Decoder:
    where: str | Path
    unknown: bool

    def decode(self, value: Any, kind: Any, key: str) -> Any:
        if kind is Any or kind is object:
            return value
        origin = get_origin(kind)
        if origin is Annotated:
            return self._bounded(value, kind, key)
        if origin in (Union, types.UnionType):
            return self._either(value, kind, key)
        if origin is Literal:
            choices = [each for each in get_args(kind) if type(each) is type(value) and each == value]
            return choices[0] if choices else self._wrong(value, kind, key)
        if origin in (list, Sequence, tuple) or kind in (list, tuple):
            return self._list(value, kind, key)
        if origin in (dict, Mapping) or kind in (dict, Mapping):
            return self._table(value, kind, key)
        if isinstance(kind, type) and issubclass(kind, Enum):
            match = [each for each in kind if type(value) in (str, int) and each.value == value]
            return match[0] if match else self._wrong(value, kind, key)
        if dataclasses.is_dataclass(kind):
            return self._record(value, kind, key)
        return self._plain(value, kind, key)

    def _wrong(self, value: Any, kind: Any, key: str) -> Any:
        _refuse(self.where, f"{_named(key)} must be {_words(kind)}, not {short(value)}")

    def _plain(self, value: Any, kind: Any, key: str) -> Any:
        if kind is None or kind is type(None):
            return value if value is None else self._wrong(value, type(None), key)
        if kind is float and type(value) in (int, float):
            return float(value)
        if kind in (bool, int, str):
            return value if type(value) is kind else self._wrong(value, kind, key)
        if kind in (Path, Fraction):
            return self._from_text(value, kind, key)
        return value if isinstance(value, kind) else self._wrong(value, kind, key)

    def _from_text(self, value: Any, kind: Callable[[str], Any], key: str) -> Any:
        # Past a few dozen characters a fraction is an attack on the arithmetic, and no path holds a zero byte.
        if type(value) is not str or "\0" in value or (kind is Fraction and len(value) > 2 * _INTEGER_DIGITS):
            self._wrong(value, kind, key)
        try:
            return kind(value)
        except (ValueError, ZeroDivisionError):
            return self._wrong(value, kind, key)

    def _bounded(self, value: Any, kind: Any, key: str) -> Any:
        inner, *notes = get_args(kind)
        made = self.decode(value, inner, key)
        for bounds in (note for note in notes if isinstance(note, Between)):
            counted = made if isinstance(made, int | float | Fraction) else None if made is None else len(made)
            if counted is not None and not bounds.low <= counted <= bounds.high:
                what = "" if counted is made else "its length "
                low, high = (int(each) if each == int(each) else f"{each:g}" for each in (bounds.low, bounds.high))
                span = f"from {low} to {high}"
                _refuse(self.where, f"{_named(key)}: {what}must be {span}, not {short(counted)}")
        return made

    def _either(self, value: Any, kind: Any, key: str) -> Any:
        choices = get_args(kind)
        if value is None and type(None) in choices:
            return None
        rest = [each for each in choices if each is not type(None)]
        if len(rest) == 1:
            return self.decode(value, rest[0], key)
        for each in rest:
            try:
                return self.decode(value, each, key)
            except DocumentError:
                continue
        return self._wrong(value, kind, key)

    def _list(self, value: Any, kind: Any, key: str) -> Any:
        if not isinstance(value, list | tuple):
            self._wrong(value, kind, key)
        container = tuple if tuple in (kind, get_origin(kind)) else list
        inner = get_args(kind)
        if container is tuple and inner and inner[-1] is not Ellipsis:
            if len(value) != len(inner):
                _refuse(self.where, f"{_named(key)} must have {len(inner)} entries, not {len(value)}")
            pairs = list(zip(value, inner, strict=True))
        else:
            pairs = [(each, inner[0] if inner else Any) for each in value]
        return container(self.decode(each, of, f"{key}[{index}]") for index, (each, of) in enumerate(pairs))

    def _table(self, value: Any, kind: Any, key: str) -> dict[Any, Any]:
        if not isinstance(value, Mapping):
            self._wrong(value, kind, key)
        keys, values = get_args(kind) or (str, Any)
        made = {}
        for name, each in value.items():
            try:
                made_name = self.decode(name, keys, "")
            except DocumentError:
                _refuse(self.where, f"the key {short(name)} of {_named(key)} must be {_words(keys)}")
            made[made_name] = self.decode(each, values, _joined(key, str(name)))
        return made

    def _record(self, value: Any, kind: Any, key: str) -> Any:
        table = self._table(value, dict[str, Any], key)
        fields = {each.name: each for each in dataclasses.fields(kind) if each.init}
        if not self.unknown and (strange := sorted(table.keys() - fields.keys())):
            _refuse(self.where, f"{_named(_joined(key, strange[0]))} is a key that has no meaning here")
        hints = get_type_hints(kind, include_extras=True)
        made = {}
        for name, each in fields.items():
            if name in table:
                made[name] = self.decode(table[name], hints[name], _joined(key, name))
            elif each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
                _refuse(self.where, f"{_named(_joined(key, name))} is missing")
        try:
            return kind(**made)
        except InputError as error:
            raise DocumentError(f"{self.where} cannot be used: {error}") from error
