"""Films of several systems for the same cases: found by name, judged question by question, answers kept as files."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError
from rich.table import Table

from scail2.errors import InputError
from scail2.evaluation.judging import (
    PROMPTS,
    Asked,
    Comparison,
    Dimension,
    Preference,
    Score,
    ScoreSummary,
    ShownFilm,
    compare_films,
    score_film,
    shown,
    summarise_comparisons,
    summarise_scores,
)
from scail2.files.documents import load_json
from scail2.files.ownership import Kind, is_document
from scail2.files.staging import atomic_file
from scail2.files.storage import hash_file
from scail2.video import VideoReader, read_image

Array = np.ndarray
Answer = TypeVar("Answer", bound=BaseModel)

FILMS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".gif", ".webp")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
REPORT, BEGUN, ANSWERS = "judgement.json", "contest.json", "answers"
JUDGEMENTS = Kind(
    "judgements", f"{BEGUN} of scail2 judge", lambda folder: is_document(folder / BEGUN, {"systems", "judge"})
)
_MOST_FRAMES = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """Systems and their films of the same cases.

    Attributes:
        films: for each system, case → film.
        references: case → reference picture, of the cases that have one.
    """

    films: Mapping[str, Mapping[str, Path]]
    references: Mapping[str, Path]

    @property
    def cases(self) -> list[str]:
        """Names of the cases that every system has."""
        return sorted(set.intersection(*(set(each) for each in self.films.values())))

    @property
    def left_out(self) -> list[str]:
        """Cases that only some of the systems have."""
        return sorted(set.union(*(set(each) for each in self.films.values())) - set(self.cases))

    @property
    def without_reference(self) -> list[str]:
        """Cases that have no reference picture."""
        return [case for case in self.cases if case not in self.references]

    @property
    def inputs(self) -> list[tuple[str, Path]]:
        """Everything that is read, named for messages."""
        found = [(f"film of {system}", film) for system, each in self.films.items() for film in each.values()]
        return found + [("reference", path) for path in self.references.values()]


def find_contest(systems: Mapping[str, Path], references: Path | None = None) -> Contest:
    """The films of folders, one for each system, that have one name for a case.

    Raises:
        InputError: a folder has no films, the systems share no case, or two films of a system have one name.
    """
    films = {name: _by_name(folder, FILMS) for name, folder in systems.items()}
    for name, found in films.items():
        if not found:
            raise InputError(f"{systems[name]} holds no films ({', '.join(FILMS)}).")
    pictures = {} if references is None else _by_name(references, _PICTURES)
    contest = Contest(films=films, references=pictures)
    if not contest.cases:
        raise InputError(
            f"The systems {', '.join(systems)} share no case: films of one case have the same name in every folder."
        )
    if references is not None and (missing := [case for case in contest.cases if case not in pictures]):
        raise InputError(f"{references} has no picture for the case {missing[0]}.")
    return contest


def _by_name(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            if path.stem in found:
                raise InputError(f"{path} and {found[path.stem].name} have one name: which is meant?")
            found[path.stem] = path
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeSettings:
    """How a contest is judged.

    Attributes:
        dimensions: what is asked about.
        repeats: times that each question is asked, each with a seed of its own.
        frames: of a film in one question.
    """

    dimensions: tuple[Dimension, ...] = tuple(Dimension)
    repeats: int = 2
    frames: int = 4


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The outcome: scores of each system by dimension, comparisons of each pair, and who judged."""

    scores: Mapping[str, Mapping[str, ScoreSummary]]
    comparisons: Mapping[tuple[str, str], Mapping[str, Comparison]]
    cases: int
    settings: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """`{"systems": {name: {dimension: {…}}}, "comparisons": [{"system": …, "against": …, dimension: {…}}], …}`."""
        return {
            "systems": {
                name: {dimension: _plain(value) for dimension, value in each.items()}
                for name, each in self.scores.items()
            },
            "comparisons": [
                {"system": one, "against": other, **{dimension: _plain(value) for dimension, value in each.items()}}
                for (one, other), each in self.comparisons.items()
            ],
            "cases": self.cases,
            "settings": dict(self.settings),
        }

    def tables(self) -> Iterator[Table]:
        """Scores, then comparisons."""
        table = Table(title=f"Scores of {self.cases} cases, 1 to 5, with 95 % intervals and the spread of repeats")
        dimensions = list(next(iter(self.scores.values())))
        for name in ("system", *dimensions):
            table.add_column(name.replace("_", " "))
        for system, each in self.scores.items():
            cells = [f"{s.mean.mean:.2f} ({s.mean.low:.2f} … {s.mean.high:.2f}) ±{s.spread:.2f}" for s in each.values()]
            table.add_row(system, *cells)
        yield table
        if not self.comparisons:
            return
        table = Table(title="Win / tie / lose in %, both orders; agreement of the orders")
        for name in ("system", "against", *dimensions):
            table.add_column(name.replace("_", " "))
        for (one, other), by_dimension in self.comparisons.items():
            cells = [
                f"{100 * c.win.mean:.0f} / {100 * c.tie.mean:.0f} / {100 * c.lose.mean:.0f}; {100 * c.agreement:.0f} %"
                for c in by_dimension.values()
            ]
            table.add_row(one, other, *cells)
        yield table


