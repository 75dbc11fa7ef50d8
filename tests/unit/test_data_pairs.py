"""Motion pairs: what puppets give, and that files give it back."""

import shutil
import tarfile
from collections import Counter

import numpy as np
import pytest
from tiny import patch_vae
from typer.testing import CliRunner

from scail2.cli.app import build_app
from scail2.data.cache import CacheWork, write_cache
from scail2.data.dataset import LatentDataset
from scail2.data.media import decode_png, decode_video, encode_video
from scail2.data.pairs import Clip, MotionPair, pair_members, read_pair
from scail2.data.puppet_source import PuppetSource
from scail2.data.sharding import shard_path
from scail2.data.shards import DamagedSample, DamageReport, ShardWriter, read_index
from scail2.data.sources import EachPairOnce, PairShards
from scail2.data.synthesis import SynthesisWork, write_pairs
from scail2.data.triplet_settings import SampleKind, TripletSettings, triplet_settings
from scail2.errors import InputError

SOURCE = PuppetSource(frames=5, height=64, width=80, with_poses=True)
CONSTRUCTIONS = [
    SampleKind.ANIMATION_SINGLE,
    SampleKind.ANIMATION_MULTI,
    SampleKind.REPLACEMENT_SINGLE,
    SampleKind.REPLACEMENT_MULTI,
]


def puppets(kind: SampleKind, index: int = 0, source: PuppetSource = SOURCE) -> MotionPair:
    return source.pair(kind, index, np.random.default_rng(index))


@pytest.mark.parametrize("kind", CONSTRUCTIONS)
def test_pairs_are_deterministic_and_hold_what_they_say(kind):
    pair, again = puppets(kind), puppets(kind)
    np.testing.assert_array_equal(pair.real.frames, again.real.frames)
    np.testing.assert_array_equal(pair.synthetic.still.frame, again.synthetic.still.frame)
    count = 2 if kind.is_multi else 1
    assert pair.construction is kind
    for clip in (pair.synthetic, pair.real):
        assert clip.frames.shape == (5, 64, 80, 3)
        assert clip.tracks.shape == (count, 5, 64, 80)
        assert clip.tracks.any(axis=(2, 3)).all()
        assert clip.hand_boxes.shape == (count, 5, 2, 4)
        np.testing.assert_array_equal(clip.parts > 0, clip.region)


def background(clip: Clip, other: Clip) -> np.ndarray:
    return ~(clip.region | other.region)


@pytest.mark.parametrize("kind", CONSTRUCTIONS)
def test_only_replacement_shares_the_scene(kind):
    pair = puppets(kind, 3)
    away = background(pair.synthetic, pair.real)
    distance = np.abs(pair.synthetic.frames.astype(int) - pair.real.frames)[away].mean()
    if kind.value.startswith("replacement"):
        assert distance < 3  # antialiased outlines
        assert sorted(pair.meta["replaced"]) == list(range(len(pair.real.tracks)))
        still = np.abs(pair.real.frames[0].astype(int) - pair.real.still.frame)[~pair.real.region[0]].mean()
        assert still > 8  # the reference comes from a scene of its own
    else:
        assert distance > 8


def test_both_clips_show_one_motion():
    """Silhouettes of the two clips overlap much more than either does with its still."""
    overlaps, unrelated = [], []
    for index in range(6):
        pair = puppets(SampleKind.REPLACEMENT_SINGLE, index)
        one, other = pair.synthetic.region, pair.real.region
        overlaps.append((one & other).sum() / (one | other).sum())
        still = pair.real.still.tracks.any(axis=0)
        unrelated.append((other & still).sum() / (other | still).sum())
    assert np.mean(overlaps) > 0.65
    assert np.mean(unrelated) < np.mean(overlaps) - 0.1


def test_a_generators_error_is_in_the_synthetic_clip_only():
    exact = puppets(SampleKind.ANIMATION_SINGLE, 2)
    biased = puppets(
        SampleKind.ANIMATION_SINGLE, 2, PuppetSource(frames=5, height=64, width=80, generator_error="strong")
    )
    np.testing.assert_array_equal(exact.real.frames, biased.real.frames)
    np.testing.assert_array_equal(exact.synthetic.still.frame, biased.synthetic.still.frame)
    assert (exact.synthetic.tracks != biased.synthetic.tracks).mean() > 0.01


