"""The public files one may have: what, how large, under which licence, from where, and how sure that is known.

Names and sizes were read from public pages, hashes from pages or from records of people who downloaded the files; none of
the large files was downloaded for this table. Where that is not enough, `PublicFile.verified` is false and says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from scail2.errors import InputError

WEIGHTS = "Comfy-Org/SCAIL-2"
WAN_FILES = "Comfy-Org/Wan_2.1_ComfyUI_repackaged"
BLOCKS = "Abiray/SCAIL-2-GGUF"
OFFICIAL = "zai-org/SCAIL-2"
DEFAULT_MODEL = "scail2-14b"


@dataclass(frozen=True, slots=True)
class PublicFile:
    """One file of a public repository.

    Attributes:
        what: for people: what it holds.
        licence: of the weights, as stated by whoever publishes them.
        repository, path: where it is on the Hub.
        place: where it is kept, relative to the model folder. Folders are named as in ComfyUI, so that the ``models``
            folder of a ComfyUI installation can be the model folder.
        gigabytes: size in 10^9 bytes, as the Hub shows it.
        checked: how this is known.
        verified: whether name and size are those of the repository itself.
        size: exact bytes, where known.
        sha256: of the content, where known.
        extra: of this package, without which the file is not read.
    """

    what: str
    licence: str
    repository: str
    path: str
    place: str
    gigabytes: float
    checked: str
    verified: bool = True
    size: int | None = None
    sha256: str | None = None
    extra: str | None = None

    @property
    def name(self) -> str:
        """Without folders."""
        return self.place.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class ModelSet:
    """The files that make one model, under a short name for ``--model``.

    Attributes:
        main: the file (or, for a set in a folder of its own, the folder) that loads, relative to the model folder.
    """

    name: str
    what: str
    main: str
    files: tuple[PublicFile, ...]

    @property
    def gigabytes(self) -> float:
        """All files together, in 10^9 bytes."""
        return sum(each.gigabytes for each in self.files)


_PAGE = "name and size on the repository's page"
_RECORDS = "size and SHA-256 as recorded by several who downloaded it"

FP16 = PublicFile(
    "transformer, 16.4 billion parameters, float16",
    "MIT",
    WEIGHTS,
    "diffusion_models/wan2.1_14B_SCAIL_2_fp16.safetensors",
    "diffusion_models/wan2.1_14B_SCAIL_2_fp16.safetensors",
    32.8,
    _PAGE,
)
FP8 = PublicFile(
    "transformer in scaled float8 (the mxfp8 and int8_convrot files beside it are refused here)",
    "MIT",
    WEIGHTS,
    "diffusion_models/wan2.1_14B_SCAIL_2_fp8_scaled.safetensors",
    "diffusion_models/wan2.1_14B_SCAIL_2_fp8_scaled.safetensors",
    17.69,
    _RECORDS,
    size=17_694_586_857,
    sha256="11513b4697ecf566de0cb74660c478f301fb6699a62b10369e91a6ed0fd6b083",
)


def _blocks(kind: str, gigabytes: float) -> PublicFile:
    name = f"SCAIL-2-{kind}.gguf"
    checked = f"{_PAGE}; the licence is the base model's"
    what = f"transformer in {kind} blocks"
    return PublicFile(what, "MIT", BLOCKS, name, f"unet/{name}", gigabytes, checked, extra="gguf")


Q8, Q6, Q5, Q4, Q3 = (
    _blocks(kind, gigabytes)
    for kind, gigabytes in (("Q8_0", 18.1), ("Q6_K", 14.2), ("Q5_K_M", 13.0), ("Q4_K_M", 11.5), ("Q3_K_M", 9.11))
)
VAE = PublicFile(
    "autoencoder of Wan 2.1",
    "Apache-2.0",
    WAN_FILES,
    "split_files/vae/wan_2.1_vae.safetensors",
    "vae/wan_2.1_vae.safetensors",
    0.254,
    _RECORDS,
    size=253_815_318,
    sha256="2fc39d31359a4b0a64f55876d8ff7fa8d780956ae2cb13463b0223e15148976b",
)
TEXT_ENCODER = PublicFile(
    "text encoder umT5-XXL in scaled float8, with its tokenizer",
    "Apache-2.0",
    WAN_FILES,
    "split_files/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors",
    "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors",
    6.736,
    _RECORDS,
    size=6_735_906_897,
    sha256="c3355d30191f1f066b26d93fba017ae9809dce6c627dda5f6a66eaa651204f68",
    extra="text",
)
IMAGE_ENCODER = PublicFile(
    "image encoder CLIP ViT-H",
    "MIT",
    WAN_FILES,
    "split_files/clip_vision/clip_vision_h.safetensors",
    "clip_vision/clip_vision_h.safetensors",
    1.26,
    "SHA-256 as recorded by several who downloaded it, size on a copy's page",
    sha256="64a7ef761bfccbadbaa3da77366aac4185a6c58fa5de5f589b42a65bcc21f161",
)
DISTILLATION = PublicFile(
    "LoRA lightx2v, step and CFG distillation: presets fast, balanced, distilled (--lora FILE:0.8)",
    "Apache-2.0",
    "Kijai/WanVideo_comfy",
    "Lightx2v/lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors",
    "loras/lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors",
    0.738,
    "name, size and SHA-256 on the repository's page",
    sha256="85c4a61c30e0497aa44b91d93a893b624708461a56fe5485183b28fa07e2dfb3",
)
PREFERENCE = PublicFile(
    "LoRA Bias-Aware DPO, rank 128: better hands; presets fast, balanced (--lora FILE)",
    "MIT",
    WEIGHTS,
    "loras/wan2.1_SCAIL_2_DPO_lora_bf16.safetensors",
    "loras/wan2.1_SCAIL_2_DPO_lora_bf16.safetensors",
    1.227,
    _RECORDS,
    size=1_226_936_552,
    sha256="b106522036f64e50f5f8ae3b808973515ff442cc2fac27b65d875eafb95b89e2",
)
SAM3_FILE = PublicFile(
    "SAM 3.1 in ComfyUI's single file: not read by this version, masks take SAM 3",
    "SAM License (Meta)",
    "Comfy-Org/sam3.1",
    "checkpoints/sam3.1_multiplex_fp16.safetensors",
    "checkpoints/sam3.1_multiplex_fp16.safetensors",
    1.746,
    _RECORDS,
    size=1_745_546_848,
    sha256="9ba99c92703c2e8b4f47de2d34a539bb8e18923049e238b780d70dbe6368eb03",
)
SAM3_FOLDER = PublicFile(
    "SAM 3 in the format of transformers, for masks of anybody: scail2 masks --sam3 facebook/sam3",
    "SAM License (Meta)",
    "facebook/sam3",
    "model.safetensors",
    "sam3/model.safetensors",
    3.4,
    "not verified: the repository asks for consent before it shows its files",
    verified=False,
)

_OWN = "scail2-14b-official"
_TRAINING = PublicFile(
    "transformer in the training layout, float32",
    "MIT",
    OFFICIAL,
    "model/1/fsdp2_rank_0000_checkpoint.pt",
    f"{_OWN}/model/1/fsdp2_rank_0000_checkpoint.pt",
    65.6,
    "name in others' listings of the repository; the size is computed, not verified",
    verified=False,
)
_COMPANIONS = tuple(
    PublicFile(what, licence, OFFICIAL, path, f"{_OWN}/{path}", gigabytes, checked, verified=False)
    for what, licence, path, gigabytes, checked in (
        (
            "autoencoder of Wan 2.1",
            "Apache-2.0",
            "Wan2.1_VAE.pth",
            0.508,
            "name in others' listings; the size is that of Wan's own file",
        ),
        (
            "text encoder umT5-XXL, bfloat16",
            "Apache-2.0",
            "umt5-xxl/models_t5_umt5-xxl-enc-bf16.pth",
            11.36,
            "name in others' listings; the size is that of Wan's own file",
        ),
        (
            "image encoder CLIP ViT-H, its visual half",
            "MIT",
            "models_clip_open-clip-xlm-roberta-large-vit-huge-14-onlyvisual.pth",
            2.5,
            "name in others' listings; the size is estimated, not verified",
        ),
    )
)
_TOKENIZER = tuple(
    PublicFile(
        "tokenizer of umT5-XXL",
        "Apache-2.0",
        "Wan-AI/Wan2.1-I2V-14B-720P",
        f"google/umt5-xxl/{name}",
        f"{_OWN}/google/umt5-xxl/{name}",
        gigabytes,
        "name on the repository's page; the size is estimated",
        verified=False,
    )
    for name, gigabytes in (
        ("special_tokens_map.json", 0.0),
        ("spiece.model", 0.005),
        ("tokenizer.json", 0.017),
        ("tokenizer_config.json", 0.0),
    )
)
SHARED = (VAE, TEXT_ENCODER, IMAGE_ENCODER)
LORAS = (PREFERENCE, DISTILLATION)
SEGMENTERS = (SAM3_FILE, SAM3_FOLDER)

# In the order in which the short name `DEFAULT_MODEL` takes them where several are installed: the most exact first.
MODEL_SETS = (
    ModelSet(f"{DEFAULT_MODEL}-fp16", "SCAIL-2 14B, float16", FP16.place, (FP16, *SHARED)),
    ModelSet(_OWN, "SCAIL-2 14B as published, float32", _OWN, (_TRAINING, *_COMPANIONS, *_TOKENIZER)),
    ModelSet(f"{DEFAULT_MODEL}-fp8", "SCAIL-2 14B, scaled float8", FP8.place, (FP8, *SHARED)),
    *(
        ModelSet(f"{DEFAULT_MODEL}-{short}", f"SCAIL-2 14B, GGUF {short}", file.place, (file, *SHARED))
        for short, file in (("q8", Q8), ("q6", Q6), ("q5", Q5), ("q4", Q4), ("q3", Q3))
    ),
)


def model_set(name: str) -> ModelSet:
    """The set of that name. Raises `InputError` for a name that is none."""
    for each in MODEL_SETS:
        if each.name == name:
            return each
    raise InputError(
        f"There is no set of files called {name!r}: choose one of {', '.join(s.name for s in MODEL_SETS)}."
    )


def every_file() -> tuple[PublicFile, ...]:
    """Every file of the table once, in the order of the sets."""
    found = [file for each in MODEL_SETS for file in each.files]
    return tuple(dict.fromkeys([*found, *LORAS, *SEGMENTERS]))
