"""Every numeric tolerance of the tests, absolute, in one place; the reasons are in docs/numerics.md.

`test_numerics_document` holds the two together.
"""

TOLERANCES = {
    "forward": 5e-5,
    "intermediates": 5e-5,
    "rope": 1e-6,
    "rotated": 1e-6,
    "masks": 1e-6,
    "ops": 1e-6,
    "oracle": 5e-5,
    "activation": 2e-6,
    "compiled": 1e-5,
    "autocast": 5e-2,
}
