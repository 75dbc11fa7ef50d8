"""SAM3 video tracking through transformers, with weights that the user names (a folder, a file, or a Hub repository).

Text finds and follows everybody it fits (`Sam3VideoModel`); points and boxes pick characters out (`Sam3TrackerVideoModel`);
points and boxes at later frames correct either from there on. Frames are read and prepared one by one and old tracking
memory is dropped, so that memory does not grow with the clip. The processors of transformers are not used: they hold the
whole video and need torchvision; what they do to pixels, points and masks is a few lines here.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from scail2.checkpoints.sam3_file import find_file, load_tracker, load_video_model, open_sam3, sam3_config
from scail2.devices import default_device
from scail2.errors import InputError
from scail2.perception.segmenters.sam3_prompts import Places, by_frame, check_prompts
from scail2.perception.segmenters.sam3_weights import PixelStatistics, load_pretrained, vocabulary_beside
from scail2.perception.tracks import TrackedMasks, TrackRecorder, relabel
from scail2.request.masks import Prompts
from scail2.video import SizedFrames

if TYPE_CHECKING:
    from transformers import Sam3TrackerVideoModel, Sam3VideoModel

# The tracker looks back at most this many frames (16 object pointers, 7 memories); older memory is dropped.
_LOOK_BACK = 20
_TEXT_TOKENS = 32


class _LazyFrames:
    """What a session asks of its frames, answered from a `FrameSource`: prepared float (3, S, S), one at a time."""

    def __init__(self, source: SizedFrames, side: int, statistics: PixelStatistics, target: tuple[Any, torch.dtype]):
        self.source, self.side, self.statistics = source, side, statistics
        self.device, self.dtype = target
        self._last: tuple[int, torch.Tensor] | None = None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> torch.Tensor:
        if self._last is None or self._last[0] != index:
            rgb = torch.from_numpy(np.ascontiguousarray(self.source.frames(index, index + 1)[..., :3]))
            picture = rgb.permute(0, 3, 1, 2).float() / 255
            picture = F.interpolate(picture, size=(self.side, self.side), mode="bilinear", antialias=True)
            mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (self.statistics.mean, self.statistics.std))
            self._last = (index, ((picture - mean) / std)[0].to(self.device, self.dtype))
        return self._last[1]


class Sam3Segmenter:
    """`VideoSegmenter` over SAM3. Make one with `load`; models are loaded when a prompt first needs them.

    Args:
        detector: finds by text and follows; tracker: follows points and boxes.
        tokenizer: turns text into ids; called as ``tokenizer(text, return_tensors="pt", padding="max_length", …)``.
        statistics: pixel normalisation.
    """

    name = "sam3"

    def __init__(
        self,
        detector: "Callable[[], Sam3VideoModel]",
        tracker: "Callable[[], Sam3TrackerVideoModel]",
        tokenizer: Callable[[], Any],
        *,
        statistics: PixelStatistics | None = None,
    ):
        self._makers = {"detector": detector, "tracker": tracker, "tokenizer": tokenizer}
        self._made: dict[str, Any] = {}
        self.statistics = statistics or PixelStatistics()

    @classmethod
    def load(
        cls, weights: str | Path, *, device: str | torch.device | None = None, dtype: torch.dtype = torch.float32
    ) -> "Sam3Segmenter":
        """Opens weights: a folder in transformers format, the name of a Hub repository (which is then downloaded), or one file.

        Without `device` they go to the GPU if there is one, as the model of a run does.

        Raises:
            InputError: there are none, or the file is SAM 3.1 or something else.
        """
        from transformers import AutoTokenizer, Sam3TrackerVideoModel, Sam3VideoModel

        device = device or default_device()
        if (file := find_file(Path(weights))) is not None:
            view = open_sam3(file)
            return cls(
                lambda: load_video_model(view, dtype).to(device),
                lambda: load_tracker(view, dtype).to(device),
                lambda: vocabulary_beside(file, sam3_config(view).detector_config.text_config.vocab_size),
            )
        path = Path(weights)
        weights = str(path.parent if path.is_file() else weights)
        return cls(
            lambda: load_pretrained(Sam3VideoModel, weights, dtype).to(device).eval(),
            lambda: load_pretrained(Sam3TrackerVideoModel, weights, dtype).to(device).eval(),
            lambda: load_pretrained(AutoTokenizer, weights, None),
            statistics=PixelStatistics.read(weights),
        )

    def _get(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def segment(
        self,
        frames: SizedFrames,
        prompts: Prompts | None = None,
        *,
        directory: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> TrackedMasks:
        """Follows what the prompts name: text, then corrections by points and boxes; or points and boxes alone.

        Characters are numbered as in the points and boxes, or, for text, in the order in which they are found. Frames before
        the first point or box are followed backwards from it.

        Raises:
            InputError: no prompt, prompts outside the clip, or nobody found.
        """
        prompts = prompts or Prompts(text=("person",))
        check_prompts(prompts, frames)
        if not prompts.text:
            return self._by_places(frames, prompts, directory, progress)
        found = _largest(self._by_text(frames, prompts, directory, progress), prompts.characters, directory)
        return self._corrected(found, frames, prompts, directory) if prompts.placed else found

    def _session(self, kind: str, frames: SizedFrames) -> Any:
        """A session of transformers whose frames are read lazily."""
        from transformers.models.sam3_tracker_video.modeling_sam3_tracker_video import Sam3TrackerVideoInferenceSession
        from transformers.models.sam3_video.modeling_sam3_video import Sam3VideoInferenceSession

        model = self._get(kind)
        session_type = Sam3VideoInferenceSession if kind == "detector" else Sam3TrackerVideoInferenceSession
        session = session_type(
            video_height=frames.height,
            video_width=frames.width,
            inference_device=model.device,
            inference_state_device=model.device,
            video_storage_device=model.device,
            dtype=model.dtype,
        )
        session.processed_frames = _LazyFrames(
            frames, model.config.image_size, self.statistics, (model.device, model.dtype)
        )
        return session

    # Text

    @torch.inference_mode()
    def _by_text(
        self, frames: SizedFrames, prompts: Prompts, directory: Path | None, progress: Callable[[int, int], None] | None
    ) -> TrackedMasks:
        tokenizer = self._get("tokenizer")
        model, session = self._get("detector"), self._session("detector", frames)
        for text in prompts.text:
            number = session.add_prompt(text)
            ids = tokenizer(text, return_tensors="pt", padding="max_length", max_length=_TEXT_TOKENS, truncation=True)
            session.prompt_input_ids[number] = ids.input_ids.to(model.device)
            session.prompt_attention_masks[number] = ids.attention_mask.to(model.device)
        recorder = TrackRecorder(directory, height=frames.height, width=frames.width)
        numbers: dict[int, int] = {}
        names: list[str] = []
        for output in model.propagate_in_video_iterator(session):
            labels, confidence = self._objects(output, session, frames, numbers)
            for identity in list(numbers)[len(names) :]:
                names.append(session.prompts[session.obj_id_to_prompt_id.get(identity, 0)])
            recorder.add(labels, confidence)
            _forget(session, output.frame_idx)
            if progress:
                progress(output.frame_idx + 1, len(frames))
        if not numbers:
            raise InputError(
                f"SAM3 found nothing like {' or '.join(map(repr, prompts.text))}: use other words, points or boxes."
            )
        return recorder.finish(self.name, names=names)

    def _objects(
        self, output: Any, session: Any, frames: SizedFrames, numbers: dict[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """One frame's label map (1, H, W) and confidences (1, S) from the detector's masks by object identity."""
        hidden = set(output.suppressed_obj_ids or ()) | set(session.hotstart_removed_obj_ids)
        kept = [identity for identity in sorted(output.obj_id_to_mask) if identity not in hidden]
        followed = output.obj_id_to_tracker_score or {}
        scores = {i: float(followed.get(i, output.obj_id_to_score.get(i, 0.0))) for i in kept}
        full = {i: _full_size(output.obj_id_to_mask[i].flatten(0, -3)[None], frames)[0] > 0 for i in kept}
        for identity in kept:
            if full[identity].any():
                numbers.setdefault(identity, len(numbers) + 1)
        labels = np.zeros((1, frames.height, frames.width), np.uint8)
        confidence = np.zeros((1, max(1, len(numbers))), np.float32)
        # The surest object is painted last and keeps the pixels that several claim.
        for identity in sorted(kept, key=scores.__getitem__):
            if identity in numbers:
                labels[0][full[identity]] = numbers[identity]
                confidence[0, numbers[identity] - 1] = min(1.0, max(0.0, scores[identity]))
        return labels, confidence

    # Points and boxes

    def _by_places(
        self, frames: SizedFrames, prompts: Prompts, directory: Path | None, progress: Callable[[int, int], None] | None
    ) -> TrackedMasks:
        places = by_frame(prompts)
        first = min(places)
        recorder = TrackRecorder(directory, height=frames.height, width=frames.width)
        if first > 0:
            self._backwards(frames, places[first], first, recorder, directory)
        session = self._session("tracker", frames)
        for index in range(first, len(frames)):
            recorder.add(*self._step(session, frames, index, places.get(index, {})))
            if progress:
                progress(index + 1, len(frames))
        found = recorder.finish(self.name)
        if not any(track.first_frame >= 0 for track in found.tracks):
            raise InputError("SAM3 found nothing at the given points and boxes: place them on the characters.")
        return found

    def _backwards(
        self, frames: SizedFrames, places: dict, first: int, recorder: TrackRecorder, directory: Path | None
    ) -> None:
        """Adds frames 0 … first - 1, followed from `first` towards the beginning."""
        session = self._session("tracker", frames)
        where = directory / "backwards" if directory is not None else None
        reversed_ = TrackRecorder(where, height=frames.height, width=frames.width)
        for index in range(first, -1, -1):
            labels, confidence = self._step(session, frames, index, places if index == first else {}, reverse=True)
            if index < first:
                reversed_.add(labels, confidence)
        earlier = reversed_.finish(self.name)
        confidences = np.nan_to_num(np.stack([track.confidence for track in earlier.tracks], axis=1))
        for index in range(first - 1, -1, -1):
            recorder.add(earlier.labels.labels(index, index + 1), confidences[index : index + 1])

    @torch.inference_mode()
    def _step(
        self, session: Any, frames: SizedFrames, index: int, places: dict[int, Places], *, reverse: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """One frame: follow who is known, then apply this frame's points and boxes."""
        model = self._get("tracker")
        known = set(session.obj_ids)
        if known:
            output = model(inference_session=session, frame_idx=index, reverse=reverse)
        if places:
            for character, given in places.items():
                coordinates, labels = given.scaled(model.config.image_size, frames)
                session.add_point_inputs(
                    session.obj_id_to_idx(character), index, {"point_coords": coordinates, "point_labels": labels}
                )
            session.obj_with_new_inputs = list(places)
            output = model(inference_session=session, frame_idx=index, reverse=reverse)
        _forget(session, index, reverse=reverse)
        return self._tracked(output, frames)

    def _tracked(self, output: Any, frames: SizedFrames) -> tuple[np.ndarray, np.ndarray]:
        """Label map (1, H, W) and confidences (1, S) of the tracker's masks; label = character number."""
        logits = _full_size(output.pred_masks, frames)
        best = logits.argmax(axis=0)
        labels = np.zeros((1, frames.height, frames.width), np.uint8)
        scores = torch.sigmoid(output.object_score_logits.float()).reshape(-1).cpu().numpy()
        confidence = np.zeros((1, max(output.object_ids)), np.float32)
        for row, character in enumerate(output.object_ids):
            labels[0][(best == row) & (logits[row] > 0)] = character
            confidence[0, character - 1] = scores[row]
        return labels, confidence

    # Corrections of what text found

    def _corrected(
        self, found: TrackedMasks, frames: SizedFrames, prompts: Prompts, directory: Path | None
    ) -> TrackedMasks:
        """Follows corrected characters anew from their first correction on; everything else stays as found."""
        places = by_frame(prompts)
        unknown = {c for given in places.values() for c in given} - set(range(1, len(found.tracks) + 1))
        if unknown:
            raise InputError(
                f"the corrections name character {min(unknown)}, but SAM3 found {len(found.tracks)}: use a number from 1 to it."
            )
        session = self._session("tracker", frames)
        where = directory / "corrected" if directory is not None else None
        recorder = TrackRecorder(where, height=frames.height, width=frames.width)
        confidences = np.nan_to_num(np.stack([track.confidence for track in found.tracks], axis=1))
        for index in range(len(frames)):
            labels, sure = found.labels.labels(index, index + 1).copy(), confidences[index : index + 1].copy()
            given = places.get(index, {})
            self._seed(session, index, [c for c in given if c not in session.obj_ids], found)
            if session.obj_ids or given:
                again, score = self._step(session, frames, index, given)
                for character in session.obj_ids:
                    labels[labels == character] = 0
                    sure[0, character - 1] = score[0, character - 1]
                labels[again > 0] = again[again > 0]
            recorder.add(labels, sure)
        return replace(
            recorder.finish(self.name, names=[track.name for track in found.tracks]), warnings=found.warnings
        )

    @torch.inference_mode()
    def _seed(self, session: Any, index: int, characters: Sequence[int], found: TrackedMasks) -> None:
        """Shows the tracker the masks that text found one frame earlier, so that a correction starts from them."""
        before = index - 1
        shown = [c for c in characters if before >= 0 and found.tracks[c - 1].present[before]]
        if not shown:
            return
        model = self._get("tracker")
        side = model.config.image_size
        for character in shown:
            mask = torch.from_numpy(found.labels.labels(before, index)[0] == character)[None, None].float()
            mask = (F.interpolate(mask, size=(side, side), mode="bilinear", antialias=True) >= 0.5).float()
            session.add_mask_inputs(session.obj_id_to_idx(character), before, mask.to(model.device))
        session.obj_with_new_inputs = list(shown)
        model(inference_session=session, frame_idx=before)


