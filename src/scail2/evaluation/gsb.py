"""Good, same, bad by people: a blind page of film pairs, and what their votes say.

The page is a folder of its own that holds neither names of systems nor of files; the key stays beside it. Films are written anew,
so that nothing in them tells where they are from.
"""

import hashlib
import itertools
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image
from rich.table import Table

from scail2.errors import InputError
from scail2.evaluation.comparison import Interval, interval_of_means, interval_of_share
from scail2.evaluation.contests import Contest
from scail2.files.documents import Between, load_json
from scail2.files.ownership import Kind, check_file, is_document, new_folder
from scail2.files.staging import atomic_file
from scail2.video import VideoReader, VideoWriter, read_image

KEY, PAGE = "key.json", "page"
# What people's browsers save holds votes, too, and must never be taken for a count of them.
TALLIES = Kind(
    "counted votes",
    "counts of scail2 judge",
    lambda file: is_document(file, {"votes"}) and not is_document(file, {"votes", "person"}),
)
_TEMPLATE = Path(__file__).parents[1] / "assets" / "gsb" / "page.html"
_EMPTY = '<script type="application/json" id="contest">{}</script>'
_CHUNK = 16

QUESTIONS: Mapping[str, str] = {
    "motion": "Whose motion is better: natural, complete, without broken limbs or hands?",
    "appearance": "In which film is the character more like the picture, and stays so?",
    "overall": "Which film is better, all in all?",
}
"""What people are asked by default."""
_ABOUT_THE_PICTURE = "appearance"


@dataclass(frozen=True, slots=True)
class KeyFilm:
    """Whose a film is, and of which case."""

    system: str
    case: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PageKey:
    """Which film is whose: `key.json`, kept from those who vote."""

    page: str
    questions: dict[str, str]
    films: dict[str, KeyFilm]
    cases: dict[str, tuple[str, str]]  # a pair's id → its two films

    def __post_init__(self) -> None:
        if strange := [film for pair in self.cases.values() for film in pair if film not in self.films]:
            raise InputError(f"it shows the film {strange[0]}, but does not say whose it is")


@dataclass(frozen=True, slots=True)
class Vote:
    """One answer: the pair, what was on which side, and the better film's id (None: as good as each other)."""

    case: str
    question: str
    left: str
    right: str
    better: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Ballot:
    """What one person's file holds."""

    page: str
    person: Annotated[str, Between(1, 200)]
    votes: list[Vote]


def usual_questions(contest: Contest) -> Mapping[str, str]:
    """`QUESTIONS`, without the one about the reference picture where a case has none to show."""
    if not contest.without_reference:
        return QUESTIONS
    return {name: text for name, text in QUESTIONS.items() if name != _ABOUT_THE_PICTURE}


def write_page(contest: Contest, out: Path, questions: Mapping[str, str] | None = None) -> PageKey:
    """Makes a new folder with `page/`, to be given away or put on any web server, and `key.json`.

    Every pair of systems is shown for every case; without ``questions`` people are asked the `usual_questions`.
    Names of films are random; order and sides are drawn anew in every browser.

    Raises:
        InputError: there is one system only, ``out`` exists, or a film cannot be read.
    """
    if len(contest.films) < 2:
        raise InputError("Two systems at least are compared: name another folder of films.")
    with new_folder(out) as folder:
        films = {(system, case): secrets.token_hex(8) for system in contest.films for case in contest.cases}
        pairs = {
            secrets.token_hex(8): (films[one, case], films[other, case])
            for case in contest.cases
            for one, other in itertools.combinations(contest.films, 2)
        }
        key = PageKey(
            page=hashlib.sha256("".join(sorted(films.values())).encode()).hexdigest()[:12],
            questions=dict(usual_questions(contest) if questions is None else questions),
            films={number: KeyFilm(system, case) for (system, case), number in films.items()},
            cases=pairs,
        )
        for (system, case), number in films.items():
            _rewrite(contest.films[system][case], folder / PAGE / "films" / f"{number}.mp4")
        references = {}
        for case, path in contest.references.items():
            references[case] = secrets.token_hex(8)
            picture = folder / PAGE / "references" / f"{references[case]}.png"
            with atomic_file(picture) as file:
                Image.fromarray(read_image(path)).save(file, format="PNG")
        with atomic_file(folder / PAGE / "index.html") as file:
            file.write(_page(key, references).encode())
        with atomic_file(folder / KEY) as file:
            file.write((json.dumps(asdict(key), indent=1) + "\n").encode())
    return key


def _page(key: PageKey, references: Mapping[str, str]) -> str:
    cases = [
        {"id": number, "films": sorted(pair), "reference": references.get(key.films[pair[0]].case)}
        for number, pair in sorted(key.cases.items())
    ]
    questions = [{"id": name, "text": text} for name, text in key.questions.items()]
    content = json.dumps({"page": key.page, "questions": questions, "cases": cases})
    template = _TEMPLATE.read_text(encoding="utf-8")
    # Inside a script element only a closing tag could end it.
    return template.replace(_EMPTY, _EMPTY.replace("{}", content.replace("</", "<\\/")))


