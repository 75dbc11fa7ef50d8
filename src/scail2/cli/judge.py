"""`scail2 judge`: films of several systems side by side, judged by a vision-language model or by people."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from scail2.evaluation.contests import Contest

Films = Annotated[
    list[str],
    typer.Option(metavar="NAME=FOLDER", help="A system and its films; films of one case have one name. Repeat."),
]
References = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Reference pictures, named as their case's films.")
]


def register(app: typer.Typer) -> None:
    """Adds the verb and its parts."""
    judge = typer.Typer(no_args_is_help=True, help="Judge films without a truth: by a model, or by people.")
    judge.command("films")(films_)
    judge.command("page")(page)
    judge.command("votes")(votes)
    app.add_typer(judge, name="judge")


def films_(
    films: Films,
    endpoint: Annotated[
        Path,
        typer.Option(
            metavar="FILE.toml", help="The judge: address, model and limits of an OpenAI-compatible endpoint."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder that keeps every answer and the judgement.")],
    references: References = None,
    dimension: Annotated[
        list[str] | None,
        typer.Option(
            help="Of imaging, smoothness, temporal_consistency and, with --references, appearance; repeatable (default: all)."
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Times that each question is asked.")] = 2,
    frames: Annotated[
        int | None,
        typer.Option(min=2, help="Frames of a film in a question (default: as the endpoint's `pictures` allow)."),
    ] = None,
) -> None:
    """Ask a vision-language model: scores by dimension, and every pair of systems in both orders.

    Answers are kept; stop the command and give it again, nothing is asked twice.
    """
    from scail2.cli.options import need
    from scail2.cli.progress import counted_progress
    from scail2.cli.terminal import Terminal

    need("openai", "synthesis", "asking a vision-language model")
    from scail2.data.endpoint.client import Endpoint
    from scail2.data.endpoint.settings import EndpointSettings
    from scail2.errors import InputError
    from scail2.evaluation.contests import (
        JUDGEMENTS,
        REPORT,
        JudgeSettings,
        check_references,
        judge_contest,
        write_judgement,
    )
    from scail2.evaluation.judging import Dimension
    from scail2.files.documents import load_toml
    from scail2.files.ownership import claimed_folder
    from scail2.request.paths import refuse_overwriting

    contest, asked = _contest(films, references), load_toml(endpoint, EndpointSettings)
    console = Terminal()
    asked_for = tuple(map(_dimension, dimension or Dimension))
    if not dimension and contest.without_reference:
        asked_for = tuple(each for each in asked_for if not each.needs_reference)
        Terminal(stderr=True).say(f"{Dimension.APPEARANCE} is not asked about: that takes --references.")
    settings = JudgeSettings(
        dimensions=asked_for,
        repeats=repeats,
        frames=frames or max(2, (asked.pictures - 1) // 2),
    )
    check_references(contest, settings)
    # Two films are compared after each alone was scored: found before anything is paid for.
    shown = settings.frames * min(2, len(contest.films)) + bool(contest.references)
    if shown > asked.pictures:
        raise InputError(
            f"A question shows {shown} pictures ({settings.frames} frames of each film, and the reference where there is "
            f"one), but {endpoint} allows {asked.pictures}: give fewer --frames (two at least), or raise its `pictures`."
        )
    refuse_overwriting([out], [("endpoint", endpoint), *contest.inputs])
    who = {
        "address": asked.address,
        "model": asked.model,
        "temperature": asked.temperature,
        "picture_side": asked.picture_side,
    }
    with claimed_folder(out, JUDGEMENTS) as folder, Endpoint(asked) as judge:
        with counted_progress(console, "judging") as progress:
            judgement = judge_contest(judge, contest, settings, folder, who=who, progress=progress)
        write_judgement(judgement, folder)
        spent = judge.account.spent
    for table in judgement.tables():
        console.print(table)
    console.say(f"{spent.answers} new answers, {spent.tokens} tokens; {REPORT} and every answer: {out}")


def page(
    films: Films,
    out: Annotated[Path, typer.Option(help="Folder to make: page/ to give away, key.json to keep.")],
    references: References = None,
    question: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TEXT", help="What is asked (default: motion, with --references appearance, overall). Repeat."
        ),
    ] = None,
) -> None:
    """Make a blind page for people: pairs of films in random order, answers saved as a file by the browser."""
    from scail2.cli.terminal import Terminal
    from scail2.evaluation.gsb import KEY, PAGE, write_page
    from scail2.request.paths import refuse_overwriting

    contest = _contest(films, references)
    refuse_overwriting([out], contest.inputs)
    key = write_page(contest, out, _named(question, "--question") if question else None)
    console = Terminal()
    console.say(
        f"Pairs of films: {len(key.cases)}. {out / PAGE / 'index.html'}: any browser opens it, any web server serves the folder."
    )
    console.say(f"Keep {out / KEY} to yourself: it says whose each film is.")


def votes(
    folder: Annotated[Path, typer.Argument(help="Folder that `scail2 judge page` made.")],
    ballots: Annotated[list[Path], typer.Argument(metavar="VOTES.json...", help="What people's browsers saved.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
) -> None:
    """Count people's votes: wins, ties and losses with intervals, and how far people agree."""
    from scail2.cli.terminal import Terminal
    from scail2.evaluation.gsb import count_votes, tallies_table, write_tallies
    from scail2.request.paths import refuse_overwriting

    if json_file is not None:
        refuse_overwriting([json_file], [("votes", path) for path in ballots])
    tallies = count_votes(folder, ballots)
    if json_file is not None:
        write_tallies(tallies, json_file)
    Terminal().print(tallies_table(tallies))


def _contest(films: list[str], references: Path | None) -> "Contest":
    from scail2.evaluation.contests import find_contest

    systems = {name: Path(folder) for name, folder in _named(films, "--films").items()}
    contest = find_contest(systems, references)
    if contest.left_out:
        from scail2.cli.terminal import Terminal

        told = ", ".join(contest.left_out)
        Terminal(stderr=True).say(f"Left out, because not every folder has a film of that name: {told}.")
    return contest


def _named(given: list[str], option: str) -> dict[str, str]:
    """NAME=VALUE options as a table, in their order."""
    from scail2.errors import InputError, short

    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name.strip() or not equals or not value.strip():
            raise InputError(f"{option} is NAME=VALUE, not {short(text)}.")
        if name.strip() in found:
            raise InputError(f"{option} names {short(name.strip())} twice.")
        found[name.strip()] = value.strip()
    return found


def _dimension(name: str) -> Any:
    from scail2.errors import InputError
    from scail2.evaluation.judging import Dimension

    try:
        return Dimension(name)
    except ValueError:
        raise InputError(f"There is no dimension {name!r}: choose from {', '.join(Dimension)}.") from None
