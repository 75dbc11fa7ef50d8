"""Shards, the latent cache and the loader: whole or absent, repeatable, resumable, honest about damage."""

import dataclasses
import json
import os
import shutil
import tarfile

import numpy as np
import pytest
import torch
from tiny import patch_vae

from scail2 import conditions
from scail2.conditions import to_pixels
from scail2.data.cache import CacheWork, write_cache
from scail2.data.coverage import latent_coverage
from scail2.data.dataset import BucketLoader, BucketSampler, LatentDataset
from scail2.data.puppet_source import PuppetSource
from scail2.data.samples import LatentSample, collate
from scail2.data.sharding import shard_path
from scail2.data.shards import DamagedSample, DamageReport, ShardWriter, index_path, read_index
from scail2.data.triplet_encoding import encode_triplet
from scail2.data.triplet_settings import SampleKind, triplet_settings
from scail2.data.triplets import draw_triplet
from scail2.errors import InputError
from scail2.modes import AnimationMode
from scail2.training.config import DataConfig, MixtureKnot
from scail2.training.latent_batches import LatentBatches

SOURCE = PuppetSource(frames=5, height=32, width=48)


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae")
    patch_vae().save_pretrained(folder)
    return folder


def job(vae_folder, samples: int = 16, **changes) -> CacheWork:
    settings = {"source": SOURCE, "triplets": triplet_settings("nano"), "driving_downsample": 1, "samples_per_shard": 8}
    return CacheWork(autoencoder=vae_folder, samples=samples, **(settings | changes))


