"""Numeric tolerances of the tests against published numbers in one place; what they measure and why is in docs/numerics.md.

`test_numerics_document` holds the two together.
"""

TOLERANCES = {
    "forward": 5e-5,
    "intermediates": 5e-5,
    "rope": 1e-6,
    "rotated": 1e-6,
    "masks": 1e-6,
    "ops": 1e-6,
    "image_projection": 5e-6,
    "oracle": 5e-5,
    "rearranged": 1e-5,
    "bfloat16": 5e-2,
    "bfloat16_sampled": 1e-2,
    "sigmas": 1e-6,
    "solvers": 1e-5,
    "sampled_latents": 5e-4,
    "sampled_frames": 2e-3,
    "condition_latents": 5e-5,
    "history_latents": 2e-3,
    "text_encoder": 5e-5,
    "image_encoder": 5e-5,
    "autoencoder": 5e-5,
}
