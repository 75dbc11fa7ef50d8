"""From a finished training to its users: weights in published names, and a card that says what they are and what they saw."""

import json
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scail2.checkpoints.transformer_files import convert_transformer
from scail2.data.dataset import LatentDataset
from scail2.errors import InputError, short
from scail2.files.documents import load_json, read_document
from scail2.files.ownership import new_folder
from scail2.files.public.embedded import embedded_model_path
from scail2.files.user_paths import split_lora
from scail2.loading.places import parse_lora
from scail2.models.transformer import SCAIL2Transformer3DModel
from scail2.request.paths import refuse_overwriting
from scail2.training.card_results import cell, results
from scail2.training.run_folder import CHECKPOINTS, CONFIG, TRAINING
from scail2.training.state import latest_state, read_progress


@dataclass(frozen=True, kw_only=True)
class Card:
    """What only a person knows about weights.

    Attributes:
        title: the card's heading.
        licence: of the weights, as the Hub spells it: `mit`, `apache-2.0`, `other` …
        data_note: where the training material comes from and with what right it was used.
        data_card: `card.md` of `scail2 pairs card`, which becomes part of the card.
        evaluations: result files, as `card_results.results` takes them.
    """

    title: str
    licence: str
    data_note: str = ""
    data_card: Path | None = None
    evaluations: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        for name in ("title", "licence"):
            value = getattr(self, name)
            if not value.strip() or "\n" in value:
                raise InputError(f"A card's {name} is one line of text, not {value!r}.")
        if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.licence):
            raise InputError(
                f"A card's licence is a name as the Hub spells it, such as mit, apache-2.0 or other, not {short(self.licence)}."
            )


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What a card tells of a run's `config.json`."""

    name: str
    model: str
    seed: int
    data: dict[str, Any]
    optimizer: dict[str, Any]
    accumulation: int = 1
    ema_decay: float = 0.0
    fused: tuple[str, ...] = ()
    start_from: str | None = None
    lora: dict[str, Any] | None = None
    preference: dict[str, Any] | None = None
    loss: dict[str, Any] = field(default_factory=dict)


def publish(run: Path, out: Path, card: Card, *, merge: bool = False) -> list[str]:
    """Makes a folder that can be given away: one weight file in published names and `README.md`.

    Args:
        run: a training's folder with its exported weights.
        out: a new folder.
        merge: adapters become part of the weights that they were trained on, which are written whole; tensor by tensor, so
            that no more than one is in memory.

    Returns:
        Names of the files made.

    Raises:
        InputError: the run is none, or has no export yet; ``out`` exists; an evaluation is none; there is nothing to merge, or
            nothing to merge it into.
    """
    if not (run / CONFIG).is_file():
        raise InputError(f"{run} is no training's folder: it has no {CONFIG}.")
    given = [("evaluation", path) for path in card.evaluations]
    given += [("data card", card.data_card)] if card.data_card is not None else []
    refuse_overwriting([out], [("run", run), *given])
    facts = load_json(run / CONFIG, _Run, unknown=True)
    if merge and facts.lora is None:
        raise InputError(f"{run} trained the weights themselves: there are no adapters to merge, leave --merge away.")
    with new_folder(out) as folder:
        weights = folder / f"{facts.name}.safetensors"
        exported = run / "adapter" / weights.name
        if facts.lora is None:
            if not (run / "transformer" / "config.json").is_file():
                raise InputError(f"{run} has no exported transformer: let scail2 train finish first.")
            convert_transformer(SCAIL2Transformer3DModel, run / "transformer", weights, to="official")
        elif exported.is_file() and merge:
            _merge(facts, exported, weights)
        elif exported.is_file():
            shutil.copyfile(exported, weights)
        else:
            raise InputError(f"{run} has no exported adapter {exported.name}: let scail2 train finish first.")
        (folder / "README.md").write_text(model_card(run, facts, card, merged=merge), encoding="utf-8")
        return sorted(path.name for path in folder.iterdir())