def _largest(found: TrackedMasks, count: int | None, directory: Path | None) -> TrackedMasks:
    """At most `count` characters, those with the most confident pixels, numbered as before among themselves."""
    if count is None or len(found.tracks) <= count:
        return found
    weight = {track.number: track.mean_confidence * float(track.areas.sum()) for track in found.tracks}
    kept = sorted(sorted(weight, key=weight.__getitem__, reverse=True)[:count])
    return relabel(found, kept, directory / "largest" if directory is not None else None)


def _full_size(logits: torch.Tensor, frames: SizedFrames) -> np.ndarray:
    """Mask logits (S, 1, h, w) at the frames' size: float32 (S, H, W)."""
    return F.interpolate(logits.float(), size=(frames.height, frames.width), mode="bilinear")[:, 0].cpu().numpy()


def _forget(session: Any, index: int, *, reverse: bool = False) -> None:
    """Drops tracking memory that is too old to be looked at again; the first and latest conditioning frames stay."""
    for outputs in session.output_dict_per_obj.values():
        old = outputs["non_cond_frame_outputs"]
        for frame in [f for f in old if abs(f - index) > _LOOK_BACK]:
            del old[frame]
        shown = outputs["cond_frame_outputs"]
        ordered = sorted(shown, reverse=reverse)
        for frame in ordered[1:-_LOOK_BACK]:
            del shown[frame]
