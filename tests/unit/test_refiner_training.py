"""The refiner's training: fresh clips by number, the loss against its definition, what a run trains, resuming."""

import dataclasses
import multiprocessing

import pytest
import torch
import torch.distributed as dist
from tiny import bare_transformer

from scail2.conditions import ConditionGeometry
from scail2.data.puppet_source import PuppetSource
from scail2.errors import InputError
from scail2.evaluation.metrics import ssim_map
from scail2.models.autoencoder import AutoencoderPatchTransform
from scail2.training.config import OptimizerConfig
from scail2.training.nano.critic import PatchCritic, critic_terms
from scail2.training.nano.fresh_clips import FreshClipConfig, FreshClips
from scail2.training.nano.kept import write_kept
from scail2.training.nano.refiner import (
    RefinerConfig,
    RefinerTraining,
    averaged_weights,
    joint_refiner,
    load_networks,
    named_networks,
    with_refiner,
)
from scail2.training.objectives.pictures import PictureLoss, dissimilarity, faintness, least_displaced
from scail2.training.parallel import ParallelContext

CPU = ParallelContext(torch.device("cpu"))
SOURCE = PuppetSource(frames=9, height=32, width=32)


@pytest.fixture(scope="module")
def linear() -> AutoencoderPatchTransform:
    return AutoencoderPatchTransform(z_dim=12, num_static_channels=9)


def network(**changes):
    return bare_transformer(in_channels=16, out_channels=12, **changes)


def fresh_clips(linear, **changes) -> FreshClips:
    return FreshClips(SOURCE, linear, ConditionGeometry.of(network()), FreshClipConfig(pairs=1, **changes))


def training(linear, directory, config, **changes) -> RefinerTraining:
    torch.manual_seed(0)
    directory.mkdir(exist_ok=True)
    vae = with_refiner(linear, (8, 12), (1, 1))
    return RefinerTraining(vae, network(), fresh_clips(linear, **changes), config, directory, CPU)


def test_a_batch_follows_from_its_number_and_shows_both_sides_of_a_pair(linear):
    clips = fresh_clips(linear, whole_share=1.0, history_share=0.0)
    first, again, other = clips(3), clips(3), clips(4)
    assert torch.equal(first.pixels, again.pixels)
    assert not torch.equal(first.pixels, other.pixels)
    torch.testing.assert_close(linear.encode(first.pixels).latent_dist.mode(), first.latents)
    # One side's driving video is the other side's target.
    driving = linear.decode_linear(first.conditions.driving_latents)
    shown = linear.decode_linear(linear.encode(first.pixels.flip(0)).latent_dist.mode())
    torch.testing.assert_close(driving, shown)


def test_others_come_as_often_as_asked(linear):
    animals = PuppetSource(frames=9, height=32, width=32, domain="nano-animals")
    config = FreshClipConfig(pairs=1, whole_share=1.0, others_share=0.25)
    drawn = []

    class Watched:
        def __getattr__(self, name):
            return getattr(animals, name)

        def pair(self, kind, index, generator):
            drawn.append(index)
            return animals.pair(kind, index, generator)

    clips = FreshClips(SOURCE, linear, ConditionGeometry.of(network()), config, others=[Watched()])
    batches = [clips(number) for number in range(40)]
    assert 4 <= len(drawn) <= 16
    assert torch.equal(batches[7].pixels, clips(7).pixels)


def test_windows_are_cut_alike_from_everything(linear):
    whole = fresh_clips(linear, whole_share=1.0, history_share=0.0)
    window = fresh_clips(linear, whole_share=0.0, window=2)
    starts = set()
    for number in range(6):
        cut, full = window(number), whole(number)
        starts.add(start := cut.frame_offset)
        assert torch.equal(cut.latents, full.latents[:, :, start : start + 2])
        assert torch.equal(cut.conditions.driving_latents, full.conditions.driving_latents[:, :, start : start + 2])
        assert torch.equal(cut.conditions.driving_masks, full.conditions.driving_masks[:, :, start : start + 2])
        frames = linear.decode_linear(cut.latents, first_alone=cut.starts_clip)
        assert frames.shape == cut.pixels.shape
        assert cut.region.shape == cut.details.shape == cut.pixels[:, 0].shape
        assert cut.details.any()
        assert not (cut.details & ~cut.region).any()
        assert torch.equal(cut.pixels, full.pixels[:, :, 0 if start == 0 else 1 : 5 if start == 0 else 9])
    assert starts == {0, 1}


