"""Several processes on gloo train what one process trains: the same losses, the same weights, from each other's checkpoints."""

import dataclasses
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import shared_context, together, trainer_of
from safetensors.torch import load_file
from tiny import bare_transformer, forward_inputs
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils._python_dispatch import TorchDispatchMode
from training_material import cache_preferences, configuration, make_world, preferring

from scail2.cli.app import main
from scail2.devices import Precision
from scail2.errors import InputError
from scail2.training.config import LoRAConfig, LossConfig, OptimizerConfig, SheetConfig, TrainConfig
from scail2.training.distributed import launch, muon
from scail2.training.distributed.layout import Layout, Place, usable_processors
from scail2.training.distributed.tensors import sharded_like
from scail2.training.job import TrainingJob
from scail2.training.latent_batches import LatentBatches
from scail2.training.optimizers import OptimizerSet
from scail2.training.parallel import ParallelContext
from scail2.training.recomputation import checkpoint_blocks
from scail2.training.session import build_trainer, load_trainable
from scail2.training.sharing import share_of_step
from scail2.training.state import is_state, latest_state, load_weights, read_progress

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

ADAMW = OptimizerConfig(learning_rate=1e-3, clip_norm=1.0, weight_decay=0.01)
POISONED = 3  # the micro-batch whose loss is not finite in the case "skipped"


def cases(world: Path) -> dict[str, TrainConfig]:
    kept = LossConfig(space="sample", reduction="kept", character_weight=2.0, alignment_weight=0.1, alignment_block=0)
    base = configuration(world, optimizer=ADAMW, loss=kept, keep_checkpoints=3)
    three = dataclasses.replace(base.data, batch_size=3)
    return {
        "full": dataclasses.replace(base, sheets=SheetConfig(every=3, rows=1)),
        "rows": dataclasses.replace(base, data=three, accumulation=1, steps=2),
        "lora": dataclasses.replace(base, lora=LoRAConfig(rank=4), loss=LossConfig(character_weight=2.0), steps=2),
        "dpo": preferring(world, steps=2, optimizer=OptimizerConfig(learning_rate=5e-4, clip_norm=1.0)),
        "skipped": dataclasses.replace(base, steps=3),
        "half": dataclasses.replace(base, precision=Precision.BFLOAT16, steps=2),
        "muon": configuration(world, steps=2),
    }


PAIR, SPLIT, SQUARE = Layout(2), Layout(2, 2), Layout(4, 2)
TWO = [("full", PAIR), ("full", SPLIT), ("lora", PAIR), ("lora", SPLIT), ("rows", PAIR)]
TWO += [("skipped", PAIR), ("half", PAIR), ("muon", PAIR)]
FOUR = [("full", SQUARE), ("lora", SQUARE), ("dpo", SQUARE)]


def place(root: Path, case: str, layout: Layout) -> Path:
    return root / f"{case}-{layout.processes}-{layout.sequence}"


def poison(trainer, micro_step: int) -> None:
    """Makes the loss of one micro-batch infinite, where this process reads it."""
    read = trainer.batches

    def reading(number: int):
        batch = read(number)
        if number == micro_step:
            batch.latents.target.fill_(float("inf"))
        return batch

    trainer.batches = reading


def train_all(rank: int, root: Path, wanted: list) -> None:
    for case, layout in wanted:
        trainer = trainer_of(rank, layout, cases(root)[case], place(root, case, layout))
        if case == "skipped":
            poison(trainer, POISONED)
        trainer.run()


def go_on(rank: int, root: Path) -> None:
    """From checkpoints that other numbers of processes wrote."""
    config = cases(root)["full"]
    trainer_of(rank, PAIR, config, root / "one-to-two").run()
    trainer_of(rank, SPLIT, config, root / "four-to-two").run()


