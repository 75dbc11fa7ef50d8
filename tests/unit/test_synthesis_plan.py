"""Plans: what they may say, what comes of them, and that a folder is continued to the same shards wherever it was left."""

import json
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from doc_pages import PAGES, blocks
from endpoint_server import Turn, scripted_endpoint
from PIL import Image
from synthesis_material import SIZE

from scail2.cli.app import main
from scail2.data.own.choosing import groups
from scail2.data.own.listing import listed
from scail2.data.pairs import Clip, MotionPair, pair_members
from scail2.data.shards import DamageReport, ShardWriter, find_shards, read_index
from scail2.data.sources import PairShards
from scail2.data.triplet_settings import PUBLISHED_SHARES, SampleKind
from scail2.errors import InputError
from scail2.execution.crew import Crew
from scail2.execution.figures import Resource
from scail2.execution.tasks import Reported
from scail2.modes import AnimationMode
from scail2.synthesis.assembly import assembled
from scail2.synthesis.bench import Job
from scail2.synthesis.machine import Budget, begin
from scail2.synthesis.plan import SynthesisPlan, load_plan, make_bench
from scail2.synthesis.pools.protocol import STYLE_SHARES
from scail2.synthesis.pools.stored import PicturedCharacters, StoredMotions
from scail2.synthesis.report import read_report
from scail2.synthesis.roles.endpoint import EndpointJudge
from scail2.synthesis.roles.picture_editor import DiffusersEditor
from scail2.synthesis.stages import stage_resources
from scail2.synthesis.work import PlanWork, carry_out

EXAMPLE = Path(__file__).parents[2] / "examples" / "motionpair.toml"
SMALL = f"""
pairs = 6
pairs_per_shard = 3
[motions]
pool = "puppets"
frames = 5
height = {SIZE["height"]}
width = {SIZE["width"]}
[characters]
pool = "puppets"
height = {SIZE["height"]}
width = {SIZE["width"]}
[roles.editor]
play = "puppets"
error = 0.5
"""


def plan_file(folder, text=SMALL):
    path = folder / "plan.toml"
    path.write_text(text)
    return path


def command(*words):
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert ended.value.code == 0


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("shard-*")}


def test_constructions_have_the_published_shares_at_every_number_of_pairs():
    plan = load_plan(EXAMPLE)
    kinds = plan.kinds()
    assert Counter(kinds) == {
        SampleKind.ANIMATION_SINGLE: 120, SampleKind.REPLACEMENT_SINGLE: 27, SampleKind.REPLACEMENT_MULTI: 13,
        SampleKind.POSE_SINGLE: 30, SampleKind.POSE_MULTI: 10,
    }  # fmt: skip
    for number in range(1, 201):
        counts = Counter(kinds[:number])
        assert all(abs(counts[kind] - share * number) < 1.0 for kind, share in PUBLISHED_SHARES.items())
    assert replace(plan, pairs=50).kinds() == kinds[:50]


class DiedError(BaseException):
    pass


def test_a_folder_is_continued_to_the_same_shards_wherever_it_was_left(tmp_path, monkeypatch):
    plan = load_plan(plan_file(tmp_path))
    whole = PlanWork(plan=plan, folder=tmp_path / "whole", where="plan")
    summary = carry_out(whole, crew=Crew())
    assert (summary.written, summary.shards, summary.skipped) == (6, 2, {})
    assert not (tmp_path / "whole" / "making").exists()
    heard = []
    together = PlanWork(plan=replace(plan, in_flight=3), folder=tmp_path / "together", where="plan")
    carry_out(together, crew=Crew(), listen=heard.append)
    assert contents(tmp_path / "together") == contents(tmp_path / "whole")
    figures = [each.content for each in heard if isinstance(each, Reported)][-1]
    edits = read_report(tmp_path / "whole", plan.budget).edits
    assert (figures.done, {each.name: each.visits for each in figures.stages}["edit"]) == (6, edits)
    events = sum(len(path.read_text().splitlines()) for path in (tmp_path / "whole" / "journal").iterdir())
    from scail2.runs.journal import Journal

    emit = Journal.emit
    for left in np.random.default_rng(0).integers(1, events, 3):
        seen = []

        def emitted(self, event, /, seen=seen, left=left, **facts):
            seen.append(event)
            if len(seen) > left:
                raise DiedError
            emit(self, event, **facts)

        work = PlanWork(plan=plan, folder=tmp_path / str(left), where="plan")
        monkeypatch.setattr(Journal, "emit", emitted)
        with pytest.raises(DiedError):
            carry_out(work, crew=Crew())
        monkeypatch.setattr(Journal, "emit", emit)
        carry_out(PlanWork(plan=plan, folder=tmp_path / str(left), where="plan"), crew=Crew(), resume=True)
        assert contents(tmp_path / str(left)) == contents(tmp_path / "whole")
        assert (
            read_report(tmp_path / str(left), plan.budget).to_json()["yield"]
            == read_report(tmp_path / "whole", plan.budget).to_json()["yield"]
        )