def test_pose_renders_follow_the_character_and_may_be_wrong():
    clip = puppets(SampleKind.POSE_SINGLE, 1).real
    assert (clip.pose.any(axis=-1) == clip.pose_tracks.any(axis=0)).all()
    assert (clip.pose_tracks[0] & clip.tracks[0]).sum() > 0.7 * clip.pose_tracks.sum()
    wrong = puppets(SampleKind.POSE_SINGLE, 1, PuppetSource(frames=5, height=64, width=80, estimator_error="strong"))
    assert (wrong.real.pose != clip.pose).any()


@pytest.mark.parametrize("kind", CONSTRUCTIONS)
def test_files_give_the_pair_back(kind, tmp_path):
    pair = puppets(kind, 1)
    meta, members = pair_members(pair)
    with ShardWriter(tmp_path / "p.tar") as writer:
        writer.write("0", meta, members)
    back = read_pair(read_index(tmp_path / "p.tar", DamageReport())[0])
    assert (back.construction, dict(back.meta)) == (pair.construction, dict(pair.meta))
    for one, other in ((pair.synthetic, back.synthetic), (pair.real, back.real)):
        for name in ("frames", "tracks", "parts", "pose", "pose_tracks"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
        np.testing.assert_array_equal(one.still.frame, other.still.frame)
        np.testing.assert_array_equal(one.still.tracks, other.still.tracks)
        np.testing.assert_allclose(one.hand_boxes, other.hand_boxes, atol=0.01)
        assert one.caption == other.caption


def test_synthesize_then_cache_equals_caching_directly_where_the_same_pair_is_drawn(tmp_path):
    """One pair, one recipe without randomness of its own: the stored way gives the same sample as the direct one."""
    patch_vae().save_pretrained(tmp_path / "vae")
    chosen = TripletSettings(
        name="x", shares={SampleKind.REPLACEMENT_SINGLE: 1.0}, forward_share=0.0, reference_from_target=False
    )
    summary = write_pairs(SynthesisWork(source=SOURCE, triplets=chosen, pairs=1), tmp_path / "pairs")
    assert (summary.written, summary.skipped) == (1, {})
    stored = PairShards((tmp_path / "pairs",))
    samples = []
    for name, source in (("stored", stored), ("direct", SOURCE)):
        job = CacheWork(source=source, triplets=chosen, autoencoder=tmp_path / "vae", samples=1, driving_downsample=1)
        write_cache(job, tmp_path / name)
        samples.append(LatentDataset(tmp_path / name)[0])
    for name in ("target", "driving", "reference", "character", "parts_target", "parts_reference"):
        assert (getattr(samples[0], name) == getattr(samples[1], name)).all(), name
    assert stored.num_parts == SOURCE.num_parts


def test_synthesis_resumes_and_its_members_open(tmp_path):
    def job(pairs: int) -> SynthesisWork:
        small = PuppetSource(frames=5, height=32, width=32)
        return SynthesisWork(source=small, triplets=triplet_settings("nano"), pairs=pairs, pairs_per_shard=2)

    write_pairs(job(2), tmp_path)
    first = shard_path(tmp_path, 0).read_bytes()
    assert write_pairs(job(4), tmp_path, resume=True).written == 2
    assert shard_path(tmp_path, 0).read_bytes() == first
    with tarfile.open(shard_path(tmp_path, 1)) as tar:
        names = {name.split(".", 1)[1]: name for name in tar.getnames()}
        assert decode_video(tar.extractfile(names["real.mkv"]).read()).shape == (5, 32, 32, 3)
        assert decode_png(tar.extractfile(names["synthetic.still.png"]).read()).shape == (32, 32, 3)


def test_stored_pairs_all_come_before_one_comes_twice(tmp_path):
    small = PuppetSource(frames=5, height=32, width=32)
    only = TripletSettings(name="x", shares={SampleKind.ANIMATION_SINGLE: 1.0})
    write_pairs(SynthesisWork(source=small, triplets=only, pairs=5), tmp_path)
    stored, generator = PairShards((tmp_path,)), np.random.default_rng(0)
    drawn = [stored.pair(SampleKind.ANIMATION_SINGLE, index, generator).meta["index"] for index in range(10)]
    assert sorted(drawn[:5]) == sorted(drawn[5:]) == [0, 1, 2, 3, 4]


def test_a_cache_of_all_kinds_uses_every_stored_pair(tmp_path):
    """Pairs of several kinds lie in one folder; each kind must walk through its own without gaps."""
    patch_vae().save_pretrained(tmp_path / "vae")
    source = PuppetSource(frames=5, height=32, width=32)
    write_pairs(SynthesisWork(source=source, triplets=triplet_settings("nano"), pairs=24), tmp_path / "pairs")
    made = CacheWork(
        source=PairShards((tmp_path / "pairs",)),
        triplets=triplet_settings("nano"),
        autoencoder=tmp_path / "vae",
        samples=48,
        driving_downsample=1,
    )
    write_cache(made, tmp_path / "latents")
    used = {record.meta["index"] for record in LatentDataset(tmp_path / "latents").records}
    assert used == set(range(24))


def test_each_stored_pair_once_whatever_the_recipe_would_draw(tmp_path):
    """Of a folder whose kinds are not in the recipe's shares, none is left out and none comes twice in one direction."""
    shares = {SampleKind.ANIMATION_SINGLE: 1.0, SampleKind.REPLACEMENT_MULTI: 3.0}
    source = PuppetSource(frames=5, height=32, width=32)
    write_pairs(
        SynthesisWork(source=source, triplets=TripletSettings(name="even", shares=shares), pairs=6), tmp_path / "pairs"
    )
    made = {str(r.meta["meta"]["index"]): r.meta["construction"] for r in PairShards((tmp_path / "pairs",)).records}
    assert Counter(made.values()) == {"animation_single": 1, "replacement_multi": 5}
    words = ["cache", "--source", str(tmp_path / "pairs"), "--out", str(tmp_path / "latents"), "--workers", "1"]
    told = CliRunner().invoke(build_app(), words, catch_exceptions=False).stdout
    assert "each pair once: 5 replacement_multi, 1 animation_single" in told
    records = [record.meta for record in LatentDataset(tmp_path / "latents").records]
    assert Counter((str(each["index"]), each["swapped"]) for each in records) == {
        (index, swapped): 1 for index in made for swapped in (False, True)
    }
    assert all(each["kind"] == made[str(each["index"])] for each in records)
    with pytest.raises(InputError, match="was made with another source"):  # what goes on would draw
        CliRunner().invoke(build_app(), [*words, "--samples", "14", "--resume"], catch_exceptions=False)


def stored(folder, kinds: dict[SampleKind, int], *, poses: int = 0) -> PairShards:
    """Pairs constructed so, the last `poses` of all with pose renders."""
    frames, tracks = np.zeros((5, 16, 16, 3), np.uint8), np.ones((1, 5, 16, 16), bool)
    constructions = [kind for kind, count in kinds.items() for _ in range(count)]
    with ShardWriter(folder / "shard-00000.tar") as writer:
        for number, construction in enumerate(constructions):
            posed = {"pose": frames, "pose_tracks": tracks} if number >= len(constructions) - poses else {}
            clip = Clip(frames=frames, tracks=tracks, **posed)
            pair = MotionPair(synthetic=clip, real=clip, construction=construction, meta={"index": number})
            writer.write(f"{number:03d}", *pair_members(pair))
    return PairShards((folder,))


def test_of_each_pair_once_the_recipes_part_takes_poses(tmp_path):
    """20 of 40 pairs have pose renders; an eighth of what is wanted are poses: 5 of these, the others stay what they are."""
    pairs = stored(tmp_path, {SampleKind.ANIMATION_SINGLE: 40}, poses=20)
    wanted = {SampleKind.ANIMATION_SINGLE: 0.7, SampleKind.POSE_SINGLE: 0.1}
    once = EachPairOnce(pairs, pairs.shares(wanted))
    assert Counter(once.kinds) == {SampleKind.ANIMATION_SINGLE: 35, SampleKind.POSE_SINGLE: 5}
    assert {number for number, kind in enumerate(once.kinds) if kind.is_pose} <= set(range(20, 40))
    generator = np.random.default_rng(0)
    read = [once.pair(kind, place, generator) for kind, count in Counter(once.kinds).items() for place in range(count)]
    assert sorted(pair.meta["index"] for pair in read) == list(range(40))
    assert all(pair.real.pose is not None for pair in read[35:])


def test_pairs_that_no_kind_takes_are_left_out_of_each_once(tmp_path):
    """Without replacement in the recipe a replacement pair is a pose's, where it has one, and nobody's where it has none."""
    kinds = {SampleKind.ANIMATION_SINGLE: 2, SampleKind.REPLACEMENT_SINGLE: 4}
    pairs = stored(tmp_path, kinds, poses=1)
    wanted = {SampleKind.ANIMATION_SINGLE: 0.9, SampleKind.POSE_SINGLE: 0.1}
    once = EachPairOnce(pairs, pairs.shares(wanted))
    assert once.kinds == (SampleKind.ANIMATION_SINGLE, SampleKind.ANIMATION_SINGLE, SampleKind.POSE_SINGLE)
    assert once.pair(SampleKind.POSE_SINGLE, 0, np.random.default_rng(0)).meta["index"] == 5


def test_a_cache_of_pairs_that_were_replaced_is_not_continued(tmp_path):
    """The folder's name and the number of its pairs are the same; what they show is not."""
    patch_vae().save_pretrained(tmp_path / "vae")
    nano = triplet_settings("nano")

    def make(salt: str) -> PairShards:
        shutil.rmtree(tmp_path / "pairs", ignore_errors=True)
        source = PuppetSource(frames=5, height=32, width=32, salt=salt)
        write_pairs(SynthesisWork(source=source, triplets=nano, pairs=2), tmp_path / "pairs")
        return PairShards((tmp_path / "pairs",))

    def cached(stored: PairShards, **changes) -> CacheWork:
        return CacheWork(
            source=stored, triplets=nano, autoencoder=tmp_path / "vae", samples=4, driving_downsample=1, **changes
        )

    write_cache(cached(make("")), tmp_path / "latents")
    first = shard_path(tmp_path / "latents", 0).read_bytes()
    assert write_cache(cached(make("")), tmp_path / "latents", resume=True).written == 0  # the same pairs, made again
    with pytest.raises(InputError, match="was made with another source"):
        write_cache(cached(make("another world")), tmp_path / "latents", resume=True)
    assert shard_path(tmp_path / "latents", 0).read_bytes() == first


def test_a_folder_of_cached_latents_is_no_source_of_pairs(tmp_path):
    patch_vae().save_pretrained(tmp_path / "vae")
    source = PuppetSource(frames=5, height=32, width=32)
    cached = CacheWork(source=source, triplets=triplet_settings("nano"), autoencoder=tmp_path / "vae", samples=2)
    write_cache(cached, tmp_path / "latents")
    with pytest.raises(InputError, match="no motion pairs"):
        PairShards((tmp_path / "latents",)).pair(SampleKind.ANIMATION_SINGLE, 0, np.random.default_rng(0))


def test_kinds_without_pairs_are_refused_and_damage_is_named(tmp_path):
    small = PuppetSource(frames=5, height=32, width=32)
    only = TripletSettings(name="x", shares={SampleKind.ANIMATION_SINGLE: 1.0})
    write_pairs(SynthesisWork(source=small, triplets=only, pairs=1), tmp_path)
    stored = PairShards((tmp_path,))
    with pytest.raises(InputError, match="replacement_multi"):
        stored.pair(SampleKind.REPLACEMENT_MULTI, 0, np.random.default_rng(0))
    path = shard_path(tmp_path, 0)
    member = read_index(path, DamageReport())[0].members["real.mkv"]
    content = bytearray(path.read_bytes())
    content[member.offset + member.size // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DamagedSample, match=r"real\.mkv"):
        PairShards((tmp_path,)).pair(SampleKind.ANIMATION_SINGLE, 0, np.random.default_rng(0))


def test_lossless_video_round_trip_and_rubbish():
    frames = np.random.default_rng(0).integers(0, 256, (3, 18, 22, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode_video(encode_video(frames)), frames)
    assert encode_video(frames) == encode_video(frames)
    with pytest.raises(ValueError, match="unreadable"):
        decode_video(b"rubbish")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"frames": 16}, "4k\\+1"),
        ({"height": 100}, "multiples of 16"),
        ({"split": "tset"}, "split"),
        ({"domain": "real"}, "domain"),
        ({"generator_error": "some"}, "pose error"),
    ],
)
def test_source_settings_are_checked(settings, complaint):
    with pytest.raises(InputError, match=complaint):
        PuppetSource(**settings)
