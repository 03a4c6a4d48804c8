"""PyTorch's own snapshots, as ``torch.cuda.memory._dump_snapshot`` writes them: read safely, and what they tell."""
