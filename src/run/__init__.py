"""What surrounds a training: its folder, record and lock, resuming, signals, sweeps, a W&B logger that never asks."""