def _merge(facts: _Run, adapter: Path, weights: Path) -> None:
    model = Path(facts.model)
    if not (model / "transformer" / "config.json").is_file():
        raise InputError(
            f"The model that {adapter.name} was trained on is not at {model} any more: put it there to merge."
        )
    loras = [*map(parse_lora, facts.fused), (adapter, 1.0)]
    convert_transformer(SCAIL2Transformer3DModel, model / "transformer", weights, to="official", loras=loras)


def model_card(run: Path, facts: _Run, card: Card, *, merged: bool = False) -> str:
    """The card's Markdown, with the front matter that the Hub reads. Of paths only last names are told."""
    base = Path(facts.model).resolve().name
    adapters = facts.lora is not None and not merged
    kind = "Full weights"
    if facts.lora is not None:
        rank = f"rank {facts.lora.get('rank')}"
        kind = f"Full weights, with low-rank adapters ({rank}) merged," if merged else f"Low-rank adapters ({rank})"
    tags = ["scail-2", "video", "character-animation", *(["lora"] if adapters else [])]
    front = {"license": card.licence, "base_model": base, "pipeline_tag": "image-to-video", "tags": tags}
    sections = [
        "---\n" + "\n".join(f"{name}: {json.dumps(value)}" for name, value in front.items()) + "\n---",
        f"# {card.title}",
        f"{kind} for SCAIL-2's transformer, trained on `{base}` with the recipe `{facts.name}` of scail2.",
        "## Use\n\n" + _use(facts, adapters),
        "## Training\n\n" + _listed(_training(run, facts)),
        "## Training data\n\n" + "\n\n".join([*_said(card), _data(facts)]),
        *_stages_before(facts),
        "## Evaluation\n\n" + results(card.evaluations),
        f"## Licence\n\n{card.licence}. The base model's licence goes on to hold for what is derived from it.",
    ]
    return "\n\n".join(sections) + "\n"


def _use(facts: _Run, adapters: bool) -> str:
    file, films = f"{facts.name}.safetensors", "--reference hero.png --driving dance.mp4 --output out.mp4"
    if adapters:
        model = "" if _is_embedded(facts.model) else f"--model {shlex.quote(Path(facts.model).resolve().name)} "
        return (
            f"```sh\nscail2 animate {model}--lora {file} {films}\n```\n\n"
            "The names are those of the published LoRAs, which ComfyUI and diffusers' `load_lora_weights` read, too."
            + _on_top_of(facts)
        )
    whole = _pipeline_before(facts)
    base = _EMBEDDED if _is_embedded(whole) else shlex.quote(Path(whole).resolve().name)
    return (
        f"```sh\ncp -r {base} trained\nrm -r trained/transformer\nscail2 convert {file} --out trained/transformer\n"
        f"scail2 animate --model trained {films}\n```\n\nEverything but the transformer, such as the autoencoder, is that of "
        f"`{Path(whole).resolve().name}`, a folder as `scail2 convert --pipeline` makes it of published files. The file's names "
        "are those of the published checkpoint."
    )


# What a shell puts the folder of the embedded model for.
_EMBEDDED = "\"$(python -c 'import scail2.files.public.embedded as e; print(e.embedded_model_path())')\""


def _is_embedded(model: str) -> bool:
    return Path(model).resolve() == embedded_model_path().resolve()


def _pipeline_before(facts: _Run) -> str:
    """The model that a run, or the first of the runs before it, began with: runs hold a transformer alone."""
    while (run := _run_at(facts.model)) is not None:
        facts = load_json(run / CONFIG, _Run, unknown=True)
    return facts.model


def _run_at(place: str) -> Path | None:
    """The training whose folder, or whose checkpoint, a place is."""
    path = Path(place)
    return next((run for run in (path, path.parent.parent) if TRAINING.recognises(run)), None)


def _on_top_of(facts: _Run) -> str:
    """Which LoRAs have to be there, too."""
    before = [f"`{Path(path).name}` at {1.0 if x is None else float(x):g}" for path, x in map(split_lora, facts.fused)]
    return (
        f" It was trained on top of {', '.join(before)}: give that first, with a `--lora` of its own." if before else ""
    )