def _plain(value: ScoreSummary | Comparison) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(value)), parse_constant=lambda _: None)


def judge_contest(
    judge: Asked,
    contest: Contest,
    settings: JudgeSettings,
    folder: Path,
    *,
    who: Mapping[str, Any],
    progress: Callable[[int, int], None] | None = None,
) -> Judgement:
    """Asks everything that has no answer in the folder yet, and sums the answers up.

    Args:
        folder: `answers/` keeps every answer, by the films' bytes, the question and the judge, so that nothing is paid twice.
        who: facts of the judge, which belong to every question.

    Raises:
        InputError: a dimension is about the reference picture, and a case has none; nothing was asked then.
    """
    check_references(contest, settings)
    with atomic_file(folder / BEGUN) as file:
        file.write((json.dumps({"systems": list(contest.films), "judge": dict(who)}, indent=1) + "\n").encode())
    store = _Answers(folder / ANSWERS, {**who, "prompts": PROMPTS})
    pairs = list(itertools.combinations(contest.films, 2))
    count = len(contest.cases) * len(settings.dimensions) * settings.repeats
    total, done = count * (len(contest.films) + 2 * len(pairs)), itertools.count(1)
    scores: dict[tuple[str, Dimension], dict[str, list[int]]] = {}
    preferences: dict[tuple[str, str, Dimension], dict[str, list[tuple[Preference, Preference]]]] = {}
    for name in contest.cases:
        case = _Case.read(contest, name, settings.frames, _Asking(judge, store))
        for dimension, repeat in itertools.product(settings.dimensions, range(settings.repeats)):
            for system in contest.films:
                found = case.score(system, dimension, repeat)
                scores.setdefault((system, dimension), {}).setdefault(name, []).append(found.score)
                _tell(progress, done, total, 1)
            for one, other in pairs:
                both = (
                    case.preference((one, other), dimension, repeat),
                    case.preference((other, one), dimension, repeat),
                )
                preferences.setdefault((one, other, dimension), {}).setdefault(name, []).append(both)
                _tell(progress, done, total, 2)
    return Judgement(
        scores={
            system: {d.value: summarise_scores(scores[system, d]) for d in settings.dimensions}
            for system in contest.films
        },
        comparisons={
            pair: {d.value: summarise_comparisons(preferences[(*pair, d)]) for d in settings.dimensions}
            for pair in pairs
        },
        cases=len(contest.cases),
        settings={**asdict(settings), "judge": dict(who)},
    )


