"""PyTorch's own tests of its memory, run on the virtual GPU."""
