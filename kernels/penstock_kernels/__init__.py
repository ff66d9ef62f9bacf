"""Kernels of Penstock: plain functions over torch tensors, without any knowledge of requests or models."""
