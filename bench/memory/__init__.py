"""How much GPU memory a training step needs: measured by PyTorch's allocator, on a real or a virtual GPU."""
