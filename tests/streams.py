"""A random stream for a test."""

import torch


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