def _training(run: Path, facts: _Run) -> Iterator[tuple[str, Any]]:
    state = latest_state(run / CHECKPOINTS)
    if state is not None:
        progress = read_progress(state)
        yield "steps", progress.step
        yield "samples", progress.samples
        if progress.skipped:
            yield "skipped steps", progress.skipped
    yield "samples a step", facts.data.get("batch_size", 1) * facts.accumulation
    yield "learning rate", facts.optimizer.get("learning_rate")
    if facts.optimizer.get("muon_learning_rate"):
        yield "learning rate of Muon", facts.optimizer["muon_learning_rate"]
    yield "weight decay", facts.optimizer.get("weight_decay")
    if facts.ema_decay:
        yield "averaging of weights", facts.ema_decay
    if facts.preference is not None:
        regions = ", ".join(f"{name} {weight:g}" for name, weight in facts.preference.get("regions", ()))
        yield "objective", "Bias-Aware DPO on top of flow matching on the preferred videos"
        yield "β, λ, regions", f"{facts.preference.get('beta')}, {facts.preference.get('weight')}, {regions}"
    else:
        yield "objective", f"flow matching ({facts.loss.get('space', 'velocity')})"
    yield "seed", facts.seed
    if (run / "changes.jsonl").exists():
        yield "changed on the way", (run / "changes.jsonl").read_text(encoding="utf-8").count("\n")


def _said(card: Card) -> Iterator[str]:
    """What a person says of the training data: the note, and the data card with its headings below the section's."""
    if card.data_note.strip():
        yield card.data_note.strip()
    if card.data_card is not None:
        text = read_document(card.data_card).decode("utf-8", "replace")
        yield re.sub(r"^#", "###", text, flags=re.MULTILINE).strip()


def _stages_before(facts: _Run) -> Iterator[str]:
    """What was trained before and is part of the weights that this run began with, as far as its runs are still there."""
    for name, given in map(split_lora, facts.fused):
        path, strength = Path(name), 1.0 if given is None else float(given)
        yield from _stage(f"`{path.name}` at {strength:g}", _run_at(name) if path.parent.name == "adapter" else None)
    if facts.start_from is not None:
        run = _run_at(facts.start_from)
        yield from _stage(f"`{(run or Path(facts.start_from)).name}`, whose checkpoint this began with", run)
    if (run := _run_at(facts.model)) is not None:
        yield from _stage(f"`{run.resolve().name}`, the model that this was trained on", run)


def _stage(what: str, run: Path | None) -> Iterator[str]:
    """A run that came before, and those before it."""
    told = f"## The stage before: {what}\n\n"
    if run is None:
        yield told + "Not trained by a run that was there when this card was written."
        return
    before = load_json(run / CONFIG, _Run, unknown=True)
    yield told + _listed(_training(run, before)) + "\n\n" + _data(before)
    yield from _stages_before(before)


def _data(facts: _Run) -> str:
    shards = Path(str(facts.data.get("shards", "")))
    try:
        dataset = LatentDataset(shards)
    except InputError:
        return f"The cache `{shards.name}` was not there when this card was written."
    lines: list[tuple[str, Any]] = [("samples", len(dataset))]
    lines += [(f"of them {kind.value}", count) for kind, count in dataset.kinds.items()]
    lines += [("with an empty caption", dataset.empty_captions)] if dataset.empty_captions else []
    shapes = Counter("x".join(map(str, record.meta.get("shape", ()))) for record in dataset.records)
    lines.append(("frames x height x width", ", ".join(f"{shape} ({count})" for shape, count in shapes.items())))
    if (shards / "cache.json").is_file():
        described = load_json(shards / "cache.json", dict[str, Any])
        lines += [(f"cache: {name}", described[name]) for name in ("source", "recipe", "seed") if name in described]
    return _listed(lines)


def _listed(lines: Any) -> str:
    rows = [f"| {name} | {_cell(value)} |" for name, value in lines]
    return "\n".join(["| | |", "|---|---|", *rows])


def _cell(value: Any) -> str:
    return cell(f"`{json.dumps(value, ensure_ascii=False)}`" if isinstance(value, dict | list) else value)
