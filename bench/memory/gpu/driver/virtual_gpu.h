/* What the files of the stand-in driver share.
 *
 * The library built from this folder answers the CUDA, cuBLAS and cuDNN calls of PyTorch on a machine that has no
 * GPU. Memory is counted exactly and nothing is ever computed: allocations hand out addresses that nobody can read,
 * kernels do nothing, and a copy to the host delivers zeros.
 *
 *   memory.c           device memory: what is counted
 *   runtime.c          devices, streams, events, kernels
 *   driver.c           the few functions that PyTorch fetches from the driver by name
 *   graphs.c           CUDA graphs: work that is captured, and launched later
 *   modules.c          kernels that are compiled at run time
 *   cublas.c           handles and descriptors
 *   cudnn_handle.c     handles, older descriptors, batch normalisation
 *   cudnn_plans.c      convolution plans, asked of the real cuDNN
 *   known_answers.c    what it has answered before
 *   cudnn_recurrent.c  recurrent layers: sizes by formula
 *   unmodelled.c       what cannot be played, told and refused, and who asked for it
 *   nvml.c             a library of its own: the management library
 *
 * Every other function of these libraries that PyTorch imports is generated when the library is built: it returns
 * success, or is refused where the caller would go on to read an answer that nobody wrote. Only what PyTorch and the
 * libraries below it look for is exported, and what driver.py calls: virtual_gpu_configure and virtual_gpu_watch. */
#ifndef VIRTUAL_GPU_H
#define VIRTUAL_GPU_H

#include <stddef.h>
#include <stdint.h>

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
    int32_t kernel_architecture; /* which of the compiled variants of PyTorch's kernels it runs, as in sm_86 */
};

extern struct virtual_gpu virtual_gpu;

/* The device that the calling thread has selected: always 0, there is only one. */
#define THE_DEVICE 0

/* A new opaque handle (stream, event, ...): unique, never dereferenced. */
void *new_handle(void);

/* The driver's view of memory, for functions that PyTorch fetches by name: NULL if `name` is not one of them. */
void *find_memory_function(const char *name);

/* Takes the addresses that allocations are made from. */
void reserve_address_space(void);

/* What work does to the host when it is done: nothing, call a function, or write zeros to `data`. */
struct host_deed {
    void (*function)(void *data);
    void *data;
    size_t zeroed_bytes;
};

/* Whether work on `stream` is captured in place of being done. `*status` is the runtime's error for the caller. */
int is_captured(void *stream, struct host_deed deed, int *status);

/* The same for work that does nothing to the host. Returns the runtime's error for the caller. */
int capture_work(void *stream);

/* The runtime's error if a capture forbids this thread what may disturb it, as taking and giving back memory does. */
int forbidden_by_capture(void);

/* The runtime's error if the host waits for `stream` and it is captured: that would never end. */
int waits_for_capture(void *stream);

/* Writes what the device holds, zeros, to memory of the host that is still pinned. */
void deliver_zeros(void *to, size_t bytes);

/* Tells the watcher of a deed that is not played as on a real GPU, and returns what is to be done: play it, leave what
 * the caller holds as it is, or have it fail. */
enum { PLAY, LEAVE, FAIL };
int notice(const char *deed);

/* Tells the watcher of a call that cannot be answered, and returns `status`, which says so. */
int refuse(const char *function, int status);

/* The same of what the watcher knows already. */
int fail(const char *what, int status);

/* The calling thread's last failure as a sentence, for error messages. */
const char *refusal(void);

#endif