def _rewrite(film: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with VideoReader(film) as reader, VideoWriter(place, reader.fps, (reader.height, reader.width)) as writer:
        for start in range(0, len(reader), _CHUNK):
            writer.write(reader.frames(start, min(len(reader), start + _CHUNK)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """One pair of systems and one question.

    Attributes:
        win, tie, lose: shares of all votes, from the first system's side, with 95 % intervals (bootstrap over cases).
        margin: wins minus losses, in [−1, 1], with its 95 % interval (bootstrap over cases, each the mean of its votes).
        agreement: share of pairs of people that say the same of a case; nan where nobody shares one.
        left: share of the votes for a film that are for the left one; 0.5 is fair.
    """

    system: str
    against: str
    question: str
    win: Interval
    tie: Interval
    lose: Interval
    margin: Interval
    agreement: float
    left: float
    votes: int
    people: int


def count_votes(folder: Path, ballots: Sequence[Path]) -> list[Tally]:
    """What people's files say of the page in a folder, for every pair of systems and question that has votes.

    Raises:
        InputError: a file is none of this page's, names something that the page does not have, or a person votes twice.
    """
    key = load_json(folder / KEY, PageKey)
    votes: dict[tuple[str, str, str], list[tuple[str, str, int, int]]] = {}
    people: dict[str, Path] = {}
    for path in ballots:
        ballot = load_json(path, Ballot)
        if ballot.page != key.page:
            raise InputError(f"{path} holds votes on another page than {folder}.")
        if ballot.person in people:
            raise InputError(f"{path} and {people[ballot.person].name} are both by {ballot.person}: leave one out.")
        people[ballot.person] = path
        answered: set[tuple[str, str]] = set()
        for vote in ballot.votes:
            first, second = _pair(key, vote, path)
            if (vote.case, vote.question) in answered:
                raise InputError(
                    f"{path} answers {vote.question!r} of {vote.case} twice: leave one of the answers out."
                )
            answered.add((vote.case, vote.question))
            worth = 0 if vote.better is None else 1 if vote.better == first else -1
            side = 0 if vote.better is None else 1 if vote.better == vote.left else -1
            systems = (key.films[first].system, key.films[second].system)
            votes.setdefault((*systems, vote.question), []).append((vote.case, ballot.person, worth, side))
    return [_tally(names, each) for names, each in sorted(votes.items())]


def _pair(key: PageKey, vote: Vote, path: Path) -> tuple[str, str]:
    pair = key.cases.get(vote.case)
    if pair is None or {vote.left, vote.right} != set(pair) or vote.better not in (None, *pair):
        raise InputError(f"{path} holds a vote on films that the page does not show side by side.")
    if vote.question not in key.questions:
        raise InputError(f"{path} answers {vote.question!r}, which the page does not ask.")
    return pair


def _tally(names: tuple[str, str, str], votes: Sequence[tuple[str, str, int, int]]) -> Tally:
    of_case: dict[str, list[int]] = {}
    for case, _, worth, _ in votes:
        of_case.setdefault(case, []).append(worth)
    sides = np.array([each[3] for each in votes])

    def share(worth: int) -> Interval:
        return interval_of_share([each.count(worth) for each in of_case.values()], [*map(len, of_case.values())])

    same = [one == other for each in of_case.values() for one, other in itertools.combinations(each, 2)]
    chosen = sides[sides != 0]
    return Tally(
        system=names[0],
        against=names[1],
        question=names[2],
        win=share(1),
        tie=share(0),
        lose=share(-1),
        margin=interval_of_means([float(np.mean(each)) for each in of_case.values()]),
        agreement=float(np.mean(same)) if same else float("nan"),
        left=float((chosen > 0).mean()) if len(chosen) else float("nan"),
        votes=len(votes),
        people=len({each[1] for each in votes}),
    )


def write_tallies(tallies: Iterable[Tally], file: Path) -> None:
    """Writes `{"votes": […]}`, null where there is no number.

    Raises:
        InputError: something else is there.
    """
    check_file(file, TALLIES)
    plain = json.loads(json.dumps([asdict(each) for each in tallies]), parse_constant=lambda _: None)
    with atomic_file(file) as writing:
        writing.write((json.dumps({"votes": plain}, indent=1) + "\n").encode())


def tallies_table(tallies: Iterable[Tally]) -> Table:
    """A row for each pair and question."""
    table = Table(title="Good / same / bad by people")
    for name in ("system", "against", "question", "win", "tie", "lose", "win − lose (95 %)", "people agree", "left"):
        table.add_column(name)
    for each in tallies:
        margin = each.margin
        shares = (
            f"{100 * share.mean:.1f} % ({100 * share.low:.1f} … {100 * share.high:.1f})"
            for share in (each.win, each.tie, each.lose)
        )
        interval = margin.told(1, scale=100)
        told = (f"{100 * value:.0f} %" if value == value else "–" for value in (each.agreement, each.left))
        table.add_row(each.system, each.against, each.question, *shares, interval, *told)
    return table
