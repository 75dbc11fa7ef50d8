"""The commands as a user types them, in this process: what they write, what they say, and what they refuse."""

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from run_material import make_material, save_model, write_video
from safetensors.torch import save_file
from tiny import SIZE

from scail2.cli.app import main
from scail2.cli.plan import unstated_output
from scail2.cli.progress import TimeLeft, duration
from scail2.files.ownership import locked
from scail2.models.transformer import SCAIL2Transformer3DModel
from scail2.request.animation import AnimationRequest
from scail2.runs import RunDirectory
from scail2.runs.journal import Journal
from scail2.video import VideoReader, probe


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def job(tmp_path, model, monkeypatch):
    """A folder with everything a command needs, as the working folder."""
    make_material(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def given(model, *arguments):
    files = ["--reference", "reference.png", "--driving", "driving.mkv"]
    masks = ["--reference-mask", "reference_mask.png", "--driving-mask", "driving_mask.mkv"]
    return [*files, *masks, "--model", str(model), "--steps", "1", *arguments]


def call(*arguments):
    """Exit code of the command."""
    with pytest.raises(SystemExit) as end:
        main([str(each) for each in arguments])
    return end.value.code or 0


def refusal(capsys, *arguments):
    """The one sentence a command refuses with; exit code 2, no traceback."""
    capsys.readouterr()
    assert call(*arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, lines
    return lines[0]


def test_animate_then_status_rerender_resume_clean(job, model, capsys):
    assert call("animate", *given(model, "--output", "film.mp4", "--compare")) == 0
    assert probe("film.mp4").frames == 19
    assert probe("film-compare.mp4").width == 3 * SIZE
    capsys.readouterr()
    assert call("status", "film.run", "--json") == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["state"], status["segments"], status["finished"]) == ("finished", 4, [0, 1, 2, 3])
    before = VideoReader("film.mp4").frames(0, 19)
    assert call("rerender", "film.run", "--segment", "1", "--seed", "4", "--cascade") == 0
    after = VideoReader("film.mp4").frames(0, 19)
    assert not np.array_equal(before[9:], after[9:])
    assert call("resume", "film.run") == 0
    assert "unchanged, kept" in capsys.readouterr().err
    assert "is kept in" not in refusal(capsys, "rerender", "film.run", "--segment", "9")
    assert call("clean", "film.run") == 0
    assert not Path("film.run/superseded").exists()
    assert call("status", "film.run") == 0
    assert "4 of 4 finished" in capsys.readouterr().out


def test_replace_with_json_events_reports_steps_segments_and_drift(tmp_path, model, monkeypatch, capsys):
    make_material(tmp_path, mode="replacement")
    monkeypatch.chdir(tmp_path)
    assert call("replace", *given(model, "--output", "film.mkv", "--json", "--run-dir", "kept")) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    events = [line["event"] for line in lines]
    assert events[0] == "run_started"
    assert events[-1] == "run_finished"
    assert events.count("segment_finished") == events.count("drift") == 4
    assert {"step", "steps", "segment", "segments"} <= lines[events.index("step")].keys()
    assert RunDirectory.open("kept").request.mode == "replacement"


def test_the_events_of_a_preview_are_a_line_each_and_end_with_what_it_made(job, model, capsys):
    assert call("animate", *given(model, "--output", "film.mkv", "--preview", "--json")) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all({"event", "time"} <= line.keys() for line in lines)
    assert [line["event"] for line in lines].count("segment_finished") == 1
    assert lines[-1]["event"] == "preview_finished"
    assert Path(lines[-1]["film"]).samefile("film.preview/small.mp4")
    assert len(VideoReader(lines[-1]["film"])) == lines[-1]["frames"] == 9


def test_a_refused_plan_has_a_contact_sheet_in_which_the_reason_is_seen(tmp_path, model, monkeypatch, capsys):
    make_material(tmp_path, characters=2)
    monkeypatch.chdir(tmp_path)
    with VideoReader("driving_mask.mkv") as painted:
        frames = painted.frames(0, 19)
    frames[10:] = frames[10:, ..., [2, 1, 0]]  # from there on red is blue
    write_video(tmp_path / "driving_mask.mkv", frames)
    told = refusal(capsys, "plan", *given(model, "--contact-sheet", "sheet.png"))
    assert "characters change colour at frames 10" in told
    assert Image.open("sheet.png").width > SIZE


def test_plan_and_dry_run_render_and_keep_nothing(job, model, capsys):
    before = sorted(os.listdir())
    assert call("plan", *given(model, "--json")) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["frames"], plan["width"], plan["height"], len(plan["segments"])) == (19, SIZE, SIZE, 4)
    assert plan["preflight"]["ok"]
    assert call("animate", *given(model, "--output", "film.mp4", "--dry-run")) == 0
    assert "19 frames" in capsys.readouterr().out
    assert sorted(os.listdir()) == before
    assert call("plan", *given(model, "--contact-sheet", "sheet.png", "--run-dir", "planned")) == 0
    assert Image.open("sheet.png").width > SIZE
    assert RunDirectory.open("planned").status().state == "planned"
    assert "name it sheet.png, not sheet.jpg" in refusal(capsys, "plan", *given(model, "--contact-sheet", "sheet.jpg"))
    Path("holiday.png").write_bytes(Path("reference.png").read_bytes())
    before = {path: Path(path).read_bytes() for path in ("holiday.png", "reference.png", "reference_mask.png")}
    for name in ("holiday.png", "reference.png", "reference_mask.png"):
        assert call("plan", *given(model, "--contact-sheet", name)) == 2
    assert "would overwrite it" in capsys.readouterr().err
    assert {path: Path(path).read_bytes() for path in before} == before
    assert call("plan", *given(model, "--contact-sheet", "sheet.png")) == 0


