"""Calibrates the check of whole clips on labelled puppets: ``python -m benchmarks.clip_checks --out DIR``.

Good clips are what the puppet renderer makes, exact or with a good estimator's error, noisy as a decoder's output is. Bad ones
have one fault each, which is known. Each measure's curve is that of the clips with its own faults against the good ones; its
limit is where five times the share of good clips refused and the share of bad ones missed are least together. A measure that
does not tell them apart gets none. Half of the clips choose the limits, the other half whether a measure gets one. So both
halves have had a say, and what limits are worth is told by clips that had none: ``--fresh FIRST`` measures clips of other
numbers and holds the package's limits against them, choosing nothing. Joints, which cost most, are measured of good clips and
of those whose fault is in pose or hands.

Writes `measures.jsonl` (a stopped run goes on), `roc.json`, `roc.png` and `faults.png`; with ``--write`` the limits into the
package, `src/scail2/synthesis/limits.py`.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from scail2.masks import BINDING_SLOTS, split_mask
from scail2.modes import AnimationMode
from scail2.perception.segmenters.people.network import PoseNetwork
from scail2.synthesis import measures
from scail2.synthesis.checks import check_clip
from scail2.synthesis.generators.protocol import Array, Character, Clip, Motion
from scail2.synthesis.generators.puppet_world import PuppetCharacter, PuppetTake
from scail2.synthesis.generators.puppets import PuppetGenerator
from scail2.synthesis.limits import LIMITS
from scail2.synthesis.measures import MEANING, Measure

ANIMATION, REPLACEMENT = AnimationMode.ANIMATION, AnimationMode.REPLACEMENT
FRAMES, SIDE, SPLIT = 17, 128, "holdout"
_NOISE = 1.5
_SHOWN = 2
# A good clip that is refused costs as much as so many bad ones that pass: those the judge still sees.
_WORTH = 5.0
_INTO_THE_GAP = 0.25
# A measure whose area is smaller, or whose limit refuses more of the other good clips, is told and refuses nothing.
_TELLING, _MOST_REFUSED = 0.8, 0.1
_NUMBERS = 1_000  # of good clips, and of those of each fault
LIMITS_FILE = Path(__file__).parents[1] / "src" / "scail2" / "synthesis" / "limits.py"


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a clip is made of: one drawn job, by its number."""

    number: int

    @property
    def random(self) -> np.random.Generator:
        return np.random.default_rng([7, self.number])

    @property
    def mode(self) -> AnimationMode:
        return REPLACEMENT if self.number // 2 % 2 else ANIMATION

    @property
    def take(self) -> PuppetTake:
        characters = 2 if self.mode is REPLACEMENT and self.number % 5 == 0 else 1
        return PuppetTake(index=self.number, split=SPLIT, characters=characters, start=0.7)

    def character(self, offset: int = 0) -> Character:
        who = PuppetCharacter(index=4000 + self.number + 977 * offset, split=SPLIT)
        return who.picture(height=SIDE, width=SIDE)

    def motion(self, **changes) -> Motion:
        return dataclasses.replace(self.take, **changes).motion(frames=FRAMES, height=SIDE, width=SIDE)

    @property
    def masks(self) -> Array:
        """The first performer's."""
        motion = self.motion()
        return np.where(split_mask(motion.masks)[BINDING_SLOTS[0]][..., None], motion.masks, np.uint8(0))

    def generated(self, error: str = "none", *, offset: int = 0, motion: Motion | None = None, mode=None) -> Array:
        """Frames of the renderer's answer, without noise."""
        masks = self.masks
        made = PuppetGenerator(error=error).generate(
            self.character(offset), motion or self.motion(), mode or self.mode, masks, self.number
        )
        return made.frames


# ---- faults ---------------------------------------------------------------------------------------------------------


