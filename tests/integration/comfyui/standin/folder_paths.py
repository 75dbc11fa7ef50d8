"""A stand-in for ComfyUI's ``folder_paths``; a test sets the folder."""

output = "."


def get_output_directory() -> str:
    return output
