"""SAM3 from one file: Meta's ``sam3.pt``, the same as safetensors, or the weights of a transformers folder alone.

Sizes are read from the shapes; what no shape shows (thresholds, widths of attention heads) is as published. Names and
shapes are compared strictly, and tensors are streamed (see `views`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scail2.checkpoints.encoders import count_layers, filled
from scail2.checkpoints.sam3_names import is_multiplex, is_published, is_transformers, tracker_name, video_names
from scail2.checkpoints.stored import TensorFile, TensorInfo
from scail2.checkpoints.tensor_files import open_tensor_file
from scail2.checkpoints.views import Source, View, plain_view
from scail2.errors import InputError, short

if TYPE_CHECKING:
    import torch
    from transformers import Sam3TrackerVideoModel, Sam3VideoConfig, Sam3VideoModel

_WHAT = "SAM3"
_TRUNK = "detector.backbone.vision_backbone.trunk"
_POSITIONS = f"{_TRUNK}.pos_embed"
_TEXT_PROJECTION = "detector.backbone.language_backbone.encoder.text_projection"
_POINTS = "tracker.sam_prompt_encoder.point_embeddings"
_ROTATIONS = "attn.freqs_cis"
# Widths of one attention head in the published model, where no tensor shows their number.
_HEAD, _TEXT_HEAD, _DETECTOR_HEAD, _TRACKER_HEAD = 64, 64, 32, 32
_SIDE, _WINDOW, _STAGES = 1008, 24, 4
_NOTHING = TensorInfo((), None, "", 0)


class _Rearranged(TensorFile):
    """Meta's file with three things as the classes keep them: positions without that of a class token, which SAM3 does
    not have; the text projection transposed; the embeddings of the four kinds of points as one tensor."""

    def __init__(self, file: TensorFile):
        super().__init__(file.path, dict(file.tensors), file.metadata, dict(file.places))
        self._file = file
        self._points = [f"{_POINTS}.{kind}.weight" for kind in range(4)]
        if all(name in self.tensors for name in self._points):
            infos = [self.tensors.pop(name) for name in self._points]
            rows, nbytes = sum(info.shape[0] for info in infos if info.shape), sum(info.nbytes for info in infos)
            self.tensors[f"{_POINTS}.weight"] = replace(infos[0], shape=(rows, *infos[0].shape[1:]), nbytes=nbytes)
        if len((info := self.tensors.get(_POSITIONS, _NOTHING)).shape) == 3:
            shape = (info.shape[0], max(info.shape[1] - 1, 0), info.shape[2])
            self.tensors[_POSITIONS] = replace(info, shape=shape)
        if len((info := self.tensors.get(_TEXT_PROJECTION, _NOTHING)).shape) == 2:
            self.tensors[_TEXT_PROJECTION] = replace(info, shape=info.shape[::-1])
        for changed in (*self._points, _POSITIONS, _TEXT_PROJECTION):
            self.places.pop(changed, None)

    def read(self, name: str) -> torch.Tensor:
        import torch

        if name == f"{_POINTS}.weight":
            return torch.cat([self._file.read(each) for each in self._points])
        value = self._file.read(name)
        if name == _POSITIONS and value.ndim == 3:
            return value[:, 1:]
        return value.T.contiguous() if name == _TEXT_PROJECTION and value.ndim == 2 else value

    def read_rows(self, name: str, rows: slice) -> torch.Tensor:
        return self.read(name)[rows] if name not in self.places else self._file.read_rows(name, rows)

    def release(self) -> None:
        self._file.release()


@dataclass(frozen=True, slots=True)
class _Sides:
    """What tables of rotations show: side of the picture, of a window in patches, layers that look at all, heads."""

    picture: int
    window: int
    everywhere: tuple[int, ...]
    heads: int


def find_file(weights: Path) -> Path | None:
    """The single file that was named: itself, or the only weights of a folder without a configuration.

    None for folders in transformers format, for the weights inside one, and for what is not on disk.

    Raises:
        InputError: a folder without a configuration has several.
    """
    if weights.is_dir() and not (weights / "config.json").exists():
        found = sorted(each for each in weights.iterdir() if each.suffix in (".safetensors", ".pt", ".pth"))
        if len(found) > 1:
            raise InputError(
                f"{weights} holds several weights ({', '.join(each.name for each in found[:10])}): name the file."
            )
        return found[0] if found else None
    inside = weights.name == "model.safetensors" and (weights.parent / "config.json").exists()
    return weights if weights.is_file() and not inside else None


def open_sam3(path: Path) -> View:
    """The file under the names of `Sam3VideoModel`; only its header is read.

    Raises:
        InputError: it is SAM 3.1, or not SAM3 at all.
    """
    file = open_tensor_file(path)
    if is_multiplex(file.tensors):
        raise InputError(
            f"{path} is SAM 3.1 (multiplex), for whose tracker this version has no class: take SAM 3, as Meta's sam3.pt or "
            "as a folder in transformers format, such as facebook/sam3."
        )
    if not (is_published(file.tensors) or is_transformers(file.tensors)):
        first = next(iter(file.tensors), "")
        raise InputError(
            f"{path} is not SAM3: it begins with {short(first)}; take Meta's sam3.pt or a folder in transformers format."
        )
    view = plain_view(_Rearranged(file) if is_published(file.tensors) else file)
    sources: dict[str, Source] = {}
    unexpected = []
    for name in view.sources:
        offered = video_names(name)
        if offered is None:
            unexpected.append(name)
        fused = len(offered or ()) == 3
        for index, each in enumerate(offered or ()):
            sources[each] = Source(name, index, 3) if fused else Source(name)
    return View(view.file, sources, unexpected, view.scales)


def load_video_model(view: View, dtype: torch.dtype) -> Sam3VideoModel:
    """The model that finds by text and follows, with the tensors of a view from `open_sam3`."""
    from accelerate import init_empty_weights
    from transformers import Sam3VideoModel

    config = sam3_config(view)
    with init_empty_weights():
        model = Sam3VideoModel(config)
    return filled(model, view, dtype, _WHAT)


def load_tracker(view: View, dtype: torch.dtype) -> Sam3TrackerVideoModel:
    """The model that follows points and boxes, with its part of the tensors of a view from `open_sam3`."""
    from accelerate import init_empty_weights
    from transformers import Sam3TrackerVideoModel

    config = sam3_config(view).tracker_config
    with init_empty_weights():
        model = Sam3TrackerVideoModel(config)
    sources = {ours: source for name, source in view.sources.items() if (ours := tracker_name(name))}
    return filled(model, View(view.file, sources, view.unexpected, view.scales), dtype, _WHAT)


def sam3_config(view: View) -> Sam3VideoConfig:
    """The configuration of facebook/sam3 in the sizes that the shapes of a view show."""
    from transformers import Sam3VideoConfig

    size = _Sizes(view)
    sides, patch = (
        _sides(size),
        size("detector_model.vision_encoder.backbone.embeddings.patch_embeddings.projection.weight", 2),
    )
    vision = _vision(size, sides, patch)
    return Sam3VideoConfig(
        detector_config=_detector(size, vision),
        tracker_config=_tracker(size, vision, sides.picture, patch),
        low_res_mask_size=4 * (sides.picture // patch),
    )


class _Sizes:
    """Sizes of a view's tensors, by name and axis."""

    def __init__(self, view: View):
        self.view = view

    def __call__(self, name: str, axis: int = 0) -> int:
        shape = self.view.shapes.get(name)
        if shape is None or len(shape) <= axis or not shape[axis]:
            raise InputError(f"{self.view.file.path} is not all of SAM3: it lacks {name}, which shows its sizes.")
        return shape[axis]

    def layers(self, prefix: str) -> int:
        return count_layers(self.view, prefix)


