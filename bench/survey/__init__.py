"""Studies for who wants to check the numbers: many models on many GPUs, and other recorders beside ours."""
