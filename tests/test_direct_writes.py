"""Files are written through `scail2/files/`: beside their name, then renamed. Whoever writes by himself is named here."""

import ast
from pathlib import Path

import pytest
from direct_writes import direct_writes

PACKAGE = Path(__file__).parents[1] / "src" / "scail2"

# What writes by itself, and why nobody can see a half of it.
STAGED = "into a place that `Staging` made, which its caller publishes"
ALLOWED = {
    ("data.shards", "ShardWriter.__exit__"): "a shard's index, made in the shard's staging place and renamed before the shard is",
    ("evaluation.pictures", "plot"): STAGED,
    ("loading.components", "load_tokenizer"): "a temporary folder, read at once",
    ("loading.conversion", "_convert_one"): STAGED,
    ("loading.conversion", "_convert_pipeline"): STAGED,
    ("loading.conversion", "_convert_pipeline_folder"): STAGED,
    ("perception.tracks", "TrackRecorder._flush"): "label maps in a mask stage's staging folder or a temporary one",
    ("pipeline.saved", "SavedPipeline.save_pretrained"): "diffusers' own call, which the user makes on a folder of his",
    ("runs.executor", "Executor._save"): "asks the segment store, whose own writes are below",
    ("runs.journal", "Journal._append"): "a log that grows line by line; a line that was cut short is closed off",
    ("runs.rehearsal", "copy_prepared"): "a copy of a run in a temporary folder, for a plan",
    ("runs.segment_store", "SegmentStore._write"): "a segment's folder under a temporary name, renamed when whole",
    ("serving.uploads", "Uploads._store"): STAGED,
    ("serving.uploads", "Uploads.receive"): "renames what is whole and examined to its hash",
    ("serving.uploads", "Uploads.trim"): "renames what is whole and examined to its hash",
    ("serving.worker_process", "main"): "the standard output, for messages to the service",
    ("training.ablations", "Experiment.make_start"): STAGED,
    ("training.publication", "publish"): STAGED,
    ("training.records", "TrainingRecord.__init__"): "a log that grows line by line",
    ("training.run_folder", "exported_folder"): "renames an older export into a staging folder",
    ("training.run_folder", "save_config"): "a log of changes that grows line by line",
    ("training.session", "export_transformer"): STAGED,
    ("training.state", "save_state"): STAGED,
    ("training.trainer", "Trainer.save"): "asks its context, which has the checkpoint staged and renamed",
    ("video.sound_copy", "_film_of"): "a film of a few packets in memory, to hear whether it begins as its source does",
    ("video.writer", "VideoWriter._open"): "an encoder streams into the film's staging place",
    ("video.writer", "VideoWriter._publish"): "renames the film from its staging place, once it is known what it replaces",
    ("video.writer", "VideoWriter._reserve"): "the film's staging place",
    ("video.writer", "VideoWriter._write_frame"): "pictures in the film's staging place",
    ("video.writer", "_replace_folder"): "exchanges folders of frames by renaming",
}  # fmt: skip


def test_files_are_written_in_one_way():
    found = direct_writes(PACKAGE, rooms_left_out=frozenset({"files"}))
    assert sorted(found - ALLOWED.keys()) == [], "write through scail2.files.staging or scail2.files.storage"
    assert sorted(ALLOWED.keys() - found) == [], "no longer there: take it off the list"


@pytest.mark.parametrize(
    ("line", "writes"),
    [
        ('open(path, "w")', True),
        ('path.open("xb")', True),
        ('open(path, mode="a")', True),
        ('with open(path, "r+") as file: pass', True),
        ("os.open(path, os.O_RDWR | os.O_CREAT)", True),
        ('path.write_text("x")', True),
        ('av.open(path, "w", format="mp4")', True),
        ('tarfile.open(path, "w")', True),
        ("np.save(path, array)", True),
        ("picture.save(path)", True),
        ("torch.save(state, path)", True),
        ("save_file(tensors, path)", True),
        ("json.dump(values, file)", True),
        ("figure.savefig(path)", True),
        ("os.replace(one, path)", True),
        ("shutil.copy2(one, path)", True),
        ("open(path)", False),
        ('open(path, "rb")', False),
        ("os.open(path, os.O_RDONLY)", False),
        ('av.open(path, "r")', False),
        ('text.replace("a", "b")', False),
        ("dataclasses.replace(one, field=2)", False),
        ('av.open(io.BytesIO(), "w")', False),
        ("buffer = io.BytesIO(); picture.save(buffer)", False),
        ("with atomic_file(path) as file: picture.save(file)", False),
        ("staging.place.write_bytes(content)", False),
        ("write_bytes(path, content)", False),
    ],
)
def test_every_way_to_write_is_seen(tmp_path, line, writes):
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "module.py").write_text(f"class Writer:\n    def act(self):\n        {line}\n")
    ast.parse((tmp_path / "room" / "module.py").read_text())
    assert direct_writes(tmp_path) == ({("room.module", "Writer.act")} if writes else set())
    assert direct_writes(tmp_path, rooms_left_out=frozenset({"room"})) == set()
