"""Pictures of what a network in training makes of a few cached samples: reference | driving | output | truth."""

import contextlib

import numpy as np
import torch
from torch import nn

from scail2.conditions import decode_latents
from scail2.data.contact_sheet import SheetRow, contact_sheet
from scail2.data.dataset import LatentDataset
from scail2.data.samples import LatentSample, collate
from scail2.data.shards import DamagedSample
from scail2.devices import without_gradients
from scail2.errors import InputError
from scail2.pipeline import SCAIL2Pipeline
from scail2.pipeline.sampling import make_scheduler
from scail2.pipeline.settings import SamplingSettings
from scail2.request.presets import preset
from scail2.training.batches import TrainingBatch
from scail2.training.config import SheetConfig
from scail2.training.objectives.supervised import segment_conditions
from scail2.video import to_uint8


class ContactSheets:
    """Draws the same cached samples with the same noise whenever it is called, so that pictures tell of training only.

    It works in latents and needs neither pixels nor encoders: whatever can be trained on can be looked at. There is no
    guidance, even where the preset has it.

    Args:
        vae: decodes; the autoencoder the samples were cached with.
        dataset: ``config.rows`` samples spread evenly over it are shown, whole; damaged ones are left out.
        config: which preset samples them.
    """

    def __init__(self, vae: nn.Module, dataset: LatentDataset, config: SheetConfig) -> None:
        self.vae = vae
        self.preset = preset(config.preset)
        self.samples = [TrainingBatch(collate([sample])) for sample in _spread(dataset, config.rows)]

    @without_gradients
    def __call__(self, transformer: nn.Module, device: torch.device) -> np.ndarray:
        """The sheet, uint8 ``(H, W, 3)``, a row for each sample."""
        rows = []
        for number, sample in enumerate(self.samples):
            latents = sample.latents
            output = self._generate(transformer, sample.to(device), number)
            shown = (latents.reference, latents.driving, output, latents.target)
            reference, driving, output, truth = (self._pixels(video) for video in shown)
            rows.append(SheetRow(reference[0], _as_large(driving, truth), output, truth))
        return contact_sheet(rows)

    def _generate(self, transformer: nn.Module, sample: TrainingBatch, number: int) -> torch.Tensor:
        """Normalised latents ``(1, C, T, h, w)`` from the noise of row ``number``."""
        generator = torch.Generator().manual_seed(number)
        conditions = segment_conditions(sample.latents)
        chosen = self.preset
        settings = SamplingSettings(steps=chosen.steps, guidance_scale=1.0, solver=chosen.solver, shift=chosen.shift)
        scheduler = make_scheduler(chosen.solver, chosen.shift)
        pipe = SCAIL2Pipeline(transformer=transformer, vae=self.vae, scheduler=scheduler)
        pipe.set_progress_bar_config(disable=True)
        noise = torch.randn(conditions.latent_shape, generator=generator).to(conditions.reference_latents.device)
        return pipe.denoise(noise, conditions, settings, generator=generator).latents

    def _pixels(self, latents: torch.Tensor) -> np.ndarray:
        """uint8 ``(T, H, W, 3)``."""
        return to_uint8(decode_latents(self.vae, latents.float().cpu())[0].transpose(0, 1))


def _spread(dataset: LatentDataset, rows: int) -> list[LatentSample]:
    """Readable samples from places spread evenly over the dataset, which stores the directions of a pair side by side."""
    found = []
    for place in np.linspace(0, len(dataset) - 1, min(rows, len(dataset))).round().astype(int):
        with contextlib.suppress(DamagedSample):  # counted and named by the dataset
            found.append(dataset[int(place)])
    if not found:
        raise InputError(f"No sample for contact sheets can be read: {'; '.join(dataset.damage.lines()[:3])}.")
    return found


def _as_large(video: np.ndarray, like: np.ndarray) -> np.ndarray:
    """A driving video at half size, doubled for showing."""
    factor = like.shape[1] // video.shape[1]
    return video.repeat(factor, axis=1).repeat(factor, axis=2)
