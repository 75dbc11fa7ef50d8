"""Names of SAM3's tensors in Meta's single file (``sam3.pt``, or the same as safetensors) and in transformers' classes.

Both implementations have the same parts: here they are renamed part by part. What is fused in the file (q, k, v) becomes
three names; what the classes compute themselves or do not have becomes none.
"""

import re
from collections.abc import Iterable

Rules = tuple[tuple[str, str], ...]

# SAM 3.1 follows many objects at once: it has three necks instead of two, a tracker inside a tracker and a second decoder.
_MULTIPLEX = re.compile(r"(^|\.)(propagation_convs|interactive_\w+)\.|^tracker\.model\.")
_PUBLISHED = "detector.backbone.vision_backbone.trunk."
_TRANSFORMERS = ("detector_model.", "tracker_model.", "tracker_neck.")

# Rotations that the classes compute, and a way to give points to the detector that they do not have.
_UNUSED = re.compile(r"(^|\.)freqs_cis$|^detector\.geometry_encoder\.points_\w+_project\.")
_FUSED = re.compile(r"(.+\.)(?:qkv\.|in_proj_)(weight|bias)")

_TRUNK: Rules = (
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^ln_pre\.", "layer_norm."),
    (r"^blocks\.(\d+)\.norm(\d)\.", r"layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"layers.\1.attention.o_proj."),
    (r"^blocks\.(\d+)\.attn\.", r"layers.\1.attention."),
    (r"^blocks\.", "layers."),
)
_NECK: Rules = (
    (r"\.dconv_2x2(?:_0)?\.", ".scale_layers.0."),
    (r"\.dconv_2x2_1\.", ".scale_layers.2."),
    (r"\.conv_1x1\.", ".proj1."),
    (r"\.conv_3x3\.", ".proj2."),
)
_TEXT: Rules = (
    (r"^text_projection$", "text_projection.weight"),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"\.attn\.", ".self_attn."),
    (r"\.ln_(\d)\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
_OUTPUT_PROJECTION = (r"\.out_proj\.", ".o_proj.")
# One layer of the detector's encoders; norms count in the order of use.
_LAYER: Rules = (
    (r"\.cross_attn_image\.", ".cross_attn."),
    (r"\.linear(\d)\.", r".mlp.fc\1."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    _OUTPUT_PROJECTION,
)
_GEOMETRY: Rules = (
    (r"^encode\.", "layers."),
    (r"^img_pre_norm\.", "vision_layer_norm."),
    (r"^norm\.", "prompt_layer_norm."),
    (r"^encode_norm\.", "output_layer_norm."),
    *_LAYER,
)
# The heads of the detector count their layers from one, each a module of its own.
_HEADS: Rules = tuple((rf"\.layers\.{index}\.", f".layer{index + 1}.") for index in range(3))
_DECODER_HEADS = r"^(presence_token_head|bbox_embed|ref_point_head|boxRPB_embed_[xy])"
_DECODER: Rules = (
    (r"^norm\.", "output_layer_norm."),
    (r"^presence_token_out_norm\.", "presence_layer_norm."),
    *((rf"{_DECODER_HEADS}\.layers\.{i}\.", rf"\1.layer{i + 1}.") for i in range(3)),
    (r"^presence_token_head\.", "presence_head."),
    (r"^bbox_embed\.", "box_head."),
    (r"^boxRPB_embed_", "box_rpb_embed_"),
    (r"^(layers\.\d+)\.cross_attn\.", r"\1.vision_cross_attn."),
    (r"^(layers\.\d+)\.ca_text\.", r"\1.text_cross_attn."),
    (r"^(layers\.\d+)\.norm1\.", r"\1.vision_cross_attn_layer_norm."),
    (r"^(layers\.\d+)\.catext_norm\.", r"\1.text_cross_attn_layer_norm."),
    (r"^(layers\.\d+)\.norm2\.", r"\1.self_attn_layer_norm."),
    (r"^(layers\.\d+)\.norm3\.", r"\1.mlp_layer_norm."),
    (r"\.linear(\d)\.", r".mlp.fc\1."),
    _OUTPUT_PROJECTION,
)
_SCORING: Rules = (
    (r"^prompt_mlp\.out_norm\.", "text_mlp_out_norm."),
    (r"^prompt_mlp\.", "text_mlp."),
    (r"^prompt_proj\.", "text_proj."),
    (r"^hs_proj\.", "query_proj."),
    *_HEADS,
)
_MASKS: Rules = (
    (r"^(?:mask_predictor\.)?mask_embed\.", "mask_embedder."),
    (r"^instance_seg_head\.", "instance_projection."),
    (r"^semantic_seg_head\.", "semantic_projection."),
    (r"^cross_attend_prompt\.", "prompt_cross_attn."),
    (r"^cross_attn_norm\.", "prompt_cross_attn_norm."),
    _OUTPUT_PROJECTION,
)
# The tracker's heads: a layer in, one between, a layer out.
_IN_AND_OUT: Rules = (
    (r"(^|\.)layers\.0\.(weight|bias)$", r"\1proj_in.\2"),
    (r"(^|\.)layers\.1\.(weight|bias)$", r"\1layers.0.\2"),
    (r"(^|\.)layers\.2\.(weight|bias)$", r"\1proj_out.\2"),
)
_PROMPTS: Rules = (
    (r"^pe_layer\.positional_encoding_gaussian_matrix$", "shared_embedding.positional_embedding"),
    (r"^point_embeddings\.", "point_embed."),
    (r"^mask_downscaling\.0\.", "mask_embed.conv1."),
    (r"^mask_downscaling\.1\.", "mask_embed.layer_norm1."),
    (r"^mask_downscaling\.3\.", "mask_embed.conv2."),
    (r"^mask_downscaling\.4\.", "mask_embed.layer_norm2."),
    (r"^mask_downscaling\.6\.", "mask_embed.conv3."),
)
_TWO_WAY: Rules = (
    (r"\.mlp\.(?:lin1|layers\.0)\.", ".mlp.proj_in."),
    (r"\.mlp\.(?:lin2|layers\.1)\.", ".mlp.proj_out."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"^norm_final_attn\.", "layer_norm_final_attn."),
    _OUTPUT_PROJECTION,
)
_UPSCALING: Rules = ((r"^0\.", "conv1."), (r"^1\.", "layer_norm."), (r"^3\.", "conv2."))
_MEMORY: Rules = (
    *((rf"^mask_downsampler\.encoder\.{3 * i}\.", f"mask_downsampler.layers.{i}.conv.") for i in range(4)),
    *((rf"^mask_downsampler\.encoder\.{3 * i + 1}\.", f"mask_downsampler.layers.{i}.layer_norm.") for i in range(4)),
    (r"^mask_downsampler\.encoder\.12\.", "mask_downsampler.final_conv."),
    (r"^pix_feat_proj\.", "feature_projection."),
    (r"^out_proj\.", "projection."),
    (r"^fuser\.", "memory_fuser."),
    (r"\.gamma$", ".scale"),
    (r"\.dwconv\.", ".depthwise_conv."),
    (r"\.pwconv(\d)\.", r".pointwise_conv\1."),
    (r"\.norm\.", ".layer_norm."),
)
_ATTENTION: Rules = ((r"^norm\.", "layer_norm."), (r"\.norm(\d)\.", r".layer_norm\1."), _OUTPUT_PROJECTION)

# Part of the file -> part of `Sam3VideoModel`, and how names change inside it. The first that fits counts.
_PARTS: tuple[tuple[str, str, Rules], ...] = (
    ("detector.backbone.vision_backbone.trunk.", "detector_model.vision_encoder.backbone.", _TRUNK),
    ("detector.backbone.vision_backbone.convs.", "detector_model.vision_encoder.neck.fpn_layers.", _NECK),
    ("detector.backbone.vision_backbone.sam2_convs.", "tracker_neck.fpn_layers.", _NECK),
    ("detector.backbone.language_backbone.encoder.", "detector_model.text_encoder.", _TEXT),
    ("detector.backbone.language_backbone.resizer.", "detector_model.text_projection.", ()),
    ("detector.geometry_encoder.", "detector_model.geometry_encoder.", _GEOMETRY),
    ("detector.transformer.encoder.", "detector_model.detr_encoder.", _LAYER),
    ("detector.transformer.decoder.", "detector_model.detr_decoder.", _DECODER),
    ("detector.dot_prod_scoring.", "detector_model.dot_product_scoring.", _SCORING),
    ("detector.segmentation_head.", "detector_model.mask_decoder.", _MASKS),
    ("tracker.sam_prompt_encoder.", "tracker_model.prompt_encoder.", _PROMPTS),
    ("tracker.sam_mask_decoder.transformer.", "tracker_model.mask_decoder.transformer.", _TWO_WAY),
    ("tracker.sam_mask_decoder.output_upscaling.", "tracker_model.mask_decoder.upscale_", _UPSCALING),
    ("tracker.sam_mask_decoder.", "tracker_model.mask_decoder.", _IN_AND_OUT),
    ("tracker.transformer.encoder.", "tracker_model.memory_attention.", _ATTENTION),
    ("tracker.maskmem_backbone.", "tracker_model.memory_encoder.", _MEMORY),
    ("tracker.maskmem_tpos_enc", "tracker_model.memory_temporal_positional_encoding", ()),
    ("tracker.mask_downsample.", "tracker_model.mask_downsample.", ()),
    ("tracker.no_mem_embed", "tracker_model.no_memory_embedding", ()),
    ("tracker.no_mem_pos_enc", "tracker_model.no_memory_positional_encoding", ()),
    ("tracker.no_obj_ptr", "tracker_model.no_object_pointer", ()),
    ("tracker.no_obj_embed_spatial", "tracker_model.occlusion_spatial_embedding_parameter", ()),
    ("tracker.obj_ptr_proj.", "tracker_model.object_pointer_proj.", _IN_AND_OUT),
    ("tracker.obj_ptr_tpos_proj.", "tracker_model.temporal_positional_encoding_projection_layer.", ()),
)

# One tensor of the file under two names of the class.
_POSITIONS = "tracker_model.prompt_encoder.shared_embedding.positional_embedding"
_POSITIONS_AGAIN = "tracker_model.shared_image_embedding.positional_embedding"


def is_multiplex(names: Iterable[str]) -> bool:
    """Whether these are the tensors of SAM 3.1, in Meta's or ComfyUI's names."""
    return any(_MULTIPLEX.search(name) for name in names)


def is_published(names: Iterable[str]) -> bool:
    """Whether these are the tensors of SAM3 in the names of Meta's file."""
    return any(name.startswith(_PUBLISHED) for name in names)


def is_transformers(names: Iterable[str]) -> bool:
    """Whether these are the tensors of SAM3 in the names of transformers' classes."""
    return any(name.startswith(_TRANSFORMERS[0]) for name in names)


def video_names(name: str) -> tuple[str, ...] | None:
    """Name in Meta's file -> names in `Sam3VideoModel`: three for fused q, k, v; () for what it has no use for."""
    if name.startswith(_TRANSFORMERS):
        return (name,)
    if _UNUSED.search(name):
        return ()
    for stored, offered, rules in _PARTS:
        if name.startswith(stored):
            inside = name.removeprefix(stored)
            for pattern, replacement in rules:
                inside = re.sub(pattern, replacement, inside)
            whole = offered + inside
            if fused := _FUSED.fullmatch(whole):
                return tuple(f"{fused[1]}{each}_proj.{fused[2]}" for each in "qkv")
            return (whole, _POSITIONS_AGAIN) if whole == _POSITIONS else (whole,)
    return None


def tracker_name(name: str) -> str | None:
    """Name in `Sam3VideoModel` -> name in `Sam3TrackerVideoModel`, which has the detector's trunk and its own neck."""
    for theirs, ours in (
        ("detector_model.vision_encoder.backbone.", "vision_encoder.backbone."),
        ("tracker_neck.", "vision_encoder.neck."),
        ("tracker_model.", ""),
    ):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return None
