"""A stand-in for ``comfy.utils``: the progress bar, which remembers."""

shown: list[tuple[int, int]] = []


class ProgressBar:
    def __init__(self, total: int) -> None:
        self.total = total

    def update_absolute(self, value: int, total: int | None = None) -> None:
        shown.append((value, total or self.total))
