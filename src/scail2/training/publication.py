"""From a finished training to its users: weights in published names, and a card that says what they are and what they saw."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scail2.checkpoints.transformer_files import convert_transformer
from scail2.data.dataset import LatentDataset
from scail2.errors import InputError
from scail2.files.documents import load_json
from scail2.files.ownership import new_folder
from scail2.models.transformer import SCAIL2Transformer3DModel
from scail2.request.paths import refuse_overwriting
from scail2.training.run_folder import CHECKPOINTS, CONFIG
from scail2.training.state import latest_state, read_progress

# Columns of a card's evaluation table.
_MEASURES = ("character_psnr", "hand_psnr", "head_psnr", "background_psnr", "limb_iou", "frame_difference_correlation")


@dataclass(frozen=True, kw_only=True)
class Card:
    """What only a person knows about weights.

    Attributes:
        title: the card's heading.
        licence: of the weights, as the Hub spells it: `mit`, `apache-2.0`, `other` …
        data_note: where the training material comes from and with what right it was used.
        evaluations: files of `scail2 evaluate --json`.
    """

    title: str
    licence: str
    data_note: str = ""
    evaluations: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        for name in ("title", "licence"):
            value = getattr(self, name)
            if not value.strip() or "\n" in value:
                raise InputError(f"A card's {name} is one line of text, not {value!r}.")


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
    lora: dict[str, Any] | None = None
    preference: dict[str, Any] | None = None
    loss: dict[str, Any] = field(default_factory=dict)


def publish(run: Path, out: Path, card: Card) -> list[str]:
    """Makes a folder that can be given away: one weight file in published names and `README.md`.

    Args:
        run: a training's folder with its exported weights.
        out: a new folder.

    Returns:
        Names of the files made.

    Raises:
        InputError: the run is none, or has no export yet; ``out`` exists; an evaluation is none.
    """
    if not (run / CONFIG).is_file():
        raise InputError(f"{run} is no training's folder: it has no {CONFIG}.")
    refuse_overwriting([out], [("run", run), *(("evaluation", path) for path in card.evaluations)])
    facts = load_json(run / CONFIG, _Run, unknown=True)
    with new_folder(out) as folder:
        weights = folder / f"{facts.name}.safetensors"
        exported = run / "adapter" / weights.name
        if facts.lora is None:
            if not (run / "transformer" / "config.json").is_file():
                raise InputError(f"{run} has no exported transformer: let scail2 train finish first.")
            convert_transformer(SCAIL2Transformer3DModel, run / "transformer", weights, to="official")
        elif exported.is_file():
            shutil.copyfile(exported, weights)
        else:
            raise InputError(f"{run} has no exported adapter {exported.name}: let scail2 train finish first.")
        (folder / "README.md").write_text(model_card(run, facts, card), encoding="utf-8")
        return sorted(path.name for path in folder.iterdir())


def model_card(run: Path, facts: _Run, card: Card) -> str:
    """The card's Markdown, with the front matter that the Hub reads. Of paths only last names are told."""
    base = Path(facts.model).resolve().name
    kind = "Full weights" if facts.lora is None else f"Low-rank adapters (rank {facts.lora.get('rank')})"
    tags = ["scail-2", "video", "character-animation", *(["lora"] if facts.lora else [])]
    front = {"license": card.licence, "base_model": base, "pipeline_tag": "image-to-video", "tags": tags}
    sections = [
        "---\n" + "\n".join(f"{name}: {json.dumps(value)}" for name, value in front.items()) + "\n---",
        f"# {card.title}",
        f"{kind} for SCAIL-2's transformer, trained on `{base}` with the recipe `{facts.name}` of scail2.",
        "## Use\n\n" + _use(facts),
        "## Training\n\n" + _listed(_training(run, facts)),
        "## Training data\n\n" + _data(facts, card),
        "## Evaluation\n\n" + _evaluation(card.evaluations),
        f"## Licence\n\n{card.licence}. The base model's licence goes on to hold for what is derived from it.",
    ]
    return "\n\n".join(sections) + "\n"


def _use(facts: _Run) -> str:
    file = f"{facts.name}.safetensors"
    if facts.lora is None:
        return f"```sh\nscail2 convert {file} --pipeline --out model\n```\n\nThe names are those of the published checkpoint."
    return (
        f"```sh\nscail2 animate --lora {file} --reference hero.png --driving dance.mp4 --output out.mp4\n```\n\n"
        "The names are those of the published LoRAs, which ComfyUI and diffusers' `load_lora_weights` read, too."
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


def _data(facts: _Run, card: Card) -> str:
    parts = [card.data_note.strip()] if card.data_note.strip() else []
    shards = Path(str(facts.data.get("shards", "")))
    try:
        dataset = LatentDataset(shards)
    except InputError:
        return "\n\n".join([*parts, f"The cache `{shards.name}` was not there when this card was written."])
    lines: list[tuple[str, Any]] = [("samples", len(dataset))]
    lines += [(f"of them {kind.value}", count) for kind, count in dataset.kinds.items()]
    lines += [("with an empty caption", dataset.empty_captions)] if dataset.empty_captions else []
    shapes = Counter("x".join(map(str, record.meta.get("shape", ()))) for record in dataset.records)
    lines.append(("frames x height x width", ", ".join(f"{shape} ({count})" for shape, count in shapes.items())))
    if (shards / "cache.json").is_file():
        described = load_json(shards / "cache.json", dict[str, Any])
        lines += [(f"cache: {name}", described[name]) for name in ("source", "recipe", "seed") if name in described]
    return "\n\n".join([*parts, _listed(lines)])


def _listed(lines: Any) -> str:
    rows = [f"| {name} | {_cell(value)} |" for name, value in lines]
    return "\n".join(["| | |", "|---|---|", *rows])


def _cell(value: Any) -> str:
    text = f"`{json.dumps(value, ensure_ascii=False)}`" if isinstance(value, dict | list) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _evaluation(paths: Sequence[Path]) -> str:
    if not paths:
        return "Not measured."
    lines = ["| file | task | clips | " + " | ".join(_MEASURES) + " |", "|---" * (3 + len(_MEASURES)) + "|"]
    for path in paths:
        report = load_json(path, dict[str, Any])
        tasks = {
            name: each
            for name, each in report.items()
            if isinstance(each, Mapping) and "clips" in each and name != "settings"
        }
        if not tasks:
            raise InputError(f"{path} holds no evaluation: give a file of scail2 evaluate --json.")
        for name, each in tasks.items():
            figures = [each.get(measure) for measure in _MEASURES]
            cells = ["–" if not isinstance(f, int | float) else f"{f:.3f}" for f in figures]
            lines.append(f"| {_cell(path.name)} | {_cell(name)} | {each['clips']} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "By `scail2 evaluate`: drawn puppets that no training uses, PSNR in dB."])
