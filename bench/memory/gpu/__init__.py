"""The GPU to measure on: this machine's own, or a virtual one that counts memory and computes nothing.

A virtual GPU is a C library that answers PyTorch's calls to CUDA, cuBLAS and cuDNN. Everything above it is
real: PyTorch's operators and allocator, and cuDNN's choice of convolution plans with their workspaces.
Limits:

- No number is computed: whatever is copied to the host is zero. A size that depends on numbers is refused.
- There is one device, and one process in a process group, over gloo (`profl.bench.memory.gpu.process_group`).
- What cuDNN's batch normalisation keeps beside its tensors counts as nothing.
- The CUDA context is not counted. ``cudnn.benchmark`` chooses by timing, and nothing here takes time.
- The reserve and workspace of cuDNN's recurrent layers are those that one H100 told, by formula for other GPUs.
- What the driver itself keeps on the device for a CUDA graph is not counted. A graph with conditional nodes, cuSOLVER,
  cuSPARSE, cuFFT and NCCL are missing; using them raises an error.

`profl.bench.memory.gpu.unmodelled.unmodelled` names recurrent layers, what is missing, reads from the GPU, and
choices by time.
"""
