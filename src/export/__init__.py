"""Trained networks as files for others: a bundle, torch.export, ONNX, a model folder of nnU-Net."""