def test_history_is_for_whole_clips_only(linear):
    remembering = fresh_clips(linear, whole_share=0.5, history_share=1.0, history_frames=1)
    for number in range(8):
        batch = remembering(number)
        assert batch.history_frames == (1 if batch.latents.shape[2] == 3 else 0)


def test_the_loss_is_made_of_its_terms():
    generator = torch.Generator().manual_seed(0)
    output, truth = (torch.rand(1, 3, 2, 16, 16, generator=generator) * 2 - 1 for _ in range(2))
    region, details = torch.zeros(2, 1, 2, 16, 16, dtype=torch.bool)
    region[..., :8] = True
    details[..., :4] = True
    picture = PictureLoss(squared=2.0, absolute=0.5, gradient=0.25, similarity=0.1, character=3.0, detail=6.0)
    weight = picture.weight(region, details)
    total, terms = picture(output, truth, weight)
    expected = 2 * terms["squared"] + 0.5 * terms["absolute"] + 0.25 * terms["gradient"] + 0.1 * terms["dissimilarity"]
    assert float(total) == pytest.approx(float(expected))
    squares = (output - truth).square()
    parts = 6 * squares[..., :4].mean() + 3 * squares[..., 4:8].mean() + 2 * squares[..., 8:].mean()
    assert float(terms["squared"]) == pytest.approx(float(parts / 11))
    assert float(picture(truth, truth, weight)[0]) == pytest.approx(0, abs=1e-6)


def test_faintness_is_about_the_strength_of_edges_and_not_their_place():
    def edge(at: float, softness: float) -> torch.Tensor:
        ramp = ((torch.arange(32.0) - at) / softness).clamp(-1, 1)
        return ramp.expand(1, 3, 1, 32, 32).clone()

    truth = edge(16, 0.5)
    assert faintness(truth, truth).max() < 1e-6
    moved, blurred, flat = (faintness(v, truth)[..., 8] for v in (edge(17, 0.5), edge(16, 6), torch.zeros_like(truth)))
    assert moved.max() < 1e-3 < 0.3 < blurred.min() < flat.min()
    dots = ((torch.arange(32)[:, None] + torch.arange(32)) % 2).float().expand(1, 3, 1, 32, 32)
    torch.testing.assert_close(faintness(dots, truth)[..., 3:-3, 8], flat[..., 3:-3], rtol=0, atol=0.01)
    # Half as strong everywhere: 1 − (2·½ + c) / (1 + ¼ + c), in the window's middle where c is nothing.
    assert faintness(truth / 2, truth).max() == pytest.approx(0.2, abs=0.01)


def test_what_is_drawn_beside_its_place_costs_nothing_and_what_is_blurred_over_its_places_does():
    def dot(*places: tuple[int, int]) -> torch.Tensor:
        picture = torch.zeros(1, 3, 2, 32, 32)
        for x, y in places:
            picture[..., y : y + 2, x : x + 2] += 1 / len(places)
        return picture

    truth, centre = dot((16, 16)), (..., 8, 8)
    spread = dot(*((16 + dx, 16 + dy) for dx in (-2, 0, 2) for dy in (-2, 0, 2)))
    assert least_displaced(truth, truth).max() == 0
    assert least_displaced(dot((18, 14)), truth)[centre].max() == 0
    far, blurred, missing = (
        least_displaced(v, truth)[centre] for v in (dot((13, 16)), spread, torch.zeros_like(truth))
    )
    # Three pixels away, moved by two: half of the dot lies beside its place, 2 + 2 pixels of 49 are wrong.
    torch.testing.assert_close(far, torch.full_like(far, 4 / 49))
    # A ninth of the dot's strength on its nine places: 4·(8/9)² + 32·(1/9)² over 49 pixels.
    torch.testing.assert_close(blurred, torch.full_like(blurred, (4 * 64 + 32) / 81 / 49))
    torch.testing.assert_close(missing, torch.full_like(missing, 4 / 49))
    torch.manual_seed(0)
    output = torch.rand(1, 3, 2, 32, 32, requires_grad=True)
    least_displaced(output, truth).sum().backward()
    assert output.grad.isfinite().all()
    assert output.grad.abs().sum() > 0


