"""Points and boxes, sorted by frame and character and put into the coordinates SAM3 wants."""

from dataclasses import dataclass

import torch

from scail2.errors import InputError
from scail2.perception.segmenters.protocol import check_places
from scail2.request.masks import BoxPrompt, Prompts
from scail2.video import SizedFrames

# A box is handed over as two points with these labels.
_BOX_CORNERS = (2, 3)


@dataclass
class Places:
    """Points and at most one box for one character in one frame, in pixels."""

    points: list[tuple[float, float, int]]
    box: tuple[float, float, float, float] | None = None

    def scaled(self, side: int, frames: SizedFrames) -> tuple[torch.Tensor, torch.Tensor]:
        """Coordinates (1, 1, N, 2) in the model's picture and labels (1, 1, N); a box is its two corners, first."""
        corners = []
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            corners = [(x0, y0, _BOX_CORNERS[0]), (x1, y1, _BOX_CORNERS[1])]
        rows = [*corners, *self.points]
        scale = torch.tensor([side / frames.width, side / frames.height])
        coordinates = torch.tensor([[x, y] for x, y, _ in rows], dtype=torch.float32) * scale
        return coordinates[None, None], torch.tensor([kind for _, _, kind in rows], dtype=torch.int32)[None, None]


def by_frame(prompts: Prompts) -> dict[int, dict[int, Places]]:
    """Frame → character → what was placed there; raises `InputError` for two boxes on one character in a frame."""
    places: dict[int, dict[int, Places]] = {}
    for prompt in prompts.all_placed:
        given = places.setdefault(prompt.frame, {}).setdefault(prompt.character, Places([]))
        if isinstance(prompt, BoxPrompt):
            if given.box is not None:
                raise InputError(f"character {prompt.character} has two boxes in frame {prompt.frame}: give one.")
            given.box = prompt.box
        else:
            given.points.append((prompt.x, prompt.y, int(prompt.inside)))
    return places


def check_prompts(prompts: Prompts, frames: SizedFrames) -> None:
    """Raises `InputError` for prompts that say nothing, or point outside the clip."""
    if not prompts.text and not prompts.placed:
        raise InputError("SAM3 needs to be told what to look for: give --text, --point or --box.")
    check_places(prompts, frames)
