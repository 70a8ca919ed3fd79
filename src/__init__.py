"""U-Mamba and its benchmark. Imported before torch, it makes OpenMP's threads wait without spinning."""

import os

# A thread of libgomp (torch on Linux) or of Intel OpenMP that waits for another spins on its core. Beside any other
# process the one it waits for has no core to run on, and a step takes up to ten times as long. Both read this when
# torch is imported. See docs/benchmarks/busy_neighbour.md.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(os.environ):
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