def test_contrast_is_a_term_of_its_own():
    torch.manual_seed(0)
    output, truth = torch.rand(2, 3, 2, 16, 16) * 2 - 1, torch.rand(2, 3, 2, 16, 16) * 2 - 1
    weight = torch.ones(2, 1, 2, 16, 16)
    without, terms = PictureLoss()(output, truth, weight)
    assert "faintness" not in terms
    total, terms = PictureLoss(contrast=0.5, displaced=0.25)(output, truth, weight)
    torch.testing.assert_close(total, without + 0.5 * terms["faintness"] + 0.25 * terms["displaced"])


def test_dissimilarity_is_the_measures_ssim():
    generator = torch.Generator().manual_seed(1)
    output, truth = (torch.randint(256, (1, 3, 2, 24, 24), generator=generator) for _ in range(2))
    measured = ssim_map(*(clip[0].permute(1, 2, 3, 0).byte().numpy() for clip in (output, truth)))
    ours = 1 - dissimilarity(output / 127.5 - 1, truth / 127.5 - 1)[0, 0].numpy()
    # The measure divides variances by one pixel less; borders are padded differently.
    inner = measured[:, 4:-4:2, 4:-4:2]
    assert abs(ours[:, 2:-2, 2:-2] - inner).max() < 0.01
    assert inner.std() > 0.05


def test_a_run_trains_the_refiner_only_and_gets_better(linear, tmp_path):
    quick = OptimizerConfig(learning_rate=1e-2, muon_learning_rate=0.03, weight_decay=0.0, clip_norm=1.0)
    config = RefinerConfig(steps=25, log_every=5, checkpoint_every=25, optimizer=quick)
    run = training(linear, tmp_path, config)
    before = {name: value.clone() for name, value in run.transformer.state_dict().items()}
    basis = run.vae.video_basis.clone()
    batch, generator = run.clips(0), torch.Generator()
    first = run.loss(batch, generator.manual_seed(0))[0].item()
    assert run.run() == 50
    assert run.loss(batch, generator.manual_seed(0))[0].item() < 0.95 * first
    assert all(torch.equal(value, before[name]) for name, value in run.transformer.state_dict().items())
    assert torch.equal(run.vae.video_basis, basis)
    vae = with_refiner(linear, (8, 12), (1, 1))
    load_networks(tmp_path, vae, network())
    averages = {name: value for name, value in run.average.average.items() if name.startswith("refiner.")}
    assert averages
    assert all(torch.equal(vae.state_dict()[name], value) for name, value in averages.items())
    # A small file of how far it has moved stands for the run.
    torch.manual_seed(0)
    began = with_refiner(linear, (8, 12), (1, 1))
    start = {name: value.clone() for name, value in began.state_dict().items()}
    write_kept(tmp_path / "run.npz", averaged_weights(tmp_path), named_networks(began, network()))
    load_networks(tmp_path / "run.npz", began, network())
    for name, value in averages.items():
        assert (began.state_dict()[name] - value).norm() <= 0.17 * (start[name] - value).norm(), name


def test_a_joint_run_trains_both_and_goes_on_where_it_stopped(linear, tmp_path):
    assert [joint_refiner(4, clips=clips).accumulation for clips in (2, 4, 16, 64)] == [8, 4, 1, 1]
    config = dataclasses.replace(joint_refiner(4, clips=8), checkpoint_every=2, log_every=1)
    changes = {"whole_share": 0.5, "history_share": 1.0, "history_frames": 1}
    whole = training(linear, tmp_path / "whole", config, **changes)
    start = {name: value.clone() for name, value in whole.model.state_dict().items()}
    assert whole.run() == 16
    moved = {
        name.split(".")[0] for name, value in whole.model.state_dict().items() if not torch.equal(value, start[name])
    }
    assert moved == {"refiner", "transformer"}
    training(linear, tmp_path / "parts", dataclasses.replace(config, steps=2), **changes).run()
    resumed = training(linear, tmp_path / "parts", config, **changes)
    resumed.run()
    # The rate of a step depends on the number of steps, so only a run that was to have as many is the same.
    assert resumed.average.updates == whole.average.updates == 4
    assert len((tmp_path / "parts" / "log.jsonl").read_text().splitlines()) == 4


