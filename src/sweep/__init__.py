"""Sweeps: the jobs of --multirun dealt to devices or given to SLURM, and how they stand."""