def check_references(contest: Contest, settings: JudgeSettings) -> None:
    """Raises `InputError` where somebody would be asked about a picture that is not shown."""
    asked = [each.value for each in settings.dimensions if each.needs_reference]
    missing = contest.without_reference
    if asked and missing:
        raise InputError(
            f"{asked[0]} is judged against the reference picture, and the case {missing[0]} has none: give --references, or ask "
            "for other dimensions."
        )


def _tell(progress: Callable[[int, int], None] | None, done: Iterator[int], total: int, count: int) -> None:
    for number in itertools.islice(done, count):
        if progress is not None:
            progress(number, total)


@dataclass(frozen=True, slots=True)
class _Asking:
    """Who is asked, and where answers are kept."""

    judge: Asked
    store: "_Answers"


@dataclass(frozen=True, slots=True)
class _Case:
    """One case's films by system, and its reference picture with its digest."""

    films: Mapping[str, "_Film"]
    reference: Array | None
    picture: str | None
    frames: int
    asking: _Asking

    @classmethod
    def read(cls, contest: Contest, name: str, frames: int, asking: _Asking) -> "_Case":
        films = {system: _Film.read(each[name], frames) for system, each in contest.films.items()}
        path = contest.references.get(name)
        if path is None:
            return cls(films, None, None, frames, asking)
        return cls(films, read_image(path), hash_file(path), frames, asking)

    def score(self, system: str, dimension: Dimension, repeat: int) -> Score:
        film = self.films[system]
        return self.asking.store.get(
            ("score", dimension.value, repeat, self.frames, self.picture, film.digest),
            Score,
            lambda: score_film(self.asking.judge, film.shown, self.reference, dimension, repeat=repeat),
        )

    def preference(self, order: tuple[str, str], dimension: Dimension, repeat: int) -> Preference:
        first, second = (self.films[system] for system in order)
        return self.asking.store.get(
            ("compare", dimension.value, repeat, self.frames, self.picture, first.digest, second.digest),
            Preference,
            lambda: compare_films(
                self.asking.judge, (first.shown, second.shown), self.reference, dimension, repeat=repeat
            ),
        )


@dataclass(frozen=True, slots=True)
class _Film:
    shown: ShownFilm
    digest: str

    @classmethod
    def read(cls, path: Path, count: int) -> "_Film":
        with VideoReader(path) as reader:
            length = min(len(reader), _MOST_FRAMES)
            wanted = np.arange(length)
            picked = shown(wanted, count)
            numbers = {int(n): reader.frames(int(n), int(n) + 1)[0] for n in {*picked.spread, *picked.neighbours}}
        spread, neighbours = (np.stack([numbers[int(n)] for n in each]) for each in (picked.spread, picked.neighbours))
        return cls(ShownFilm(spread=spread, neighbours=neighbours), hash_file(path))


@dataclass(frozen=True, slots=True)
class _Answers:
    folder: Path
    who: Mapping[str, Any]

    def get(self, question: tuple[Any, ...], kind: type[Answer], ask: Callable[[], Answer]) -> Answer:
        """The kept answer to a question, or a new one, kept."""
        name = hashlib.sha256(json.dumps([question, dict(self.who)], sort_keys=True).encode()).hexdigest()[:32]
        path = self.folder / f"{name}.json"
        if path.is_file():
            try:
                return kind.model_validate(load_json(path, dict[str, Any]).get("answer"))
            except ValidationError:
                raise InputError(f"{path} holds no answer any more: delete it, and it is asked again.") from None
        answer = ask()
        with atomic_file(path) as file:
            told = {"question": list(question), "answer": answer.model_dump()}
            file.write((json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode())
        return answer


def write_judgement(judgement: Judgement, folder: Path) -> None:
    """Writes `judgement.json`; equal answers give equal bytes."""
    with atomic_file(folder / REPORT) as file:
        file.write((json.dumps(judgement.to_json(), indent=1) + "\n").encode())