def test_a_plan_of_the_command_line_reports_and_its_pairs_are_read_by_the_cache(tmp_path, capsys):
    path = plan_file(tmp_path)
    out = tmp_path / "pairs"
    command("synthesize", "--plan", str(path), "--out", str(out), "--workers", "1")
    told = capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert "6 of 6 pairs accepted" in told
    assert report["accepted"] == {"animation_single": 4, "replacement_single": 1, "pose_single": 1}
    assert report["yield"]["loop"] > report["yield"]["one_shot"]
    assert report["attempts"] == 6 + sum(report["discards"].values())
    source = PairShards((out,))
    pair = source.pair(SampleKind.REPLACEMENT_SINGLE, 0, np.random.default_rng(0))
    assert pair.construction is SampleKind.REPLACEMENT_SINGLE
    assert pair.meta["characters"]
    assert set(pair.meta["replaced"]) == {0}
    command("synthesize", "--plan", str(path), "--out", str(out), "--workers", "1", "--pairs", "7", "--resume")
    assert json.loads((out / "report.json").read_text())["pairs"] == 7
    assert len(find_shards(out)) == 3


@pytest.mark.parametrize(
    ("words", "text", "message"),
    [
        (["--size", "64", "--seed", "3"], SMALL, "--size, --seed cannot be given"),
        ([], "pears = 3", "'pears' is a key that has no meaning here"),
        ([], SMALL.replace('pool = "puppets"', 'pool = "films"', 1), "motions.pool must be one of puppets, shards"),
        (
            [],
            SMALL + '[roles.judge]\nplay = "endpoint"',
            "roles.judge is played by an endpoint, and the plan names none",
        ),
        ([], SMALL + '[generators.animation]\nname = "sora"', "There is no generator 'sora'"),
        ([], SMALL + "[shares]\nanimation_multi = 1", "never synthesised"),
        ([], SMALL + "[shares]\npose_single = 0", "at least one must be above 0"),
        ([], SMALL + "[budget]\ndraws = 0", "'budget.draws': must be from 1 to 100"),
        ([], SMALL.replace("error = 0.5", "error = 5"), "roles.editor.error"),
        (
            [],
            SMALL + '[generators.replacement]\nname = "wan-animate-2"\nmodel = "x"',
            "makes animation, not replacement",
        ),
        ([], SMALL + '[endpoint]\naddress = "here"\nmodel = "m"', "An endpoint's address looks like"),
    ],
)
def test_what_a_plan_cannot_mean_is_said_before_anything_is_made(tmp_path, capsys, words, text, message):
    path = plan_file(tmp_path, text)
    with pytest.raises(SystemExit) as failure:
        main(["synthesize", "--plan", str(path), "--out", str(tmp_path / "out"), "--workers", "1", *words])
    assert failure.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_plan_names_its_players_and_paths_lie_beside_it(tmp_path):
    (tmp_path / "editor").mkdir()
    text = SMALL.replace(
        'play = "puppets"\nerror = 0.5', 'play = "diffusers"\nmodel = "editor"\narguments = {true_cfg_scale = 4.0}'
    )
    text += '[endpoint]\naddress = "http://127.0.0.1:9/v1"\nmodel = "m"\n[roles.captioner]\nplay = "puppets"\n'
    plan = load_plan(plan_file(tmp_path, text))
    bench = make_bench(plan, "plan")
    assert bench.roles.editor == DiffusersEditor(model=str(tmp_path / "editor"), arguments={"true_cfg_scale": 4.0})
    assert isinstance(bench.roles.judge, EndpointJudge)
    assert bench.roles.describe()["captioner"] == {"captioner": "puppets"}
    assert "http" not in json.dumps(bench.describe())  # where an endpoint is served does not decide what comes out
    assert set(bench.generators) == set(AnimationMode)
    assert set(make_bench(SynthesisPlan(pairs=1, shares={SampleKind.POSE_SINGLE: 1.0}), "plan").generators) == set()


