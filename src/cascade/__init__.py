"""nnU-Net's 3D cascade: a network at low resolution, then one at full resolution that sees what the first segments."""
