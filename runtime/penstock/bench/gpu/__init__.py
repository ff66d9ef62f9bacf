"""Measurements of a GPU. Needs torch, Triton, numpy and rich alone, so that they run on a machine with nothing else."""