def test_what_an_endpoint_costs_is_bounded_for_the_folder(tmp_path):
    """Not for a worker or a call: whoever goes on with the folder finds the budget spent, until it is raised."""
    with scripted_endpoint(Turn({"caption": "A dance."})) as server:

        def plan(requests):
            text = SMALL.replace("pairs = 6", "pairs = 3")
            text += '[roles.captioner]\nplay = "endpoint"\n[roles.judge]\nplay = "puppets"\n'
            text += '[roles.selector]\nplay = "puppets"\n[roles.weaver]\nplay = "puppets"\n'
            text += f'[endpoint]\naddress = "{server.address}"\nmodel = "m"\nbudget = {{ requests = {requests} }}\n'
            return load_plan(plan_file(tmp_path, text))

        def work(requests):
            return PlanWork(plan=plan(requests), folder=tmp_path / "pairs", where="plan")

        for _ in range(2):
            with pytest.raises(InputError, match=r"requests 3 of 3, after 3 answers; raise budget\.requests to go on"):
                carry_out(work(3), crew=Crew(), resume=True)
            assert len(server.asked) == 3
        assert carry_out(work(100), crew=Crew(), resume=True).held == 3
    spent = json.loads((tmp_path / "pairs" / "journal" / "endpoint.json").read_text())["spent"]
    # A caption of the true and one of the made clip; of pairs of poses, only the true one.
    report = read_report(tmp_path / "pairs", plan(100).budget)
    assert spent["requests"] == len(server.asked) == 2 * 3 - report.accepted.get("pose_single", 0)
    assert spent["prompt_tokens"] + spent["answer_tokens"] == 110 * spent["requests"]


def test_the_plans_of_the_page_are_plans(tmp_path, monkeypatch):
    page = next(page for page in PAGES if page.name == "synthesis.md")
    plans = [block.code for block in blocks(page) if block.language == "toml"]
    small, lab = (load_plan(plan_file(tmp_path, text)) for text in plans)
    assert Counter(small.kinds()) == Counter(load_plan(EXAMPLE).kinds())
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(InputError, match="JUDGE_KEY"):
        make_bench(lab, "lab.toml")
    monkeypatch.setenv("JUDGE_KEY", "k")
    bench = make_bench(lab, "lab.toml")
    assert (bench.roles.judge.frames, bench.roles.selector.frames) == (6, 4)
    assert bench.motions == StoredMotions(folders=(tmp_path / "motions",))
    replacing = bench.generators[AnimationMode.REPLACEMENT]
    assert (replacing.tool.folder, replacing.checkpoint) == (tmp_path / "MoCha", "checkpoints/step18500.ckpt")
    assert stage_resources(lab)["judge_clip"] is Resource.ENDPOINT
    assert stage_resources(lab)["edit"] is stage_resources(lab)["generate"] is Resource.GPU
    assert {*stage_resources(small).values()} == {Resource.CPU}


def stored_motions(folder, seed=0, **said):
    frames = np.random.default_rng(seed).integers(0, 256, (5, 16, 24, 3), np.uint8)
    folder.mkdir()
    with ShardWriter(folder / "shard-00000.tar") as writer:
        for number, count in enumerate((1, 2, 1)):
            tracks = np.zeros((count, 5, 16, 24), bool)
            for place in range(count):
                tracks[place, :, 2:14, 8 * place : 8 * place + 6] = True
            pose = {"pose": frames, "pose_tracks": tracks} if number != 2 else {}
            clip = Clip(frames=frames, tracks=tracks, caption=f"clip {number}", **pose)
            pair = MotionPair(
                synthetic=clip,
                real=clip,
                construction=SampleKind.POSE_SINGLE,
                meta={"fps": "25/2", "licence": "CC0", **said},
            )
            meta, members = pair_members(pair)
            writer.write(f"clip{number}", meta, members)
    return StoredMotions(folders=(folder,))