def only_step_4(run: Path, copy: Path) -> Path:
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints" / "step-00000006")
    return copy


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A world in which every case was trained by one process and by several."""
    root = make_world(tmp_path_factory.mktemp("together"))
    cache_preferences(root)
    for case, config in cases(root).items():
        trainer = build_trainer(config, root / case)
        if case == "skipped":
            poison(trainer, POISONED)
        trainer.run()
    together(2, root, train_all, root, TWO)
    together(4, root / "latents", train_all, root, FOUR)
    only_step_4(root / "full", root / "one-to-two")
    only_step_4(place(root, "full", SQUARE), root / "four-to-two")
    together(2, root, go_on, root)
    return root


def final_weights(config: TrainConfig, run: Path) -> dict[str, torch.Tensor]:
    transformer = load_trainable(config)
    load_weights(latest_state(run / "checkpoints"), transformer)
    return {name: value.detach() for name, value in transformer.named_parameters() if value.requires_grad}


def log(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "samples_per_second"} for line in lines]


def assert_same(config: TrainConfig, one: Path, other: Path, tolerance: float = 1e-5) -> None:
    expected, found = final_weights(config, one), final_weights(config, other)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, atol=tolerance, rtol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )
    curve, whole = log(other), log(one)
    assert [line.keys() for line in curve] == [line.keys() for line in whole]
    for line, truth in zip(curve, whole, strict=True):
        for name, value in truth.items():
            # β, 5000, times what the errors' last bits differ by, and what follows from it.
            near = 1e-3 if "logit" in truth and name in ("logit", "preference", "gradient_norm") else tolerance
            assert line[name] == pytest.approx(value, rel=10 * near, abs=near, nan_ok=True), (
                line["step"],
                name,
            )


EXACT = [each for each in TWO + FOUR if each[0] not in ("half", "muon")]


@pytest.mark.parametrize(("case", "layout"), EXACT, ids=lambda each: str(each))
def test_several_processes_train_as_one(root, case, layout):
    assert_same(cases(root)[case], root / case, place(root, case, layout))


def test_training_moved_the_weights_that_are_compared(root):
    for case, config in cases(root).items():
        before = {n: p for n, p in load_trainable(config).named_parameters() if p.requires_grad}
        moved = [not torch.equal(value, before[name]) for name, value in final_weights(config, root / case).items()]
        assert sum(moved) >= 0.5 * len(moved), case
    assert [line["skipped"] for line in log(root / "skipped")] == [0, 1, 1]


def test_half_precision_and_muon_differ_by_their_rounding(root):
    """Linear layers see the same bf16 weights; Newton and Schulz's iteration works in bf16, where a last bit flips others."""
    assert_same(cases(root)["half"], root / "half", place(root, "half", PAIR), 2e-3)
    assert_same(cases(root)["muon"], root / "muon", place(root, "muon", PAIR), 5e-3)


@pytest.mark.parametrize("name", ["one-to-two", "four-to-two"])
def test_training_goes_on_with_another_number_of_processes(root, name):
    assert_same(cases(root)["full"], root / "full", root / name)


def test_one_process_goes_on_from_shards_and_writes_three_files_again(root, tmp_path):
    run = only_step_4(place(root, "full", PAIR), tmp_path / "run")
    build_trainer(cases(root)["full"], run).run()
    assert_same(cases(root)["full"], root / "full", run)
    newest = latest_state(run / "checkpoints")
    assert {path.suffix for path in newest.iterdir()} == {".safetensors", ".pt"}
    # Of those before, written in shards, only as many are kept as the recipe says.
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [f"step-0000000{n}" for n in (2, 4, 6)]


def test_checkpoints_in_shards_say_how_far_they_are(root):
    progress = read_progress(latest_state(place(root, "skipped", PAIR) / "checkpoints"))
    assert (progress.step, progress.samples, progress.skipped, progress.average_updates) == (3, 12, 1, 2)
    names = {path.name for path in latest_state(place(root, "full", SQUARE) / "checkpoints").iterdir()}
    assert names == {"progress.json", *(f"shard-0000{n}-model-00001-of-00001.safetensors" for n in range(1, 5))}


@pytest.mark.parametrize("damage", ["missing", "cut", "scrambled"])
def test_a_damaged_shard_is_refused_with_the_way_to_the_checkpoint_before(root, tmp_path, damage):
    shutil.copytree(place(root, "full", PAIR), tmp_path / "run")
    shard = latest_state(tmp_path / "run" / "checkpoints") / "shard-00002-model-00001-of-00001.safetensors"
    content = shard.read_bytes()
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(b"\xff" * len(content) if damage == "scrambled" else content[:-9])
    with pytest.raises(InputError, match=r"is damaged .* go on from the checkpoint before"):
        build_trainer(cases(root)["full"], tmp_path / "run").run()


