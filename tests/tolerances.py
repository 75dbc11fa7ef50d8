"""Numeric tolerances of the network's tests in one place; what they measure and why is in docs/numerics.md.

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
}