def test_motions_come_from_shards_of_ones_own_videos(tmp_path):
    pool = stored_motions(tmp_path / "own")
    drawn = {kind: {pool.draw(kind, seed) for seed in range(12)} for kind in PUBLISHED_SHARES}
    assert drawn[SampleKind.ANIMATION_SINGLE] == {"shard-00000/clip0", "shard-00000/clip2"}
    assert drawn[SampleKind.POSE_SINGLE] == {"shard-00000/clip0"}
    assert drawn[SampleKind.REPLACEMENT_MULTI] == {"shard-00000/clip1"}
    found = pool.motion("shard-00000/clip1")
    assert found.motion.clip.fps == float(Fraction(25, 2))
    assert found.motion.masks[0, 3, 9].tolist() == [255, 0, 0]  # the second character's slot is red
    assert (found.real.caption, found.meta["licence"]) == ("clip 1", "CC0")
    with pytest.raises(InputError, match="is no motion of"):
        pool.motion("elsewhere")
    with pytest.raises(InputError, match="there is no shard or folder"):
        StoredMotions(folders=(tmp_path / "own" / "empty",)).draw(SampleKind.ANIMATION_SINGLE, 0)


def test_pairs_of_one_dance_stay_in_one_split_whichever_clip_they_are_of(tmp_path):
    """The dance is what the maker of the clips says it is; where nobody says it, each clip is one of its own."""
    kind, tied = SampleKind.POSE_SINGLE, {}
    for place, said in (("said", {"motion": "Waltz"}), ("unsaid", {})):
        pool = stored_motions(tmp_path / place, **said)
        loop = SimpleNamespace(
            bench=SimpleNamespace(seed=0), pool_motion=lambda state, pool=pool: pool.motion(state.motion)
        )
        with ShardWriter(tmp_path / f"{place}.tar") as writer:
            for number in (0, 1):
                state = replace(begin(kind), motion=f"shard-00000/clip{number}", captions=("", ""))
                pair = assembled(loop, Job(key=f"{number}", number=number, kind=kind), state)
                writer.write(f"{number}", *pair_members(pair))
        pairs = [listed(record) for record in read_index(tmp_path / f"{place}.tar", DamageReport())]
        tied[place] = ([pair.motion for pair in pairs], len(groups(pairs)))
    assert tied == {"said": (["Waltz", "Waltz"], 1), "unsaid": (["shard-00000/clip0", "shard-00000/clip1"], 2)}


def test_motions_and_characters_that_were_replaced_are_others(tmp_path):
    """Pools of the same names: a folder of pairs is continued only with the same clips and pictures."""
    told = []
    for place, seed in (("one", 0), ("two", 0), ("three", 1)):
        (tmp_path / place).mkdir()
        told.append(stored_motions(tmp_path / place / "own", seed).describe())
    assert told[0] == told[1]
    assert [name for name in told[0] if told[0][name] != told[2][name]] == ["digest"]

    path = tmp_path / "characters.jsonl"
    entry = {"name": "ann", "picture": "a.png", "style": "real"}

    def characters(colour, **said):
        Image.new("RGB", (16, 8), colour).save(tmp_path / "a.png")
        path.write_text(json.dumps(entry | said))
        return PicturedCharacters(manifest=path).describe()

    first = characters((9, 8, 7))
    assert characters((9, 8, 7)) == first
    for other in (characters((9, 8, 6)), characters((9, 8, 7), standing=True)):
        assert [name for name in first if first[name] != other[name]] == ["digest"]


def test_characters_come_from_a_manifest_in_the_published_proportions(tmp_path):
    Image.new("RGB", (16, 8), (9, 8, 7)).save(tmp_path / "a.png")
    entries = [
        {"name": f"{style}{n}", "picture": "a.png", "style": style, "standing": n == 0, "licence": "CC0"}
        for style in STYLE_SHARES
        for n in range(20)
    ]
    path = tmp_path / "characters.jsonl"
    path.write_text("\n".join(map(json.dumps, entries)))
    pool = PicturedCharacters(manifest=path)
    firsts = Counter(pool.draw(1, seed, ())[0].rstrip("0123456789")[:2] for seed in range(1500))
    assert firsts["3d"] / 1500 == pytest.approx(0.576, abs=0.04)
    assert firsts["re"] / 1500 == pytest.approx(0.091, abs=0.025)
    assert len(set(pool.draw(100, 0, {"3d0"}))) == 59
    assert pool.character("2d3").image[0, 0].tolist() == [9, 8, 7]
    assert (pool.is_standing("2d0"), pool.is_standing("2d1")) == (True, False)
    assert pool.meta("real2") == {"style": "real", "licence": "CC0"}
    path.write_text(json.dumps(entries[0]) + "\n" + json.dumps(entries[0]))
    with pytest.raises(InputError, match="line 2: the name 3d0 is there already"):
        PicturedCharacters(manifest=path).draw(1, 0, ())


def test_a_report_needs_journals(tmp_path):
    with pytest.raises(InputError, match="no journals"):
        read_report(tmp_path, Budget())
