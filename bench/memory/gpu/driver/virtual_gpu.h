/* What the files of the stand-in driver share.
 *
 * The library built from this folder answers the CUDA, cuBLAS and cuDNN calls of PyTorch on a machine that has no
 * GPU. Memory is counted exactly and nothing is ever computed: allocations hand out addresses that nobody can read,
 * kernels do nothing, and a copy to the host delivers zeros.
 *
 *   memory.c         device memory: what is counted
 *   runtime.c        devices, streams, events, kernels
 *   driver.c         the few functions that PyTorch fetches from the driver by name
 *   cublas.c         handles and descriptors
 *   cudnn_handle.c   handles, tensor descriptors, batch normalisation
 *   cudnn_plans.c    convolution plans, asked of the real cuDNN
 *   nvml.c           a library of its own: the management library
 *
 * Every other function of these libraries that PyTorch imports is generated when the library is built: it returns
 * success, or "not supported" where the caller would go on to read an answer that nobody wrote. */
#ifndef VIRTUAL_GPU_H
#define VIRTUAL_GPU_H

#include <stddef.h>
#include <stdint.h>

/* Everything that is not static is part of an API and must be visible to PyTorch, except what carries this. */
#define INTERNAL __attribute__((visibility("hidden")))

#define MEBIBYTE ((size_t)1 << 20)

/* The GPU that is played. Filled once by virtual_gpu_configure(), before PyTorch is loaded; driver.py mirrors it. */
struct virtual_gpu {
    const char *name;
    uint64_t total_bytes;
    int32_t capability_major;
    int32_t capability_minor;
    int32_t multiprocessors;
    int32_t threads_per_multiprocessor;
    int32_t blocks_per_multiprocessor;
    int32_t shared_bytes_per_block; /* the most that a kernel can opt in to */
    int32_t reserved_shared_bytes_per_block;
    int32_t l2_cache_bytes;
    const char *cudnn_library;  /* path of the real libcudnn */
    const char *cudnn_device;   /* the device as cuDNN's JSON */
    int32_t cudnn_workspaces;   /* 0: every plan is said to need no workspace */
};

extern INTERNAL struct virtual_gpu virtual_gpu;

/* The device that the calling thread has selected: always 0, there is only one. */
#define THE_DEVICE 0

/* A new opaque handle (stream, event, ...): unique, never dereferenced. */
INTERNAL void *new_handle(void);

/* The driver's view of memory, for functions that PyTorch fetches by name: NULL if `name` is not one of them. */
INTERNAL void *find_memory_function(const char *name);

#endif