def test_another_optimiser_does_not_go_on_from_shards(root, tmp_path):
    shutil.copytree(place(root, "full", PAIR), tmp_path / "run")
    with pytest.raises(
        InputError, match=r"optimiser .* does not fit this recipe: it is adamw, this recipe's adamw and muon"
    ):
        build_trainer(configuration(root), tmp_path / "other", start_from=tmp_path / "run")


def test_contact_sheets_are_drawn_by_all_and_written_once(root):
    for layout in (PAIR, SPLIT, SQUARE):
        for step in (3, 6):
            name = f"samples/step-000000{step}.png"
            truth, found = (
                np.asarray(Image.open(run / name)).astype(int) for run in (root / "full", place(root, "full", layout))
            )
            assert np.abs(found - truth).max() <= 1


# ---- sequences that do not divide, and what is computed again ----------------------------------------------------------


def odd_inputs(model: nn.Module) -> dict:
    """7 tokens: a reference, three of the video, three of the driving video."""
    return forward_inputs(model, batch=2, frames=3, grid=2)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    output = model(**odd_inputs(model), return_dict=False)[0]
    output.square().mean().backward()
    found = {name: parameter.grad.detach().clone() for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return found | {"output": output.detach()}


def compare_split_model(rank: int) -> None:
    expected = gradients(bare_transformer())
    for again in (None, False, True):
        model, context = bare_transformer(), shared_context(rank, SPLIT)
        if again is not None:
            checkpoint_blocks(model, keep_attention=again)
        seen = []
        model.blocks[1].attn1.register_forward_pre_hook(
            lambda _module, inputs, seen=seen: seen.append(inputs[0].shape[1])
        )
        context.place(model, nn.ModuleDict(), Precision.FLOAT32)
        found = gradients(model)
        assert set(seen) == {4}  # of 7 tokens and one of padding
        for name, value in expected.items():
            own = found[name].full_tensor() if name != "output" else found[name]
            torch.testing.assert_close(own, value, atol=1e-6, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def test_tokens_that_do_not_divide_are_padded_and_padding_is_not_seen(tmp_path):
    together(2, tmp_path, compare_split_model)


class _Attentions(TorchDispatchMode):
    """Counts those that are computed; what is kept is handed out above it."""

    count = 0

    def __torch_dispatch__(self, function, _types, arguments=(), options=None):
        self.count += function is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
        return function(*arguments, **(options or {}))


def test_keeping_attention_changes_no_gradient_and_computes_it_once():
    expected = gradients(bare_transformer())
    calls = {}
    for kept in (False, True):
        model = bare_transformer()
        checkpoint_blocks(model, keep_attention=kept)
        with _Attentions() as attentions:
            found = gradients(model)
        calls[kept] = attentions.count
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, atol=1e-7, rtol=1e-6)
    assert calls == {False: 4, True: 2}


def update_sharded(rank: int, folder: Path) -> None:
    model = Matrices()
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    step_with_muon(model)
    whole = {name: value.full_tensor() for name, value in model.state_dict().items()}
    if rank == 0:
        torch.save(whole, folder / "muon.pt")


def update_in_parts(rank: int, folder: Path) -> None:
    """The processes have the same parameters and gradients; each makes some of the updates."""
    made = []
    muon.orthogonal = lambda matrix, group, whole=muon.orthogonal: made.append(matrix.shape) or whole(matrix, group)
    model = Matrices()
    step_with_muon(model, processes=2, rank=rank)
    assert len(made) in (3, 6)  # of three matrices in three steps
    if rank == 1:
        torch.save(model.state_dict(), folder / "muon.pt")


class Matrices(nn.Module):
    """One that divides by two, one that does not, and a row."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(6, rows, bias=False) for rows in (4, 5, 1))


def step_with_muon(model: nn.Module, **shared: int) -> None:
    config = OptimizerConfig(muon_learning_rate=0.02, clip_norm=0.0)
    optimizers = OptimizerSet(model.named_parameters(), config, **shared)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = sharded_like(torch.randn(parameter.shape, generator=generator), parameter.data)
        optimizers.step(1.0)


@pytest.mark.parametrize("update", [update_sharded, update_in_parts])
def test_muon_makes_the_same_steps_of_the_same_gradients(update, tmp_path):
    together(2, tmp_path, update, tmp_path)
    alone = Matrices()
    step_with_muon(alone)
    found = torch.load(tmp_path / "muon.pt")
    assert all(torch.equal(found[name], value) for name, value in alone.state_dict().items())


# ---- who does what ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("processes", "accumulation", "batch"), [(1, 3, 2), (2, 16, 1), (4, 2, 3), (6, 4, 5), (3, 1, 7)]
)
def test_every_sample_of_a_step_is_done_once(processes, accumulation, batch):
    done = []
    for number in range(processes):
        share = share_of_step(number, processes, accumulation, batch)
        mine = [(m, s) for m in range(share.first, accumulation, share.stride) for s in range(batch)[share.rows]]
        assert mine
        done += mine
    assert sorted(done) == [(m, s) for m in range(accumulation) for s in range(batch)]


def test_layouts_that_cannot_be_are_refused_in_words(root):
    with pytest.raises(
        InputError, match=r"8 processes cannot share a step of 1 x 4 samples .* take 3 or 4, or a --batch-size of 8"
    ):
        share_of_step(0, 8, 1, 4)
    with pytest.raises(InputError, match="would train the same"):
        ParallelContext(torch.device("cpu"), rank=1, world_size=2).share(2, 2)
    with pytest.raises(InputError, match="--sequence-parallel 3 does not divide the number of processes, which is 4"):
        Layout(4, 3)
    with pytest.raises(InputError, match=r"2 attention heads of .* cannot be shared by --sequence-parallel 4"):
        Layout(4, 4).check(cases(root)["full"])


# ---- starting them, and seeing them end ---------------------------------------------------------------------------------


@pytest.fixture
def forking(monkeypatch) -> Iterator[None]:
    """The launcher forks this process, which has imported everything, instead of a server that would have to; nobody is left."""
    before = set(multiprocessing.active_children())
    monkeypatch.setattr(launch, "START_METHOD", "fork")
    yield
    assert set(multiprocessing.active_children()) <= before


def at_micro_step(number: int, act: Callable[[], None]) -> None:
    """Has this process do something when it is about to train on a micro-batch."""
    read = LatentBatches.__call__

    def reading(self, micro_step: int):
        if micro_step == number:
            act()
        return read(self, micro_step)

    LatentBatches.__call__ = reading


def killed_in_step_5(rank: int) -> None:
    torch.set_num_threads(1)
    if rank == 1:
        at_micro_step(9, lambda: os.kill(os.getpid(), signal.SIGKILL))


def broken_in_step_1(rank: int) -> None:
    torch.set_num_threads(1)
    if rank == 1:
        at_micro_step(1, lambda: (_ for _ in ()).throw(RuntimeError("the cable came off")))


def interrupted_in_step_3(rank: int) -> None:
    torch.set_num_threads(1)
    if rank == 0:
        at_micro_step(4, interrupt_launcher)


def interrupt_launcher() -> None:
    """As Ctrl-C; goes on when the launcher has passed it on to this process, so that it counts in this step."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    os.kill(os.getppid(), signal.SIGINT)
    signal.sigwait({signal.SIGTERM})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.raise_signal(signal.SIGTERM)


def test_a_killed_process_is_named_and_the_training_goes_on_from_its_last_checkpoint(root, tmp_path, forking):
    job = TrainingJob(config=cases(root)["full"], output=tmp_path / "run", device="cpu")
    told = r"Process 1 of 2 \(counted from 0\) was ended by SIGKILL.* goes on from the checkpoint of step [24]\."
    with pytest.raises(InputError, match=told):
        launch.launch(job, PAIR, killed_in_step_5)
    states = list((job.output / "checkpoints").glob("step-*"))
    assert states
    assert all(is_state(path) for path in states)
    launch.launch(job, PAIR, limit_threads)
    assert_same(job.config, root / "full", job.output)
    exported = load_file(job.output / "transformer" / "diffusion_pytorch_model.safetensors")
    for name, value in final_weights(job.config, root / "full").items():
        torch.testing.assert_close(exported[name], value, atol=1e-5, rtol=1e-5)
    assert {path.name for path in (job.output / "checkpoints").iterdir()} == {f"step-0000000{n}" for n in (2, 4, 6)}


def limit_threads(_rank: int) -> None:
    torch.set_num_threads(1)


def test_a_process_that_fails_says_why_and_the_others_end(root, tmp_path, forking):
    job = TrainingJob(config=cases(root)["lora"], output=tmp_path / "run", device="cpu")
    told = r"Process 1 of 2 \(counted from 0\) failed: RuntimeError: the cable came off\. .* begins again"
    with pytest.raises(InputError, match=told):
        launch.launch(job, PAIR, broken_in_step_1)


def test_of_two_that_failed_the_first_to_say_so_began_it():
    lost = launch._Failure(rank=0, said="RuntimeError: connection closed by peer", mistake=False, at=8.2, code=1)
    began = launch._Failure(rank=1, said="RuntimeError: the cable came off.", mistake=False, at=8.1, code=1)
    killed = launch._Failure(rank=2, said=None, mistake=False, at=math.inf, code=-9)
    assert min([lost, began], key=launch._consequence) is began
    assert min([lost, began, killed], key=launch._consequence) is killed


def test_an_interruption_ends_all_after_the_step_with_a_checkpoint(root, tmp_path, forking):
    job = TrainingJob(config=cases(root)["full"], output=tmp_path / "run", device="cpu")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start what runs behind them deaf to it
    try:
        launch.launch(job, PAIR, interrupted_in_step_3)
    finally:
        signal.signal(signal.SIGINT, before)
    assert latest_state(job.output / "checkpoints").name == "step-00000003"
    assert (job.output / "transformer" / "config.json").is_file()


def test_a_mistake_that_all_processes_find_is_told_once(root, tmp_path, forking):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "holiday.txt").write_text("not a training")
    job = TrainingJob(config=cases(root)["full"], output=tmp_path / "run", device="cpu")
    with pytest.raises(InputError, match=r"run .*training") as caught:
        launch.launch(job, PAIR, limit_threads)
    assert "Process" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ["--nproc", "4096", "--batch-size", "4096"],
            r"--nproc 4096 is more than this machine has: it has \d+ processor",
        ),
        (["--nproc", "2", "--batch-size", "1"], "2 processes cannot share a step of 1 x 1 samples"),
        (["--nproc", "2", "--sequence-parallel", "3"], "--sequence-parallel 3 does not divide"),
        (["--sequence-parallel", "2"], "--sequence-parallel 2 does not divide the number of processes, which is 1"),
        (
            ["--nproc", "16", "--sequence-parallel", "16"],
            "attention heads of .* cannot be shared by --sequence-parallel 16",
        ),
        (["--nproc", "2", "--device", "cuda:1"], "each on a device of its own: --device 'cuda:1' is neither"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_exit_code_2(root, tmp_path, capfd, options, told):
    data = ["--data", str(root / "latents"), "--output", str(tmp_path / "run"), "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        main(["train", "nano_continue", *data, *options])
    assert ended.value.code == 2
    said = " ".join(capfd.readouterr().err.split())
    assert re.search(told, said)
    assert said.startswith("error: ")
    assert said.count(". ") <= 1
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(usable_processors() < 2, reason="the command takes no more processes than processors")
def test_the_command_trains_with_two_processes_and_exports_one_adapter(root, tmp_path):
    options = ["--model", root / "model", "--data", root / "preferences", "--steps", 1, "--batch-size", 2, "--nproc", 2]
    options += ["--device", "cpu"]
    command = [sys.executable, "-m", "scail2", "train", "nano_dpo", *options, "--output", tmp_path / "run"]
    ended = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    begun, done = ended.stdout.splitlines()
    assert re.fullmatch(r"nano_dpo: training [\d,]+ of [\d,]+ parameters on 2 processes \(cpu\)", begun)
    assert done == (
        f"step 1: checkpoint {tmp_path}/run/checkpoints/step-00000001, "
        f"averaged weights {tmp_path}/run/adapter/nano_dpo.safetensors"
    )
    assert re.fullmatch(r"\d\d:\d\d:\d\d step 1 sft .*", ended.stderr.strip())
    assert len(load_file(tmp_path / "run" / "adapter" / "nano_dpo.safetensors")) > 0


def test_torchrun_says_which_process_this_is():
    said = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "MASTER_PORT": "29500"}
    assert Place.in_environment(said) == Place(rank=5, local_rank=1, processes=8, on_machine=4)
    assert Place.in_environment({name: value for name, value in said.items() if name != "RANK"}) is None