def _sides(size: _Sizes) -> _Sides:
    trunk = "detector_model.vision_encoder.backbone"
    patch = size(f"{trunk}.embeddings.patch_embeddings.projection.weight", 2)
    width, layers = size(f"{trunk}.layer_norm.weight"), size.layers(f"{trunk}.layers")
    tables = [size.view.file.tensors.get(f"{_TRUNK}.blocks.{each}.{_ROTATIONS}") for each in range(layers)]
    shapes = [table.shape for table in tables if table is not None and len(table.shape) == 2 and all(table.shape)]
    if len(shapes) < max(layers, 1):
        everywhere = tuple(range(layers // _STAGES - 1, layers, max(1, layers // _STAGES))) if layers >= _STAGES else ()
        return _Sides(_SIDE, _WINDOW, everywhere, max(1, width // _HEAD))
    most = max(shape[0] for shape in shapes)
    windows = [shape[0] for shape in shapes if shape[0] < most]
    window = math.isqrt(windows[0]) if windows else _WINDOW
    everywhere = tuple(index for index, shape in enumerate(shapes) if shape[0] == most)
    # A table has one complex number for two of a head's.
    return _Sides(math.isqrt(most) * patch, window, everywhere, max(1, width // (2 * shapes[0][1])))


def _vision(size: _Sizes, sides: _Sides, patch: int) -> dict[str, Any]:
    trunk = "detector_model.vision_encoder.backbone"
    grid = sides.picture // patch
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": size(f"{trunk}.layer_norm.weight"),
        "intermediate_size": size(f"{trunk}.layers.0.mlp.fc1.weight"),
        "num_hidden_layers": size.layers(f"{trunk}.layers"),
        "num_attention_heads": sides.heads,
        "patch_size": patch,
        "image_size": sides.picture,
        "window_size": sides.window,
        "global_attn_indexes": list(sides.everywhere),
        "pretrain_image_size": math.isqrt(size(f"{trunk}.embeddings.position_embeddings", 1)) * patch,
    }
    return {
        "model_type": "sam3_vision_model",
        "backbone_config": backbone,
        "fpn_hidden_size": size("detector_model.vision_encoder.neck.fpn_layers.0.proj1.weight"),
        "backbone_feature_sizes": [[4 * grid] * 2, [2 * grid] * 2, [grid] * 2],
    }


def _detector(size: _Sizes, vision: dict[str, Any]) -> dict[str, Any]:
    text, parts = "detector_model.text_encoder", "detector_model"
    words, text_width = (
        size(f"{text}.text_model.embeddings.token_embedding.weight"),
        size(f"{text}.text_model.final_layer_norm.weight"),
    )

    def encoder(part: str) -> dict[str, int]:
        width = size(f"{parts}.{part}.layers.0.mlp.fc1.weight", 1)
        return {
            "hidden_size": width,
            "intermediate_size": size(f"{parts}.{part}.layers.0.mlp.fc1.weight"),
            "num_layers": size.layers(f"{parts}.{part}.layers"),
            "num_attention_heads": max(1, width // _DETECTOR_HEAD),
        }

    masks = size(f"{parts}.mask_decoder.instance_projection.weight")
    return {
        "model_type": "sam3",
        "vision_config": vision,
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": words,
            "hidden_size": text_width,
            "intermediate_size": size(f"{text}.text_model.encoder.layers.0.mlp.fc1.weight"),
            "projection_dim": size(f"{text}.text_projection.weight"),
            "num_hidden_layers": size.layers(f"{text}.text_model.encoder.layers"),
            "num_attention_heads": max(1, text_width // _TEXT_HEAD),
            "max_position_embeddings": size(f"{text}.text_model.embeddings.position_embedding.weight"),
            "hidden_act": "gelu",
            # CLIP's vocabulary ends with the two.
            "bos_token_id": words - 2,
            "eos_token_id": words - 1,
        },
        "geometry_encoder_config": {
            **encoder("geometry_encoder"),
            "roi_size": size(f"{parts}.geometry_encoder.boxes_pool_project.weight", 2),
        },
        "detr_encoder_config": encoder("detr_encoder"),
        "detr_decoder_config": {
            **encoder("detr_decoder"),
            "num_queries": size(f"{parts}.detr_decoder.query_embed.weight"),
        },
        "mask_decoder_config": {
            "hidden_size": masks,
            "num_attention_heads": max(1, masks // _DETECTOR_HEAD),
            "num_upsampling_stages": size.layers(f"{parts}.mask_decoder.pixel_decoder.conv_layers"),
        },
    }


def _tracker(size: _Sizes, vision: dict[str, Any], side: int, patch: int) -> dict[str, Any]:
    prompts, masks = "tracker_model.prompt_encoder", "tracker_model.mask_decoder"
    memory, attention = "tracker_model.memory_encoder", "tracker_model.memory_attention"
    width = size(f"{masks}.iou_token.weight", 1)
    return {
        "model_type": "sam3_tracker_video",
        "vision_config": vision,
        "image_size": side,
        "prompt_encoder_config": {
            "hidden_size": size(f"{prompts}.no_mask_embed.weight", 1),
            "image_size": side,
            "patch_size": patch,
            "mask_input_channels": size(f"{prompts}.mask_embed.conv2.weight"),
            "num_point_embeddings": size(f"{prompts}.point_embed.weight"),
        },
        "mask_decoder_config": {
            "hidden_size": width,
            "mlp_dim": size(f"{masks}.transformer.layers.0.mlp.proj_in.weight"),
            "num_hidden_layers": size.layers(f"{masks}.transformer.layers"),
            "num_attention_heads": max(1, width // _TRACKER_HEAD),
            "attention_downsample_rate": max(
                1, width // size(f"{masks}.transformer.layers.0.cross_attn_token_to_image.q_proj.weight")
            ),
            "iou_head_hidden_dim": size(f"{masks}.iou_prediction_head.proj_in.weight"),
            "iou_head_depth": 2 + size.layers(f"{masks}.iou_prediction_head.layers"),
            "num_multimask_outputs": size(f"{masks}.mask_tokens.weight") - 1,
        },
        "memory_attention_hidden_size": size(f"{attention}.layer_norm.weight"),
        "memory_attention_num_layers": size.layers(f"{attention}.layers"),
        "memory_attention_feed_forward_hidden_size": size(f"{attention}.layers.0.linear1.weight"),
        "memory_attention_rope_feat_sizes": [side // patch] * 2,
        "memory_encoder_hidden_size": size(f"{memory}.feature_projection.weight"),
        "memory_encoder_output_channels": size(f"{memory}.projection.weight"),
        "mask_downsampler_embed_dim": size(f"{memory}.mask_downsampler.final_conv.weight"),
        "memory_fuser_embed_dim": size(f"{memory}.memory_fuser.layers.0.depthwise_conv.weight"),
        "memory_fuser_intermediate_dim": size(f"{memory}.memory_fuser.layers.0.pointwise_conv1.weight"),
        "memory_fuser_num_layers": size.layers(f"{memory}.memory_fuser.layers"),
        "num_maskmem": size("tracker_model.memory_temporal_positional_encoding"),
    }