@pytest.fixture(scope="module")
def cache(vae_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    write_cache(job(vae_folder, 48), folder)
    return folder


def copied(cache, tmp_path):
    for path in cache.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_coverage_counts_pixels_per_cell_and_sub_frame():
    ids = np.zeros((5, 16, 24), np.uint8)
    ids[0, :8, :4] = 1  # half of cell (0, 0) in the single first frame
    ids[3, 8:, 16:] = 2  # all of cell (1, 2) in sub-frame 2 of the group
    coverage = latent_coverage(ids, 2)
    assert coverage.shape == (8, 2, 2, 3)
    np.testing.assert_array_equal(coverage[0::2, 0, 0, 0], [32] * 4)  # the first frame four times, class 1
    assert coverage[2 * 2 + 1, 1, 1, 2] == 64
    assert int((coverage > 0).sum()) == 5
    with pytest.raises(InputError, match="4k\\+1"):
        latent_coverage(ids[:4], 2)


def test_coverage_agrees_with_the_masks_packing():
    from scail2.masks import BindingSlot, mask_latent, paint_mask

    region = np.random.default_rng(0).random((5, 32, 48)) > 0.6
    mask = paint_mask(region[None], [BindingSlot.BLUE], "black")
    packed = mask_latent(torch.from_numpy(mask)[None], half_size=False)[0, 3::7]
    np.testing.assert_array_equal(latent_coverage(region.astype(np.uint8), 1) / 64, packed)


def test_cached_tensors_are_what_conditions_build_makes(cache, vae_folder):
    """Sample 0 rebuilt by hand through `conditions.build` equals the stored one."""
    data = LatentDataset(cache)
    stored = data[0]
    generator = np.random.default_rng([0, 0])
    kind = triplet_settings("nano").draw_kind(generator)
    triplet = draw_triplet(SOURCE.pair(kind, 0, generator), kind, triplet_settings("nano"), generator)
    vae = patch_vae()
    inputs = conditions.build(
        vae,
        conditions.ConditionGeometry(driving_downsample=1),
        mode=triplet.mode,
        reference=to_pixels(triplet.reference[None])[:, :, 0],
        reference_mask=torch.from_numpy(triplet.reference_mask)[None],
        driving=to_pixels(triplet.driving),
        driving_mask=torch.from_numpy(triplet.driving_mask)[None],
    )
    batch = collate([stored])
    assert stored.kind == kind
    torch.testing.assert_close(batch.driving, inputs.driving_latents, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(batch.reference, inputs.reference_latents, atol=2e-3, rtol=1e-3)
    assert torch.equal(batch.driving_mask, inputs.driving_masks)
    assert torch.equal(batch.reference_mask, inputs.reference_masks)
    assert len(batch.driving_mask.unique()) > 4


def test_shapes_and_types(cache):
    sample = LatentDataset(cache)[3]
    shapes = {
        "target": (16, 2, 4, 6),
        "reference": (16, 1, 4, 6),
        "driving": (16, 2, 4, 6),
        "reference_mask": (28, 1, 4, 6),
        "driving_mask": (28, 2, 4, 6),
        "character": (4, 2, 4, 6),
        "parts_target": (4 * SOURCE.num_parts, 2, 4, 6),
        "parts_driving": (4 * SOURCE.num_parts, 2, 4, 6),
        "parts_reference": (4 * SOURCE.num_parts, 1, 4, 6),
    }
    for name, shape in shapes.items():
        tensor = getattr(sample, name)
        assert tuple(tensor.shape) == shape, name
        assert tensor.dtype == (torch.float16 if name in ("target", "reference", "driving") else torch.uint8)
    parts = sample.parts_target.unflatten(0, (4, -1)).sum(dim=1).int()
    assert torch.equal(parts, sample.character.int())


def test_half_size_driving(vae_folder):
    triplet = draw_triplet(
        SOURCE.pair(SampleKind.REPLACEMENT_SINGLE, 1, np.random.default_rng(0)),
        SampleKind.REPLACEMENT_SINGLE,
        triplet_settings("nano"),
        np.random.default_rng(0),
    )
    with pytest.raises(InputError):  # 48 is no multiple of 32
        encode_triplet(patch_vae(), conditions.ConditionGeometry(driving_downsample=2), triplet)


def test_equal_jobs_give_equal_bytes_and_processes_agree(cache, vae_folder, tmp_path):
    write_cache(job(vae_folder, 8), tmp_path / "two", workers=2)  # one shard: one process, still its own
    assert shard_path(tmp_path / "two", 0).read_bytes() == shard_path(cache, 0).read_bytes()


def test_interrupted_runs_leave_whole_shards_and_continue(cache, vae_folder, tmp_path):
    def stop(done: int, _total: int) -> None:
        if done >= 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cache(job(vae_folder, 24), tmp_path, progress=stop)
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == ["shard-00000.tar"]
    assert not list(tmp_path.glob(".*part*"))
    with pytest.raises(InputError, match="--resume"):
        write_cache(job(vae_folder, 24), tmp_path)
    with pytest.raises(InputError, match="another seed"):
        write_cache(job(vae_folder, 24, seed=1), tmp_path, resume=True)
    summary = write_cache(job(vae_folder, 24), tmp_path, resume=True)
    assert (summary.shards, summary.written) == (3, 16)
    for number in range(3):
        assert shard_path(tmp_path, number).read_bytes() == shard_path(cache, number).read_bytes()


def test_samples_that_cannot_be_made_are_named(vae_folder, tmp_path):
    class Broken(PuppetSource):
        def pair(self, kind, index, generator):
            if index == 2:
                raise InputError("the generator fell over")
            return super().pair(kind, index, generator)

    source = Broken(frames=5, height=32, width=48)
    summary = write_cache(job(vae_folder, 8, source=source), tmp_path)
    assert list(summary.skipped) == ["0000002a", "0000002b"]
    assert all("fell over" in reason for reason in summary.skipped.values())
    assert summary.written == len(LatentDataset(tmp_path)) == 6


def test_a_pair_that_does_not_fit_is_named_and_the_cache_goes_on(vae_folder, tmp_path):
    class Odd(PuppetSource):
        def pair(self, kind, index, generator):
            pair = super().pair(kind, index, generator)
            if index != 1:
                return pair
            clip = dataclasses.replace(pair.real, frames=pair.real.frames[:4], tracks=pair.real.tracks[:, :4])
            return dataclasses.replace(pair, real=clip)

    summary = write_cache(job(vae_folder, 8, source=Odd(frames=5, height=32, width=48)), tmp_path)
    assert list(summary.skipped) == ["0000001a", "0000001b"]
    assert summary.written == 6


@pytest.mark.parametrize("first", [1, 3, 5])
def test_a_cache_grows_to_the_bytes_of_one_made_at_once(cache, vae_folder, tmp_path, first):
    write_cache(job(vae_folder, 2 * first), tmp_path)
    summary = write_cache(job(vae_folder, 24), tmp_path, resume=True)
    assert len(LatentDataset(tmp_path)) == 24
    assert summary.written == 24 - 8 * (first // 4)
    for number in range(3):
        assert shard_path(tmp_path, number).read_bytes() == shard_path(cache, number).read_bytes()
    with pytest.raises(InputError, match="more than is asked for"):
        write_cache(job(vae_folder, 8), tmp_path, resume=True)


def test_a_shard_cut_short_is_made_again(cache, vae_folder, tmp_path):
    folder = copied(cache, tmp_path)
    path = shard_path(folder, 2)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert write_cache(job(vae_folder, 48), folder, resume=True).written == 8
    assert path.read_bytes() == whole


class TestDamage:
    def test_a_flipped_byte_is_found_named_and_replaced(self, cache, tmp_path, caplog):
        folder = copied(cache, tmp_path)
        record = read_index(shard_path(folder, 1), DamageReport())[3]
        path = shard_path(folder, 1)
        content = bytearray(path.read_bytes())
        content[record.members["safetensors"].offset + 5000] ^= 0xFF
        path.write_bytes(content)
        data = LatentDataset(folder)
        position = [r.key for r in data.records].index(record.key)
        with pytest.raises(DamagedSample, match=record.key):
            data[position]
        loader = BucketLoader(data, BucketSampler(data, 8, seed=1))
        seen = {sample.key for step in range(30) for sample in loader.samples(step)}
        assert record.key not in seen
        assert [r.message.split(": ")[0] for r in caplog.records] == [f"damaged sample shard-00001.tar/{record.key}"]
        assert data.damage.lines() == [f"sample shard-00001.tar/{record.key}: .safetensors does not match its checksum"]

    def test_a_cut_shard_is_named_and_its_whole_samples_are_used(self, cache, tmp_path):
        folder = copied(cache, tmp_path)
        path = shard_path(folder, 2)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        data = LatentDataset(folder)
        assert "shard-00002.tar" in data.damage.shards
        assert 40 < len(data) < 48
        loader = BucketLoader(data, BucketSampler(data, 4))
        assert all(loader.batch(step).target.isfinite().all() for step in range(5))

    def test_rubbish_is_named(self, cache, tmp_path):
        folder = copied(cache, tmp_path)
        index_path(shard_path(folder, 0)).unlink()
        shard_path(folder, 0).write_bytes(b"no tar at all")
        data = LatentDataset(folder)
        assert "shard-00000.tar" in data.damage.shards
        assert len(data) == 40

    def test_nothing_usable_is_refused(self, tmp_path):
        (tmp_path / "a.tar").write_bytes(b"")
        with pytest.raises(InputError, match=r"holds no usable samples: shard a\.tar: "):
            LatentDataset(tmp_path)
        with pytest.raises(InputError, match="there is no shard or folder"):
            LatentDataset(tmp_path / "elsewhere")
        (tmp_path / "film.mp4").write_bytes(b"film")
        with pytest.raises(InputError, match=r"film\.mp4 is no shard"):
            LatentDataset(tmp_path / "film.mp4")

    def test_pairs_that_were_not_cached_are_told_from_damage(self, tmp_path):
        with ShardWriter(shard_path(tmp_path, 0)) as writer:
            writer.write("0", {"construction": "animation"}, {"target.mkv": b"film"})
        with pytest.raises(InputError, match="holds no cached samples: make some of it with `scail2 cache --source"):
            LatentDataset(tmp_path)


def test_shards_are_plain_webdataset_and_readable_without_an_index(cache, tmp_path):
    folder = copied(cache, tmp_path)
    with tarfile.open(shard_path(folder, 0)) as tar:
        names = tar.getnames()
        meta = json.load(tar.extractfile(names[0]))
    assert names[:2] == ["0000000a.json", "0000000a.safetensors"]
    assert {"mode", "kind", "slots", "caption", "index", "split"} <= set(meta)
    indexed = LatentDataset(folder)
    for path in folder.glob("*.index.json"):
        path.unlink()
    scanned = LatentDataset(folder)
    assert not scanned.damage
    assert [(r.key, r.members) for r in scanned.records] == [(r.key, r.members) for r in indexed.records]


def test_shards_that_were_packed_again_are_read_alike(cache, tmp_path):
    """`tar cf new.tar .`: the folder itself is a member, and every name begins with ``./``."""
    folder, packed = copied(cache, tmp_path), tmp_path / "packed"
    packed.mkdir()
    with tarfile.open(shard_path(folder, 0)) as old, tarfile.open(shard_path(packed, 0), "w") as new:
        for info in [tarfile.TarInfo("."), *old.getmembers()]:
            info.type = tarfile.DIRTYPE if info.name == "." else info.type
            content = old.extractfile(info) if info.isfile() else None
            info.name = f"./{info.name}" if content else "."
            new.addfile(info, content)
    again, before = LatentDataset(packed), LatentDataset(shard_path(folder, 0))
    assert not again.damage
    assert [record.key for record in again.records] == [record.key for record in before.records]
    assert torch.equal(again[3].target, before[3].target)


def test_a_shard_with_an_error_is_absent(tmp_path):
    def fail_after_one() -> None:
        with ShardWriter(tmp_path / "a.tar") as writer:
            writer.write("0", {}, {"bin": b"1"})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_after_one()
    assert not list(tmp_path.iterdir())


class TestSampler:
    def test_batches_are_a_function_of_seed_and_step(self, cache):
        data = LatentDataset(cache)
        first, again = (BucketSampler(data, 4, seed=3) for _ in range(2))
        assert [first.batch(step) for step in (9, 4, 9)] == [again.batch(step) for step in (9, 4, 9)]
        assert first.batch(9) != BucketSampler(data, 4, seed=4).batch(9)

    def test_batches_have_one_position_mode_and_the_shares_asked_for(self, cache):
        data = LatentDataset(cache)
        shares = {"animation_single": 0.75, "replacement_single": 0.25}
        sampler = BucketSampler(data, 8, shares=shares)
        modes = []
        for step in range(200):
            found = {data.records[index].meta["position_mode"] for index in sampler.batch(step)}
            assert len(found) == 1
            modes += found
        assert modes.count("animation") / 200 == pytest.approx(0.75, abs=0.1)
        assert {data.records[i].meta["kind"] for s in range(50) for i in sampler.batch(s)} == set(shares)

    def test_single_samples_come_in_the_shares_asked_for(self, cache):
        """With one sample a batch, the draw of the step's group must tell nothing of the draw inside it."""
        shares = {"animation_single": 0.3, "animation_multi": 0.3, "replacement_single": 0.2, "replacement_multi": 0.2}
        data = LatentDataset(cache)
        sampler = BucketSampler(data, 1, shares=shares)
        found = [data.records[sampler.batch(step)[0]].meta["kind"] for step in range(600)]
        assert {kind: found.count(kind) / 600 for kind in shares} == pytest.approx(shares, abs=0.06)

    def test_an_epoch_visits_each_sample_once(self, cache):
        data = LatentDataset(cache)
        kind = SampleKind.ANIMATION_SINGLE
        members = data.indices_of(kind)
        sampler = BucketSampler(data, 1, shares={kind: 1.0})
        visited = [sampler.batch(step)[0] for step in range(2 * len(members))]
        assert sorted(visited[: len(members)]) == sorted(visited[len(members) :]) == sorted(members)
        assert visited[: len(members)] != visited[len(members) :]

    def test_kinds_that_are_not_there_are_refused(self, cache):
        with pytest.raises(InputError, match="pose_multi"):
            BucketSampler(LatentDataset(cache), 4, shares={"pose_multi": 1.0})


@pytest.mark.parametrize("kind", [SampleKind.ANIMATION_SINGLE, SampleKind.REPLACEMENT_SINGLE])
def test_a_sample_driven_by_itself_equals_one_built_from_its_target(kind):
    """`self_driven()` on latents against masks painted from the target and encoded."""
    from scail2.masks import BindingSlot, paint_mask
    from scail2.modes import MODE_TRAITS

    generator = np.random.default_rng(0)
    triplet = draw_triplet(SOURCE.pair(kind, 4, generator), kind, triplet_settings("nano"), generator)
    geometry = conditions.ConditionGeometry(driving_downsample=1)
    slots = [BindingSlot[name.upper()] for name in triplet.slots]
    mask = paint_mask(triplet.region[None], slots, MODE_TRAITS[kind.mode].driving_background)
    by_hand = dataclasses.replace(triplet, driving=triplet.target, driving_mask=mask)
    wanted = encode_triplet(patch_vae(), geometry, by_hand)
    facts = {
        "key": "k",
        "kind": kind,
        "mode": kind.mode,
        "position_mode": kind.mode,
        "slots": triplet.slots,
        "meta": {},
    }
    own = LatentSample(**encode_triplet(patch_vae(), geometry, triplet), **facts).self_driven()
    torch.testing.assert_close(own.driving, wanted["driving"])
    assert torch.equal(own.driving_mask, wanted["driving_mask"])
    assert own.kind is SampleKind.SELF_DRIVEN


def test_several_characters_cannot_drive_themselves(cache):
    data = LatentDataset(cache)
    several = [i for i, r in enumerate(data.records) if len(r.meta["slots"]) == 2]
    with pytest.raises(InputError, match="single-character"):
        data[several[0]].self_driven()


def test_one_rope_reaches_the_batch(vae_folder, tmp_path):
    chosen = triplet_settings("nano+one_rope")
    write_cache(job(vae_folder, 8, triplets=chosen), tmp_path)
    data = LatentDataset(tmp_path)
    loader = BucketLoader(data, BucketSampler(data, 8))
    modes = {data.records[i].meta["mode"] for i in range(len(data))}
    assert {loader.batch(step).mode for step in range(10)} == {AnimationMode.ANIMATION}
    assert modes == {"animation", "replacement"}


def test_two_shapes_never_share_a_batch(cache, vae_folder, tmp_path):
    write_cache(job(vae_folder, 16, source=PuppetSource(frames=5, height=32, width=32)), tmp_path)
    data = LatentDataset(cache, tmp_path)
    sampler = BucketSampler(data, 4)
    widths = [{data[i].target.shape[-1] for i in sampler.batch(step)} for step in range(40)]
    assert all(len(found) == 1 for found in widths)
    assert set.union(*widths) == {4, 6}


def test_two_runs_fill_one_folder_together(cache, vae_folder, tmp_path):
    """The second begins while the first works at shard 0: it makes the others and leaves that one alone."""
    others = []

    def meanwhile(done: int, _total: int) -> None:
        if done == 2 and not others:
            others.append(write_cache(job(vae_folder, 24), tmp_path, resume=True))
            with pytest.raises(InputError, match="another seed"):
                write_cache(job(vae_folder, 24, seed=1), tmp_path, resume=True)

    first = write_cache(job(vae_folder, 24), tmp_path, progress=meanwhile)
    assert (first.written, first.missing) == (8, 0)
    assert (others[0].written, others[0].missing) == (16, 1)
    shards = [shard_path(tmp_path, number) for number in range(3)]
    assert [each.read_bytes() for each in shards] == [shard_path(cache, number).read_bytes() for number in range(3)]
    names = {"cache.json", "shards.json", *(each.name for each in shards), *(index_path(each).name for each in shards)}
    assert {path.name for path in tmp_path.iterdir()} == names
    contents = json.loads((tmp_path / "shards.json").read_text())
    assert contents["samples"] == 24
    assert [each["bytes"] for each in contents["shards"]] == [each.stat().st_size for each in shards]


def test_excluded_pixels_reach_the_batch():
    generator = np.random.default_rng(0)
    kind = SampleKind.ANIMATION_SINGLE
    plain = draw_triplet(SOURCE.pair(kind, 0, generator), kind, triplet_settings("nano"), generator)
    text = np.zeros(plain.region.shape, bool)
    text[:, :8, :16] = True
    geometry = conditions.ConditionGeometry(driving_downsample=1)
    facts = {"key": "k", "kind": kind, "mode": kind.mode, "position_mode": kind.mode, "slots": plain.slots, "meta": {}}
    samples = [
        LatentSample(**encode_triplet(patch_vae(), geometry, t), **facts)
        for t in (plain, dataclasses.replace(plain, excluded=text))
    ]
    batch = collate(samples)
    assert batch.excluded[0].sum() == 0
    assert batch.excluded[1, :, :, 0, :2].min() == 1
    assert batch.excluded[1].sum() == 4 * 2 * 2
    assert collate(samples[:1]).excluded is None


def test_embeddings_of_the_models_encoders(tmp_path, vae_folder):
    from tiny import tiny_pipeline

    from scail2.data.embedding import PipelineEmbedder

    folder = tmp_path / "model"
    tiny_pipeline(vae=patch_vae()).save_pretrained(folder)
    captions = dataclasses.replace(triplet_settings("nano"), caption=True, both_directions=False)
    embedder = PipelineEmbedder(folder)
    write_cache(job(vae_folder, 2, triplets=captions, embedder=embedder), tmp_path / "cache")
    batch = collate([LatentDataset(tmp_path / "cache")[0]])
    assert batch.prompt_embeds.shape == (1, 512, 16)
    assert batch.image_embeds.shape == (1, 5, 16)
    assert batch.prompt_embeds.abs().sum() > 0
    cached = LatentDataset(tmp_path / "cache")
    shares = tuple((kind.value, 1.0) for kind in cached.kinds)
    data = DataConfig(shards=str(tmp_path / "cache"), batch_size=1, mixture=(MixtureKnot(samples=0, shares=shares),))
    empty = LatentBatches(cached, data, seed=0).empty_prompt
    assert torch.equal(empty, embedder.empty_prompt())
    assert empty.abs().sum() > 0  # an empty prompt is not a prompt of zeros
    (tmp_path / "cache" / "empty_prompt.safetensors").unlink()
    with pytest.raises(InputError, match="caption_dropout=0"):
        _ = LatentBatches(cached, data, seed=0).empty_prompt
    with pytest.raises(InputError, match="one worker"):
        write_cache(job(vae_folder, 8, embedder=embedder), tmp_path / "other", workers=2)
    with pytest.raises(InputError, match="no pipeline"):
        PipelineEmbedder(tmp_path)


def test_a_cache_that_cannot_be_begun_leaves_no_folder(vae_folder, tmp_path):
    shutil.copytree(vae_folder, tmp_path / "vae")
    (tmp_path / "vae" / "config.json").unlink()
    with pytest.raises(InputError, match="no autoencoder"):
        write_cache(job(tmp_path / "vae", samples=2), tmp_path / "made")
    assert not (tmp_path / "made").exists()
    os.mkfifo(tmp_path / "vae" / "config.json")
    with pytest.raises(InputError, match=r"config\.json is no plain file"):
        write_cache(job(tmp_path / "vae", samples=2), tmp_path / "made")
    assert not (tmp_path / "made").exists()
