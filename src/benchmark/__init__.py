"""Timed training epochs: what a setting costs on this machine, and what bounds it."""
