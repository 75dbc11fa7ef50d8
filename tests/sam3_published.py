"""A tiny SAM3, and SAM3's tensors as Meta's file has them, made from those of transformers' classes.

Written from what each part is called in Meta's code (a Sequential's numbers, a module's attribute, a fused projection), not
from the table of the code under test.
"""

import re

import torch
from transformers import Sam3VideoConfig

SIDE, WIDE = 112, 128
TRUNK = "detector.backbone.vision_backbone.trunk"


def tiny_config() -> Sam3VideoConfig:
    """A real configuration at the smallest sizes that its parts accept (object pointers need width 2 x 64)."""
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "window_size": 4,
        "global_attn_indexes": [1],
        "pretrain_image_size": 56,
    }
    vision = {
        "model_type": "sam3_vision_model",
        "backbone_config": backbone,
        "fpn_hidden_size": WIDE,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    }
    text = {
        "model_type": "clip_text_model",
        "vocab_size": 8,
        "hidden_size": 32,
        "intermediate_size": 32,
        "projection_dim": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
        "eos_token_id": 7,
        "bos_token_id": 6,
        "pad_token_id": 0,
    }
    layer = {"hidden_size": WIDE, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    detector = {
        "model_type": "sam3",
        "vision_config": vision,
        "text_config": text,
        "geometry_encoder_config": layer,
        "detr_encoder_config": layer,
        "detr_decoder_config": {**layer, "num_queries": 3},
        "mask_decoder_config": {"hidden_size": WIDE, "num_attention_heads": 2},
    }
    tracker = {
        "model_type": "sam3_tracker_video",
        "vision_config": vision,
        "prompt_encoder_config": {"hidden_size": WIDE, "image_size": SIDE},
        "mask_decoder_config": {
            "hidden_size": WIDE,
            "mlp_dim": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 32,
        },
        "memory_attention_hidden_size": WIDE,
        "memory_attention_num_layers": 1,
        "memory_attention_feed_forward_hidden_size": 32,
        "memory_encoder_hidden_size": WIDE,
        "mask_downsampler_embed_dim": WIDE,
        "memory_fuser_embed_dim": WIDE,
        "memory_fuser_intermediate_dim": 32,
        "memory_fuser_num_layers": 1,
        "image_size": SIDE,
    }
    # Thresholds that a random detector passes; no delay, so that every frame is given out at once.
    return Sam3VideoConfig(
        detector_config=detector,
        tracker_config=tracker,
        low_res_mask_size=32,
        score_threshold_detection=1e-4,
        new_det_thresh=1e-4,
        hotstart_delay=0,
    )


def published(name: str) -> str:
    """The name in Meta's file of a tensor of `Sam3VideoModel`; q, k and v are still three."""
    model, _, rest = name.partition(".")
    if model == "tracker_neck":
        return neck(rest, "sam2_convs")
    part, _, rest = rest.partition(".")
    return (detector if model == "detector_model" else tracker)(part, rest)


def neck(rest: str, which: str) -> str:
    number, inner = re.fullmatch(r"fpn_layers\.(\d)\.(.+)", rest).groups()
    # Level 0 is enlarged twice, level 1 once: only then are its enlargers numbered.
    once = "dconv_2x2_0" if number == "0" else "dconv_2x2"
    for ours, theirs in {
        "scale_layers.0": once,
        "scale_layers.2": "dconv_2x2_1",
        "proj1": "conv_1x1",
        "proj2": "conv_3x3",
    }.items():
        inner = inner.replace(ours, theirs)
    return f"detector.backbone.vision_backbone.{which}.{number}.{inner}"


def detector(part: str, rest: str) -> str:
    if part == "vision_encoder":
        side, _, rest = rest.partition(".")
        return trunk(rest) if side == "backbone" else neck(rest, "convs")
    if part == "text_projection":
        return f"detector.backbone.language_backbone.resizer.{rest}"
    if part == "text_encoder":
        return f"detector.backbone.language_backbone.encoder.{text(rest)}"
    rest = rest.replace("o_proj", "out_proj").replace("mlp.fc1", "linear1").replace("mlp.fc2", "linear2")
    if part in ("geometry_encoder", "detr_encoder"):
        rest = rest.replace("cross_attn", "cross_attn_image").replace("vision_layer_norm", "img_pre_norm")
        rest = re.sub(r"^output_layer_norm", "encode_norm", re.sub(r"^prompt_layer_norm", "norm", rest))
        rest = re.sub(r"\.layer_norm(\d)", r".norm\1", rest)
        if part == "detr_encoder":
            return f"detector.transformer.encoder.{rest}"
        return f"detector.geometry_encoder.{re.sub('^layers', 'encode', rest)}"
    if part == "dot_product_scoring":
        rest = rest.replace("text_mlp_out_norm", "prompt_mlp.out_norm").replace("text_proj", "prompt_proj")
        rest = rest.replace("query_proj", "hs_proj").replace("text_mlp.layer1", "prompt_mlp.layers.0")
        return f"detector.dot_prod_scoring.{rest.replace('text_mlp.layer2', 'prompt_mlp.layers.1')}"
    if part == "mask_decoder":
        rest = rest.replace("prompt_cross_attn_norm", "cross_attn_norm").replace(
            "prompt_cross_attn", "cross_attend_prompt"
        )
        rest = rest.replace("mask_embedder", "mask_predictor.mask_embed")
        return f"detector.segmentation_head.{rest.replace('_projection', '_seg_head')}"
    return f"detector.transformer.decoder.{decoder(rest)}"


def trunk(rest: str) -> str:
    if rest.startswith("layers."):
        rest = (
            rest.replace("layers.", "blocks.", 1).replace("layer_norm", "norm").replace("attention.o_proj", "attn.proj")
        )
        return f"{TRUNK}.{rest.replace('attention', 'attn')}"
    fixed = {
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    }
    return f"{TRUNK}.{fixed.get(rest) or rest.replace('layer_norm', 'ln_pre')}"


def text(rest: str) -> str:
    fixed = {
        "text_projection.weight": "text_projection",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    }
    if rest in fixed:
        return fixed[rest]
    rest = rest.removeprefix("text_model.").replace("final_layer_norm", "ln_final").replace("layer_norm", "ln_")
    rest = rest.replace("encoder.layers", "transformer.resblocks").replace("self_attn", "attn")
    return rest.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")


def decoder(rest: str) -> str:
    rest = re.sub(r"\.layer(\d)\.", lambda found: f".layers.{int(found[1]) - 1}.", rest)
    for ours, theirs in {
        "vision_cross_attn_layer_norm": "norm1",
        "text_cross_attn_layer_norm": "catext_norm",
        "self_attn_layer_norm": "norm2",
        "mlp_layer_norm": "norm3",
        "text_cross_attn": "ca_text",
        "vision_cross_attn": "cross_attn",
        "presence_layer_norm": "presence_token_out_norm",
        "presence_head": "presence_token_head",
        "output_layer_norm": "norm",
        "box_head": "bbox_embed",
        "box_rpb_embed": "boxRPB_embed",
    }.items():
        rest = rest.replace(ours, theirs)
    return rest


def three_layers(rest: str) -> str:
    """A head whose layers Meta numbers through."""
    rest = rest.replace("layers.0.", "layers.1.")
    return rest.replace("proj_in.", "layers.0.").replace("proj_out.", "layers.2.")


def tracker(part: str, rest: str) -> str:
    alone = {
        "no_memory_embedding": "no_mem_embed",
        "no_memory_positional_encoding": "no_mem_pos_enc",
        "memory_temporal_positional_encoding": "maskmem_tpos_enc",
        "no_object_pointer": "no_obj_ptr",
        "occlusion_spatial_embedding_parameter": "no_obj_embed_spatial",
    }
    if part in alone:
        return f"tracker.{alone[part]}"
    if part == "mask_downsample":
        return f"tracker.mask_downsample.{rest}"
    if part == "temporal_positional_encoding_projection_layer":
        return f"tracker.obj_ptr_tpos_proj.{rest}"
    if part == "object_pointer_proj":
        return f"tracker.obj_ptr_proj.{three_layers(rest)}"
    rest = rest.replace("o_proj", "out_proj")
    if part == "memory_attention":
        return f"tracker.transformer.encoder.{rest.replace('layer_norm', 'norm')}"
    if part == "memory_encoder":
        return f"tracker.maskmem_backbone.{memory(rest)}"
    if part == "prompt_encoder":
        rest = rest.replace("shared_embedding.positional_embedding", "pe_layer.positional_encoding_gaussian_matrix")
        for number, layer in enumerate(("conv1", "layer_norm1", "", "conv2", "layer_norm2", "", "conv3")):
            rest = rest.replace(f"mask_embed.{layer}.", f"mask_downscaling.{number}.") if layer else rest
        return f"tracker.sam_prompt_encoder.{re.sub(r'^point_embed', 'point_embeddings', rest)}"
    if rest.startswith("transformer."):
        rest = rest.replace("mlp.proj_in", "mlp.lin1").replace("mlp.proj_out", "mlp.lin2").replace("layer_norm", "norm")
        return f"tracker.sam_mask_decoder.{rest}"
    for number, layer in enumerate(("conv1", "layer_norm", "", "conv2")):
        rest = rest.replace(f"upscale_{layer}.", f"output_upscaling.{number}.") if layer else rest
    return f"tracker.sam_mask_decoder.{three_layers(rest)}"


def memory(rest: str) -> str:
    if found := re.fullmatch(r"mask_downsampler\.layers\.(\d)\.(conv|layer_norm)\.(.+)", rest):
        # Convolution, norm and activation, four times, then the last convolution.
        return f"mask_downsampler.encoder.{3 * int(found[1]) + (found[2] == 'layer_norm')}.{found[3]}"
    rest = re.sub(
        r"^projection", "out_proj", rest.replace("mask_downsampler.final_conv", "mask_downsampler.encoder.12")
    )
    rest = rest.replace("feature_projection", "pix_feat_proj").replace("memory_fuser", "fuser")
    rest = rest.replace("depthwise_conv", "dwconv").replace("pointwise_conv", "pwconv").replace("layer_norm", "norm")
    return re.sub(r"\.scale$", ".gamma", rest)


def rotations(state: dict[str, torch.Tensor], vision: dict) -> dict[str, torch.Tensor]:
    """The tables that Meta's trunk keeps: one complex number for two numbers of a head, for each patch it looks at."""
    half = vision["hidden_size"] // vision["num_attention_heads"] // 2
    everything = (vision["image_size"] // vision["patch_size"]) ** 2
    for layer in range(vision["num_hidden_layers"]):
        patches = everything if layer in vision["global_attn_indexes"] else vision["window_size"] ** 2
        state[f"{TRUNK}.blocks.{layer}.attn.freqs_cis"] = torch.ones(
            patches, half, dtype=torch.complex64, device="meta"
        )
    return state


def published_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dictionary of `Sam3VideoModel` as Meta's file has it, without tables of rotations."""
    found: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if ".shared_image_embedding." in name or (re.search(r"\.[kv]_proj\.", name) and fused(name)):
            continue
        if fused(name):
            value = torch.cat([state[name.replace(".q_proj.", f".{each}_proj.")] for each in "qkv"])
            new, kind = published(name), name.rpartition(".")[2]
            found[new.replace(f"q_proj.{kind}", f"qkv.{kind}" if new.startswith(TRUNK) else f"in_proj_{kind}")] = value
        elif name.endswith("prompt_encoder.point_embed.weight"):
            for kind in range(4):
                found[f"tracker.sam_prompt_encoder.point_embeddings.{kind}.weight"] = value[kind : kind + 1].clone()
        elif name.endswith("embeddings.position_embeddings"):
            found[published(name)] = torch.cat([torch.full_like(value[:, :1], 9.0), value], dim=1)
        elif name.endswith("text_encoder.text_projection.weight"):
            found[published(name)] = value.T.contiguous()
        else:
            found[published(name)] = value
    # What transformers' detector has no use for: points shown to it.
    found["detector.geometry_encoder.points_direct_project.weight"] = torch.zeros(4, 2)
    return found


def fused(name: str) -> bool:
    """Whether q, k and v are one in Meta's code: everywhere but in the tracker."""
    return name.startswith("detector_model.") and re.search(r"\.[qkv]_proj\.", name) is not None
