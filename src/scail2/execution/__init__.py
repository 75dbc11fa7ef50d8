"""Numbered work on many processes and machines: local workers, Slurm arrays, Ray; it knows no sample."""