def extra_character(scene: Scene) -> Array:
    """Somebody else stands there for a third of the clip."""
    frames, other = scene.generated().copy(), PuppetCharacter(index=9000 + scene.number, split=SPLIT)
    picture = other.picture(height=SIDE, width=SIDE)
    shown = np.roll((picture.mask.sum(axis=-1) > 0), SIDE // 3 if scene.number % 2 else -SIDE // 3, axis=1)
    stranger = np.roll(picture.image, SIDE // 3 if scene.number % 2 else -SIDE // 3, axis=1)
    frames[5:12, shown] = stranger[shown]
    return frames


def vanished(scene: Scene) -> Array:
    """The character is gone for a third of the clip."""
    frames, take = scene.generated().copy(), scene.take
    like = Clip(frames=frames, fps=16.0)
    who = PuppetCharacter.parse(scene.character().source)
    empty = take.shot(
        like, take.cast()[1:] if scene.mode is REPLACEMENT else [], None if scene.mode is REPLACEMENT else who.scene
    )
    frames[6:12] = empty.frames[6:12]
    return frames


def somebody_else(scene: Scene) -> Array:
    """Another character all along, in the right scene."""
    if scene.mode is REPLACEMENT:
        return scene.generated(offset=1)
    take, who = scene.take, PuppetCharacter.parse(scene.character().source)
    wrong = PuppetCharacter.parse(scene.character(1).source)
    cast = [dataclasses.replace(take.cast()[0], character=wrong.puppet)]
    return take.shot(scene.motion().clip, cast, who.scene).frames


def becomes_another(scene: Scene) -> Array:
    """Another character from the middle on."""
    frames = scene.generated().copy()
    frames[FRAMES // 2 :] = somebody_else(scene)[FRAMES // 2 :]
    return frames


def other_motion(scene: Scene) -> Array:
    """A motion of somebody else's, in the same place."""
    other = dataclasses.replace(scene.take, index=scene.number + 20_000)
    take = scene.take
    cast = take.cast()
    motion = other.cast()[0].motion
    who = PuppetCharacter.parse(scene.character().source)
    wrong = dataclasses.replace(cast[0], character=who.puppet, motion=motion)
    shown = [wrong, *cast[1:]] if scene.mode is REPLACEMENT else [wrong]
    return take.shot(scene.motion().clip, shown, None if scene.mode is REPLACEMENT else who.scene).frames


def late(scene: Scene) -> Array:
    """The right motion, most of a second late; of one who is not alone another motion, for the others would be late, too."""
    if scene.take.characters > 1:
        return other_motion(scene)
    return scene.generated(motion=scene.motion(start=scene.take.start + 0.8))


def flickering(scene: Scene) -> Array:
    """Single frames are lighter or darker."""
    frames = scene.generated().astype(int)
    for frame in (4, 9, 13):
        frames[frame] += 12 if frame % 2 else -12
    return frames.clip(0, 255).astype(np.uint8)


def frozen(scene: Scene) -> Array:
    """Stands still for six frames."""
    frames = scene.generated().copy()
    frames[6:12] = frames[5]
    return frames


def duplicated(scene: Scene) -> Array:
    """Every other frame is shown twice."""
    frames = scene.generated().copy()
    frames[1::2] = frames[0:-1:2]
    return frames


def leaked(scene: Scene) -> Array:
    """The driving scene in an animation; another scene in a replacement."""
    if scene.mode is ANIMATION:
        return scene.generated(mode=REPLACEMENT)
    return scene.generated(mode=ANIMATION)


def scene_changes(scene: Scene) -> Array:
    """The scene is another one from the middle on."""
    frames = scene.generated().copy()
    frames[FRAMES // 2 :] = leaked(scene)[FRAMES // 2 :]
    return frames


def blurred_hands(scene: Scene) -> Array:
    """Hands as if drawn with a brush of a quarter of their size."""
    from scipy.ndimage import gaussian_filter

    shot = PuppetGenerator().shot(scene.character(), scene.motion(), scene.mode, scene.masks, scene.number)
    frames = shot.frames.copy()
    for frame in range(FRAMES):
        for x0, y0, x1, y1 in shot.hand_boxes[0, frame].round().astype(int):
            if x1 > x0 and y1 > y0:
                soft = gaussian_filter(frames[frame].astype(float), (max(x1 - x0, y1 - y0) / 4,) * 2 + (0,))
                frames[frame, y0:y1, x0:x1] = soft[y0:y1, x0:x1]
    return frames


def wrong_arms(scene: Scene) -> Array:
    """Arms and fingers of a weak estimator that swaps and loses them."""
    return scene.generated("strong")


FAULTS: dict[Measure, tuple[Callable[[Scene], Array], ...]] = {
    Measure.COUNT: (extra_character, vanished),
    Measure.IDENTITY: (somebody_else,),
    Measure.CHANGE: (becomes_another,),
    Measure.MOTION: (other_motion, late),
    Measure.OUTLINE: (other_motion, late),
    Measure.HANDS: (wrong_arms,),
    Measure.HAND_BLUR: (blurred_hands,),
    Measure.FLICKER: (flickering,),
    Measure.FROZEN: (frozen,),
    Measure.REPEATED: (duplicated, frozen),
    Measure.BACKGROUND: (leaked, scene_changes),
    Measure.SCENE: (leaked, scene_changes),
}


_POSED = {make.__name__ for each in (Measure.MOTION, Measure.HANDS, Measure.HAND_BLUR) for make in FAULTS[each]}


@contextmanager
def looking_for_joints(wanted: bool) -> Iterator[None]:
    """In the block joints are measured, or left out."""
    kept = measures.installed
    measures.installed = (lambda: kept()) if wanted else (lambda: False)
    try:
        yield
    finally:
        measures.installed = kept


def good(scene: Scene) -> Array:
    """What is wanted: exact, or with a good estimator's error."""
    return scene.generated("mild" if scene.number % 2 else "none")


# ---- measuring ------------------------------------------------------------------------------------------------------


def noisy(frames: Array, scene: Scene) -> Array:
    """As decoders give them: no two frames are quite equal, unless one is shown twice."""
    noise = scene.random.normal(0, _NOISE, frames.shape)
    same = np.array([False, *(np.array_equal(one, two) for one, two in zip(frames[1:], frames, strict=False))])
    for frame in np.flatnonzero(same):
        noise[frame] = noise[frame - 1]
    return (frames + noise).round().clip(0, 255).astype(np.uint8)


def clips(good_ones: int, bad_ones: int, first: int = 0) -> Iterator[tuple[Callable[[Scene], Array], Scene]]:
    """What makes every clip of what, from a number on; bad ones have numbers of their own, a thousand for each fault."""
    for number in range(first, first + good_ones):
        yield good, Scene(number)
    makers = sorted({make for each in FAULTS.values() for make in each}, key=lambda make: make.__name__)
    for number in range(first, first + bad_ones):
        for place, make in enumerate(makers):
            yield make, Scene(10_000 + 1_000 * place + number)


def measured(good_ones: int, bad_ones: int, out: Path, first: int = 0) -> list[dict]:
    """Measures of every clip, also written as they come; goes on where an earlier run stopped."""
    file, network, rows = out / "measures.jsonl", PoseNetwork(), []
    if file.exists():
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    known = {(row["label"], row["number"]) for row in rows}
    shown: dict[str, list[Array]] = {}
    with file.open("a") as lines:
        for make, scene in clips(good_ones, bad_ones, first):
            label, is_known = make.__name__, (make.__name__, scene.number) in known
            if is_known and len(shown.setdefault(label, [])) >= _SHOWN:
                continue
            frames = make(scene)
            if len(shown.setdefault(label, [])) < _SHOWN:
                shown[label].append(frames[[0, 5, 8, 9, 13]])
            if is_known:
                continue
            clip, motion = Clip(frames=noisy(frames, scene), fps=16.0), scene.motion()
            with looking_for_joints(label == "good" or label in _POSED):
                verdict = check_clip(clip, motion, scene.character(), scene.mode, scene.masks, network=network)
            row = {
                "label": label,
                "number": scene.number,
                "mode": scene.mode.value,
                "values": verdict.to_json()["values"],
            }
            lines.write(json.dumps(row) + "\n")
            lines.flush()
            rows.append(row)
    _sheet(shown, out / "faults.png")
    return rows


def _sheet(shown: dict[str, list[Array]], path: Path) -> None:
    from PIL import Image

    rows = [np.concatenate(list(clip), axis=1) for label in shown for clip in shown[label]]
    Image.fromarray(np.concatenate(rows, axis=0)).save(path)
    path.with_suffix(".txt").write_text("\n".join(label for label in shown for _ in shown[label]) + "\n")


# ---- curves ---------------------------------------------------------------------------------------------------------


def values(rows: list[dict], measure: Measure, labels: set[str]) -> Array:
    """Values of a measure of clips with these labels."""
    return np.array([row["values"][measure] for row in rows if row["label"] in labels and measure in row["values"]])


def auc(good_ones: Array, bad_ones: Array) -> float:
    """Chance that a bad clip has the higher value of the two, ties half."""
    greater = (bad_ones[:, None] > good_ones[None]).mean()
    return float(greater + 0.5 * (bad_ones[:, None] == good_ones[None]).mean())


def limit_of(good_ones: Array, bad_ones: Array) -> float:
    """The limit that these clips choose, with two digits that matter.

    Where a gap lies between good and bad clips it is a quarter of the way: faults smaller than those tried are faults, too.
    """
    known = np.unique(np.concatenate([good_ones, bad_ones]))
    refused = (good_ones[None] > known[:, None]).mean(axis=1)
    missed = (bad_ones[None] <= known[:, None]).mean(axis=1)
    costs = _WORTH * refused + missed
    best = int(costs.argmin())
    beyond = known[best + 1] if best + 1 < len(known) else known[best]
    value = float(known[best] + _INTO_THE_GAP * (beyond - known[best]))
    if value <= 0:
        return 0.0
    step = 10 ** (np.floor(np.log10(value)) - 1)
    return float(round(np.round(value / step) * step, 6))


def side_of(row: dict) -> int:
    """0 for clips that choose limits, 1 for those that tell how good they are; both have all modes and errors."""
    return row["number"] // 4 % 2


def curves(rows: list[dict]) -> dict[Measure, dict]:
    """Limit and shares of every measure, chosen on one half and told on the other; the area is that of all clips."""
    told = {}
    for measure in Measure:
        halves = [[row for row in rows if side_of(row) == side] for side in (0, 1)]
        chosen = limit_of(*_right_and_wrong(halves[0], measure))
        found = told_of(halves[1], measure, chosen)
        area = round(auc(*_right_and_wrong(rows, measure)), 3)
        keeps = area >= _TELLING and found["refused_good"] <= _MOST_REFUSED
        told[measure] = {**found, "value": chosen if keeps else None, "auc": area}
    return told


def _right_and_wrong(rows: list[dict], measure: Measure) -> tuple[Array, Array]:
    labels = {make.__name__ for make in FAULTS[measure]}
    return values(rows, measure, {"good"}), values(rows, measure, labels)


def told_of(rows: list[dict], measure: Measure, limit: float) -> dict:
    """What a limit does with clips, and the area of these."""
    right, wrong = _right_and_wrong(rows, measure)
    return {
        "value": limit,
        "auc": round(auc(right, wrong), 3),
        "refused_good": round(float((right > limit).mean()), 3),
        "found_bad": round(float((wrong > limit).mean()), 3),
        "good": len(right),
        "bad": len(wrong),
    }


def fresh(rows: list[dict]) -> dict[Measure, dict]:
    """What the package's limits do with clips that none of them was chosen on; no shares for measures without a limit."""
    told = {}
    for measure in Measure:
        held = told_of(rows, measure, LIMITS[measure].value if measure in LIMITS else np.inf)
        none = {"value": None, "refused_good": None, "found_bad": None}
        told[measure] = held if measure in LIMITS else held | none
    return told


def together(rows: list[dict], told: dict[Measure, dict]) -> dict[str, float]:
    """Share of clips of each label that any limit refuses."""
    refused: dict[str, list[bool]] = {}
    for row in rows:
        limits = {name: told[Measure(name)]["value"] for name in row["values"]}
        beyond = any(limits[name] is not None and value > limits[name] for name, value in row["values"].items())
        refused.setdefault(row["label"], []).append(beyond)
    return {label: round(float(np.mean(each)), 3) for label, each in refused.items()}


def plot(rows: list[dict], path: Path) -> None:
    """All curves in one picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    for axes, measure in zip(figure.subplots(3, 4).ravel(), Measure, strict=True):
        right = values(rows, measure, {"good"})
        wrong = values(rows, measure, {make.__name__ for make in FAULTS[measure]})
        limits = np.unique(np.concatenate([right, wrong, [-1.0]]))[::-1]
        axes.plot([(right > each).mean() for each in limits], [(wrong > each).mean() for each in limits])
        axes.set_title(f"{measure.value}: {auc(right, wrong):.3f}", fontsize=9)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
    figure.supxlabel("good clips refused")
    figure.supylabel("bad clips found")
    figure.savefig(path, dpi=80)


_ABOUT = '''"""The limits of the check of whole clips, written by `python -m benchmarks.clip_checks --write`.

Calibrated on {good} good clips and {bad} with one known fault each: drawn puppets, {side}x{side} pixels, {frames} frames.
What they are worth elsewhere is not known; calibrate again on clips of your own kind.
"""'''


def source(told: dict[Measure, dict], rows: list[dict]) -> str:
    """The text of the package's file of limits."""
    good_ones = sum(row["label"] == "good" for row in rows)
    text = LIMITS_FILE.read_text()
    body = text[text.index('"""', 3) + 3 : text.index("LIMITS: dict")]
    lines = [
        f"    # {MEANING[measure]}\n    Measure.{measure.name}: Limit(value={each['value']:g}, auc={each['auc']:g}, "
        f"refused_good={each['refused_good']:g}, found_bad={each['found_bad']:g}),\n"
        for measure, each in told.items()
        if each["value"] is not None
    ]
    about = _ABOUT.format(good=good_ones, bad=len(rows) - good_ones, side=SIDE, frames=FRAMES)
    return f"{about}{body}LIMITS: dict[Measure, Limit] = {{\n{''.join(lines)}}}\n"


def main() -> None:
    """Measures, tells, and writes the limits where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--good", type=int, default=240)
    parser.add_argument("--bad", type=int, default=60, help="clips of each fault")
    parser.add_argument(
        "--fresh", type=int, metavar="FIRST", help="choose nothing: the package's limits on clips from this number on"
    )
    parser.add_argument("--write", action="store_true", help="write the limits into the package")
    given = parser.parse_args()
    if given.fresh is not None and (given.write or max(given.good, given.bad) + given.fresh > _NUMBERS):
        parser.error(f"--fresh chooses no limits that could be written, and there are {_NUMBERS} numbers")
    given.out.mkdir(parents=True, exist_ok=True)
    rows = measured(given.good, given.bad, given.out, given.fresh or 0)
    told = curves(rows) if given.fresh is None else fresh(rows)
    refused = together(rows if given.fresh is not None else [row for row in rows if side_of(row)], told)
    (given.out / "roc.json").write_text(json.dumps({"measures": told, "refused": refused}, indent=1) + "\n")
    plot(rows, given.out / "roc.png")
    for measure, each in told.items():
        print(f"{measure.value:12} AUC {each['auc']:.3f}  {_limit_told(each)}")
    print("refused by any limit:", ", ".join(f"{label} {share:.1%}" for label, share in refused.items()))
    if given.write:
        LIMITS_FILE.write_text(source(told, rows))


def _limit_told(each: dict) -> str:
    if each["value"] is None:
        return "no limit"
    shares = (
        f"good refused {each['refused_good']:.1%} of {each['good']}, bad found {each['found_bad']:.1%} of {each['bad']}"
    )
    return f"limit {each['value']:<8g} {shares}"


if __name__ == "__main__":
    main()