def test_resuming_is_exact(linear, tmp_path):
    config = RefinerConfig(steps=4, checkpoint_every=2, log_every=1)
    whole = training(linear, tmp_path / "whole", config)
    whole.run()
    training(linear, tmp_path / "parts", dataclasses.replace(config, steps=2)).run()
    resumed = training(linear, tmp_path / "parts", config)
    resumed.run()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_a_run_without_checkpoint_is_named(linear, tmp_path):
    with pytest.raises(InputError, match="holds no checkpoint"):
        load_networks(tmp_path / "nothing", with_refiner(linear, (8,), (1,)), network())


def _average_in_one_process(rank: int, store: str, results) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    parameters = [
        torch.nn.Parameter(torch.zeros(3)),
        torch.nn.Parameter(torch.zeros(2, 2)),
        torch.nn.Parameter(torch.zeros(1)),
    ]
    parameters[0].grad = torch.full((3,), 2.0 + rank)
    parameters[1].grad = torch.arange(4.0).view(2, 2) * (1 + rank)
    ParallelContext.detect("cpu").average_gradients(parameters)
    results.put((rank, parameters[0].grad.tolist(), parameters[1].grad.tolist(), parameters[2].grad))
    dist.destroy_process_group()


def test_processes_share_the_mean_of_their_gradients(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [
        context.Process(target=_average_in_one_process, args=(rank, str(tmp_path / "store"), results))
        for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    answers = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert [answer[1:] for answer in answers] == 2 * [([2.5] * 3, [[0.0, 1.5], [3.0, 4.5]], None)]


def test_the_critic_is_bounded_and_learns_what_was_drawn():
    torch.manual_seed(0)
    critic = PatchCritic((8, 8))
    sharp = torch.rand(2, 3, 2, 16, 16) * 2 - 1
    region = torch.ones(2, 2, 16, 16, dtype=torch.bool)
    dull = torch.zeros_like(sharp)
    assert critic(sharp, dull).shape == (2, 2, 4, 4)
    # No layer stretches anything by more than its overlapping patches allow.
    with torch.no_grad():
        critic.layers[0].weight.mul_(100)
        critic.layers[0].bias.zero_()
        before = critic(sharp, dull)
        critic.layers[0].weight.mul_(7)
        torch.testing.assert_close(critic(sharp, dull), before, atol=1e-4, rtol=1e-4)
    optimizer = torch.optim.Adam(critic.parameters(), lr=5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        judgement = critic_terms(critic, dull, sharp, dull, region)[1]
        judgement.backward()
        optimizer.step()
    assert judgement.item() < 1.0  # 2 is a critic that knows nothing
    refined = dull.clone().requires_grad_(True)
    wish, judgement = critic_terms(critic, refined, sharp, dull, region)
    (wish + judgement).backward()
    assert refined.grad.abs().sum() > 0
    optimizer.zero_grad()
    critic_terms(critic, refined, sharp, dull, region)[0].backward()
    assert all(parameter.grad is None for parameter in critic.parameters())


def test_only_patches_with_characters_are_judged():
    torch.manual_seed(0)
    critic = PatchCritic((8, 8))
    refined = torch.rand(1, 3, 1, 32, 32).requires_grad_(True)
    region = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    region[..., :8, :8] = True
    critic_terms(critic, refined, torch.rand(1, 3, 1, 32, 32), torch.zeros(1, 3, 1, 32, 32), region)[0].backward()
    assert refined.grad[..., :8, :8].abs().sum() > 0
    assert refined.grad[..., 24:, 24:].abs().sum() == 0


def test_an_adversarial_run_goes_on_exactly(linear, tmp_path):
    config = RefinerConfig(steps=4, adversarial=0.01, checkpoint_every=2, log_every=1)
    whole = training(linear, tmp_path / "whole", config)
    whole.run()
    training(linear, tmp_path / "parts", dataclasses.replace(config, steps=2)).run()
    resumed = training(linear, tmp_path / "parts", config)
    resumed.run()
    assert {name.split(".")[0] for name in whole.model.state_dict()} == {"refiner", "critic"}
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
