"""Figures to play with: HTML that needs nothing else and no connection."""

from metarl_lib.figures.stepper import stepper

__all__ = ["stepper"]
