"""What stands beside SAM3's tensors: pixel statistics, vocabulary, and the folder or Hub repository they come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scail2.checkpoints.model_folder import loading
from scail2.errors import InputError
from scail2.files.documents import decode, load_json


@dataclass(frozen=True, kw_only=True)
class PixelStatistics:
    """Mean and deviation per channel, in [0, 1], that the weights were trained with."""

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @classmethod
    def read(cls, weights: str) -> "PixelStatistics":
        """From a local folder's processor configuration; SAM3's own values where there is none."""
        for name in ("processor_config.json", "preprocessor_config.json"):
            path = Path(weights) / name
            if path.is_file():
                stored = load_json(path, dict[str, Any])
                stored = stored.get("video_processor") or stored.get("image_processor") or stored
                if isinstance(stored, Mapping) and "image_mean" in stored:
                    found = {"mean": stored["image_mean"], "std": stored.get("image_std")}
                    return decode(found, cls, path)
        return cls()


def load_pretrained(kind: Any, weights: str, dtype: torch.dtype | None) -> Any:
    """``kind.from_pretrained`` of a folder or a Hub repository.

    Raises:
        InputError: there is none, it is something else, or it lacks tensors, for which transformers would put random numbers.
    """
    from transformers import PreTrainedModel

    is_model = issubclass(kind, PreTrainedModel)
    options: dict[str, Any] = {"output_loading_info": True} if is_model else {}
    local = Path(weights).exists()
    if not local and (weights.count("/") != 1 or weights.startswith((".", "/", "~"))):
        raise InputError(
            f"there are no SAM3 weights at {weights}: give a file, a folder in transformers format or a Hub name."
        )
    try:
        loaded = kind.from_pretrained(weights, local_files_only=local, **options, **({"dtype": dtype} if dtype else {}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        told = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"the SAM3 weights {weights} cannot be loaded as {kind.__name__}: {told}") from error
    if not is_model:
        return loaded
    model, info = loaded
    if absent := sorted(info["missing_keys"]):
        raise InputError(
            f"The tensors in {weights} are not all of a {kind.__name__}: {len(absent)} missing, such as {absent[0]}; download it "
            "again."
        )
    return model


def vocabulary_beside(file: Path, words: int) -> Any:
    """The tokenizer in the folder of a single file; such files hold none themselves."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    stored = file.with_name("tokenizer.json")
    if not stored.is_file():
        raise InputError(
            f"{file} holds no vocabulary, which text needs: put tokenizer.json of facebook/sam3 (or of CLIP) beside it, or use "
            "points and boxes."
        )
    if stored.with_name("tokenizer_config.json").is_file():
        tokenizer = load_pretrained(AutoTokenizer, str(file.parent), None)
    else:
        with loading(stored):
            tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(stored))
    if tokenizer.pad_token is None:
        # What stands behind the words is masked; it only has to be in the vocabulary.
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(len(tokenizer) - 1)
    if len(tokenizer) > words:
        raise InputError(
            f"{stored} has {len(tokenizer)} words and {file} {words}: it is the vocabulary of another model."
        )
    return tokenizer