def test_plan_needs_no_output_and_leaves_a_run_s_own(job, model, capsys):
    settings = {
        "reference": "reference.png",
        "driving": "driving.mkv",
        "model": str(model),
        "num_inference_steps": 1,
        "frames": 9,
    }
    settings |= {"reference_mask": "reference_mask.png", "driving_mask": "driving_mask.mkv"}
    Path("run.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
    assert call("plan", "run.toml") == 0
    RunDirectory.create("film.run", AnimationRequest(**settings, output="out/film.mkv"))
    assert call("plan", "run.toml", "--run-dir", "film.run", "--frames", "5") == 0
    request = RunDirectory.open("film.run").request
    assert (request.output, request.frames) == (job / "out" / "film.mkv", 5)


def test_a_plan_refuses_the_outputs_that_the_run_would(job, model, capsys):
    Path("taken").mkdir()
    Path("taken/notes.txt").touch()
    before = sorted(os.listdir())
    for output, codec, sentence in (
        ("film.avi", None, "cannot write .avi files; name the output .mp4, .mov, .m4v, .mkv, .webm, .gif, .webp"),
        ("film.mp4", "ffv1", "ffv1 is written to .mkv files"),
        ("film.mp4", "png", "PNG frames go to a folder; give a name without .mp4"),
        ("taken", None, "holds other things than frames"),
    ):
        arguments = ["--output", output, "--frames", "9", *(["--codec", codec] if codec else [])]
        assert sentence in refusal(capsys, "plan", *given(model, *arguments))
        assert sentence in refusal(capsys, "animate", *given(model, *arguments, "--run-dir", "run"))
        assert sentence in refusal(capsys, "animate", *given(model, *arguments, "--run-dir", "run", "--dry-run"))
        assert sorted(os.listdir()) == before
    assert call("plan", *given(model, "--output", "new/folder/film.mp4", "--frames", "9")) == 0
    assert sorted(os.listdir()) == before


def test_a_run_goes_on_with_a_model_and_a_lora_that_were_moved(job, model, capsys):
    shutil.copytree(model, "weights")
    network = SCAIL2Transformer3DModel.from_pretrained("weights/transformer")
    rows, columns = network.blocks[0].attn1.to_q.weight.shape
    name = "diffusion_model.blocks.0.self_attn.q"
    save_file(
        {f"{name}.lora_down.weight": torch.ones(2, columns), f"{name}.lora_up.weight": torch.ones(rows, 2)},
        "l.safetensors",
    )
    arguments = ["--lora", "l.safetensors:0.5", "--output", "film.mkv", "--frames", "9"]
    assert call("animate", *given("weights", *arguments)) == 0
    film = VideoReader("film.mkv").frames(0, 9)
    os.rename("weights", "moved")
    os.rename("l.safetensors", "moved.safetensors")
    os.remove("film.mkv")
    told = refusal(capsys, "resume", "film.run")
    assert f"--model {job / 'weights'}, --lora {job / 'l.safetensors'}" in told
    assert f"scail2 resume {job / 'film.run'} --model NEW --lora NEW" in told
    new = ["--model", "moved", "--lora", "moved.safetensors"]
    assert "had the strength 0.5" in refusal(capsys, "resume", "film.run", *new[:3], "moved.safetensors:0.7")
    assert call("resume", "film.run", *new) == 0
    assert RunDirectory.open("film.run").request.lora == (f"{job / 'moved.safetensors'}:0.5",)
    assert np.array_equal(VideoReader("film.mkv").frames(0, 9), film)
    os.rename("moved.safetensors", "again.safetensors")
    save_file(
        {f"{name}.lora_down.weight": torch.ones(2, columns), f"{name}.lora_up.weight": torch.zeros(rows, 2)},
        "other.safetensors",
    )
    assert "The model" in refusal(capsys, "resume", "film.run", "--lora", "other.safetensors")


def test_the_output_of_a_plan_is_a_free_name_beside_the_run(tmp_path):
    assert unstated_output(tmp_path / "film.run") == tmp_path / "film.mp4"
    (tmp_path / "film.mp4").touch()
    (tmp_path / "film-2.mp4").symlink_to("nowhere")
    assert unstated_output(tmp_path / "film.run") == tmp_path / "film-3.mp4"
    assert not unstated_output(None).exists()


def test_settings_file(job, model, capsys):
    Path("run.toml").write_text(
        'reference = "reference.png"\ndriving = "driving.mkv"\noutput = "film.mp4"\nsteps = 1\nframes = 9\n'
        f'reference-mask = "reference_mask.png"\ndriving-mask = "driving_mask.mkv"\nmodel = "{model}"\n'
    )
    assert call("animate", "run.toml", "--frames", "5") == 0
    assert probe("film.mp4").frames == 5
    assert "must be of the form 4n+1" in refusal(capsys, "animate", "run.toml", "--segment-frames", "80")


def test_drift_limit_stops_and_a_higher_one_goes_on(job, model, capsys):
    sentence = refusal(capsys, "animate", *given(model, "--output", "film.mp4", "--drift-limit", "0.0001"))
    assert "segment 1 has drifted" in sentence
    assert RunDirectory.open("film.run").status().finished == (0, 1)
    assert Path("film.run/drift.json").exists()
    assert "segment 1 has drifted" in refusal(capsys, "resume", "film.run")
    assert call("resume", "film.run", "--drift-limit", "1000") == 0
    assert RunDirectory.open("film.run").status().worst_drift > 0.0001


@pytest.mark.parametrize("correction", ["reinhard-first", "reinhard-previous"])
def test_drift_correction_resumes_with_the_same_bits(job, model, correction):
    arguments = given(model, "--output", "film.mp4", "--drift-correction", correction)
    assert call("animate", *arguments) == 0
    whole = [path.read_bytes() for path in sorted(Path("film.run/segments").glob("*/state.safetensors"))]
    (job / "film.run" / "segments" / "002" / "segment.json").unlink()
    (job / "film.run" / "segments" / "003" / "segment.json").unlink()
    assert call("resume", "film.run") == 0
    assert [path.read_bytes() for path in sorted(Path("film.run/segments").glob("*/state.safetensors"))] == whole
    plain = given(model, "--output", "plain.mp4")
    assert call("animate", *plain) == 0
    others = [path.read_bytes() for path in sorted(Path("plain.run/segments").glob("*/state.safetensors"))]
    assert others[0] == whole[0]
    assert others[1] != whole[1]


def test_ctrl_c_keeps_everything_and_exits_with_130(job, model, monkeypatch, capsys):
    def interrupt(self, facts):
        if facts["segment"] == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr("scail2.cli.progress.RunDisplay._step", interrupt)
    assert call("animate", *given(model, "--output", "film.mp4")) == 130
    assert "scail2 resume" in capsys.readouterr().err
    assert RunDirectory.open("film.run").status().finished == (0,)


def test_a_prompt_for_a_model_without_text_is_said_and_not_used(job, model, capsys):
    assert call("animate", *given(model, "--output", "film.mp4", "--frames", "5", "--prompt", "a puppet dances")) == 0
    assert "takes no text" in capsys.readouterr().err


def png_header(width, height):
    """A PNG whose header promises a size and whose content is missing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def write_song(path):
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def bad_driving(kind, folder):
    """A driving file that cannot be used."""
    good = (folder / "driving.mkv").read_bytes()
    path = folder / f"bad_{kind}.mkv"
    if kind == "truncated":
        path.write_bytes(good[: len(good) // 2])
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("no film\n" * 100)
    elif kind == "wrong_extension":
        path = folder / "bad.gif"
        path.write_bytes(good)
    elif kind == "audio_only":
        path = folder / "bad_song.mp4"
        write_song(path)
    elif kind == "one_pixel":
        path = folder / "bad_pixel.png"
        Image.new("RGB", (1, 1)).save(path, save_all=True, append_images=[Image.new("RGB", (1, 1), "red")])
    elif kind == "still":
        path = folder / "reference.png"
    elif kind == "zero_frames":
        path = folder / "bad_folder"
        path.mkdir()
    elif kind == "missing":
        path = folder / "nothing.mp4"
    return path


@pytest.mark.parametrize(
    "kind",
    ["truncated", "empty", "text", "wrong_extension", "audio_only", "one_pixel", "still", "zero_frames", "missing"],
)
def test_bad_driving_files(job, model, capsys, kind):
    path = bad_driving(kind, job)
    arguments = given(model, "--output", "film.mp4")
    arguments[3] = str(path)
    assert path.name in refusal(capsys, "animate", *arguments)
    assert not Path("film.mp4").exists()


@pytest.mark.parametrize("kind", ["truncated", "empty", "huge_header", "one_pixel", "video", "folder"])
def test_bad_references(job, model, capsys, kind):
    path = job / "bad.png"
    if kind == "truncated":
        path.write_bytes((job / "reference.png").read_bytes()[:700])
    elif kind == "empty":
        path.touch()
    elif kind == "huge_header":
        path.write_bytes(png_header(20_000, 20_000))
    elif kind == "one_pixel":
        Image.new("RGB", (1, 1)).save(path)
    else:
        path = job / "driving.mkv" if kind == "video" else job
    arguments = given(model, "--output", "film.mp4")
    arguments[1] = str(path)
    assert path.name in refusal(capsys, "animate", *arguments)


def test_bad_masks(job, model, capsys):
    mask = VideoReader("driving_mask.mkv").frames(0, 19)
    write_video(job / "short.mkv", mask[:12])
    write_video(job / "small.mkv", mask[:, ::2, ::2])
    strange = mask.copy()
    strange[:, 4:12, 4:12] = (120, 80, 30)
    write_video(job / "strange.mkv", strange)
    swapped = np.where((mask == 0).all(axis=-1, keepdims=True), np.uint8(255), mask)
    write_video(job / "swapped.mkv", swapped)
    for name, words in {
        "short.mkv": "has 12 frames but the clip has 19",
        "small.mkv": "16x16 pixels but",
        "strange.mkv": "colours outside the mask palette",
        "swapped.mkv": "white background but animation mode needs black",
        "nothing.mkv": "there is no file",
    }.items():
        arguments = given(model, "--output", "film.mp4")
        arguments[7] = name
        assert words in refusal(capsys, "animate", *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fps", "nan"], "'fps' (--fps) must be a number above 0"),
        (["--height", "50", "--width", "50"], "the nearest that does is 48x48"),
        (["--steps", "-1"], "'num_inference_steps' (--steps) must be"),
        (["--guidance-scale", "inf"], "must be a number from 0 to 100"),
        (["--preset", "beautiful"], "'preset' (--preset) must be one of quality, balanced"),
        (["--solver", "magic"], "'solver' (--solver) must be one of unipc"),
        (["--bind", "driving:3=reference:1"], "driving:3"),
        (["--bind", "sideways"], "unknown binding 'sideways'"),
        (["--codec", "divx"], "codec must be one of"),
        (["--output", "film.avi"], "cannot write .avi files"),
        (["--output", "reference.png"], "would overwrite it"),
        (["--output", "/proc/film.mp4", "--run-dir", "film.run"], "/proc/film.mp4"),
        (["--run-dir", "/proc/run"], "cannot be made: /proc takes no files"),
        (["--run-dir", "."], "is not a run directory"),
        (["--model", "nowhere"], "There is no model nowhere"),
        (["--lora", "nothing.safetensors"], "/nothing.safetensors."),
        (["--masks", "nowhere"], "leave out --reference-mask"),
    ],
)
def test_bad_settings(job, model, capsys, arguments, words):
    assert words in refusal(capsys, "animate", *given(model, "--output", "film.mp4"), *arguments)


def test_usage_errors_exit_with_2(job, model, capsys):
    assert call("animate", *given(model, "--output", "film.mp4"), "--height", "nan") == 2
    assert call("animate", "--no-such-option") == 2
    assert call("rerender", "film.run") == 2
    for command in ("resume", "status", "clean"):
        assert "is not a run directory" in refusal(capsys, command, "nowhere")


@pytest.mark.parametrize("verb", [["status"], ["clean"], ["resume"], ["compare"], ["rerender", "--segment", "0"]])
def test_what_is_no_run_is_told_with_what_to_name(job, capsys, verb):
    Path("film.mp4").touch()
    there = "name the folder that `scail2 animate` or `scail2 replace` made"
    assert refusal(capsys, *verb, "nowhere").endswith(
        f"nowhere is not a run directory: there is nothing; {there}, such as film.run."
    )
    assert refusal(capsys, *verb, "film.mp4").endswith("it is a file; name the run's folder, such as film.run.")
    Path("film.run").mkdir()
    assert refusal(capsys, *verb, "film.run").endswith(
        f"film.run is not a run directory: it has no request.json; {there}."
    )
    assert refusal(capsys, *verb, "film.mp4").endswith(
        f"it is a file; name the run's folder, {Path('film.run').absolute()}."
    )


@pytest.mark.parametrize("verb", ["animate", "replace", "plan", "masks"])
def test_files_given_by_their_place_are_told_which_options_take_them(job, capsys, verb):
    told = refusal(capsys, verb, "reference.png", "driving.mkv")
    assert ": files are named by options, --reference PICTURE --driving VIDEO --output PATH. See: " in told
    if verb != "masks":
        told = refusal(capsys, verb, "driving.mkv")
        assert told.endswith("name the picture with --reference, the video with --driving.")
    assert "files are named by options" not in refusal(capsys, "status", "a.run", "b.run")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a file system in which nothing can be made")
@pytest.mark.parametrize(
    ("verb", "option", "name"),
    [
        ("animate", "--run-dir", "film.run"),
        ("animate", "--output", "film.mp4"),
        ("masks", "--output", "masks"),
        ("plan", "--contact-sheet", "sheet.png"),
    ],
)
def test_a_place_where_nothing_can_be_made_is_told(job, model, capsys, verb, option, name):
    arguments = given(model, "--output", "film.mp4") if verb != "masks" else given(model)[:8]
    told = refusal(capsys, verb, *arguments, option, f"/proc/{name}")
    assert "cannot be made: /proc takes no files; choose another place to write to." in told
    assert ".lock" not in told


def test_a_second_process_is_refused(job, model, capsys):
    assert call("animate", *given(model, "--output", "film.mp4", "--frames", "5")) == 0
    with locked(job / "film.run"):
        assert f"in use by process {os.getpid()}" in refusal(capsys, "resume", "film.run")
        assert call("status", "film.run", "--json") == 0
        assert json.loads(capsys.readouterr().out)["running"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_without_permission(job, model, capsys):
    (job / "locked").mkdir(mode=0o500)
    assert "permission" in refusal(capsys, "animate", *given(model, "--output", "locked/film.mp4"))
    assert "permission" in refusal(capsys, "animate", *given(model, "--output", "film.mp4", "--run-dir", "locked/run"))


def test_a_full_disk_is_one_sentence_and_loses_nothing(job, model, monkeypatch, capsys):
    """In the middle of a run the kernel refuses to let files grow, as on a full disk; later there is space again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    emit = Journal.emit

    def fill_the_disk(self, event, /, **facts):
        emit(self, event, **facts)
        if event == "segment_finished" and facts["segment"] == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "emit", fill_the_disk)
        try:
            sentence = refusal(capsys, "animate", *given(model, "--output", "film.mp4"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "full" in sentence or "limit is reached" in sentence
    assert RunDirectory.open("film.run").status().finished == (0, 1)
    assert call("resume", "film.run") == 0
    assert call("animate", *given(model, "--output", "whole.mp4")) == 0
    assert Path("film.mp4").read_bytes() == Path("whole.mp4").read_bytes()


MISSING = (
    "animate --reference no.png --driving no.mp4 --output film.mp4",
    "replace --reference no.png --driving no.mp4 --output film.mp4 --dry-run",
    "animate --reference reference.png --driving driving.mkv --output film.mp4 --lora no.safetensors",
    "animate --reference reference.png --driving driving.mkv --output film.mp4 --preset fast",
    "animate --reference reference.png --driving driving.mkv --output film.mp4 --preset nonsense",
    "animate --reference reference.png --driving driving.mkv --output film.mp4 --model nowhere",
    "animate --reference reference.png --driving driving.mkv --output film.mp4 --audio no.wav",
    "animate no.toml",
    "plan --reference no.png --driving no.mp4",
    "masks --reference no.png --driving no.mp4 --output masks",
    "resume no.run",
    "status no.run",
    "rerender no.run --segment 0",
    "clean no.run",
    "compare no.run other.run",
    "convert no.safetensors --out weights",
    "info no.safetensors",
    "evaluate no",
    "cache --source no --out latents",
    "train nano --data no --output run",
)


def test_what_is_missing_is_said_before_anything_heavy_is_loaded(job):
    """All of them in one process: none may import torch, whose import alone takes seconds."""
    lines = [
        "import sys",
        "from scail2.cli.app import main",
        f"for line in {MISSING!r}:",
        "    try:",
        "        main(line.split())",
        "    except SystemExit as end:",
        "        print(line, end.code, 'torch' in sys.modules, sep='|')",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    told = [row.split("|")[1:] for row in done.stdout.splitlines()]
    assert told == [["2", "False"]] * len(MISSING), done.stdout
    sentences = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(sentences) == len(MISSING)
    assert sorted(os.listdir()) == ["driving.mkv", "driving_mask.mkv", "reference.png", "reference_mask.png"]


def test_help_is_quick_and_complete(capsys):
    assert call("animate", "--help") == 0
    told = capsys.readouterr().out
    for option in ("--reference", "--driving", "--segment-frames", "--masks", "--run-dir", "--drift-correction"):
        assert option in told
    code = "import sys; from scail2.cli.app import build_app; build_app(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_time_left():
    now = [0.0]
    left = TimeLeft(lambda: now[0])
    assert left.after(0, 2, 1, 4) == ""
    now[0] = 10.0
    assert left.after(0, 2, 2, 4) == "1 min 00 s"
    assert [duration(seconds) for seconds in (3.4, 200, 7500)] == ["3 s", "3 min 20 s", "2 h 05 min"]
