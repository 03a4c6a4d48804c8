/* Device memory: addresses without memory behind them, and an exact count of the bytes handed out. */
#define _GNU_SOURCE
#include "virtual_gpu.h"

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* The driver maps device memory in pages of this size, so every allocation occupies a multiple of it. */
#define PAGE_BYTES (2 * MEBIBYTE)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static size_t used_bytes;

static size_t whole_pages(size_t bytes) { return (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES; }

/* --- addresses ----------------------------------------------------------------------------------------------- */

/* One large range that no process memory can ever share. Addresses are taken from it in ascending order and start
 * over once every one has been given back, which is the case between two measurements. */
static struct {
    uintptr_t start, next, end;
    size_t ranges_out;
} space;

void reserve_address_space(void) {
    /* Inaccessible pages cost nothing, but the process may limit its address space: take what it gives. */
    for (size_t bytes = (size_t)16 << 40; bytes >= (size_t)64 << 30; bytes /= 2) {
        void *found = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (found != MAP_FAILED) {
            space.start = space.next = whole_pages((uintptr_t)found);
            space.end = (uintptr_t)found + bytes;
            return;
        }
    }
}

/* Returns 0 when the range is used up. The caller holds the lock. */
static uintptr_t take_addresses(size_t bytes) {
    if (space.ranges_out == 0) space.next = space.start;
    bytes = whole_pages(bytes);
    if (bytes > space.end - space.next) return 0;
    uintptr_t address = space.next;
    space.next += bytes;
    space.ranges_out++;
    return address;
}

static int on_device(const void *pointer) {
    return (uintptr_t)pointer >= space.start && (uintptr_t)pointer < space.end;
}

/* --- cudaMalloc and cudaFree --------------------------------------------------------------------------------- */

/* What cudaMalloc handed out, in no particular order: a few hundred at most, searched from the newest. */
static struct allocation {
    uintptr_t address;
    size_t bytes;
} *allocations;
static size_t allocation_count, allocation_room;

static int remember(uintptr_t address, size_t bytes) {
    if (allocation_count == allocation_room) {
        size_t room = allocation_room ? 2 * allocation_room : 256;
        struct allocation *grown = realloc(allocations, room * sizeof *grown);
        if (!grown) return 0;
        allocations = grown;
        allocation_room = room;
    }
    allocations[allocation_count++] = (struct allocation){address, bytes};
    return 1;
}

cudaError_t cudaMalloc(void **pointer, size_t bytes) {
    *pointer = NULL;
    if (bytes == 0) return cudaSuccess;
    cudaError_t status = (cudaError_t)forbidden_by_capture();
    if (status) return status;
    status = cudaErrorMemoryAllocation;
    pthread_mutex_lock(&lock);
    size_t mapped = whole_pages(bytes);
    if (mapped <= virtual_gpu.total_bytes - used_bytes) {
        uintptr_t address = take_addresses(mapped);
        if (address && remember(address, mapped)) {
            used_bytes += mapped;
            *pointer = (void *)address;
            status = cudaSuccess;
        }
    }
    pthread_mutex_unlock(&lock);
    return status;
}

cudaError_t cudaFree(void *pointer) {
    if (!pointer) return cudaSuccess;
    cudaError_t status = (cudaError_t)forbidden_by_capture();
    if (status) return status;
    status = cudaErrorInvalidValue;
    pthread_mutex_lock(&lock);
    for (size_t i = allocation_count; i-- > 0;) {
        if (allocations[i].address == (uintptr_t)pointer) {
            used_bytes -= allocations[i].bytes;
            space.ranges_out--;
            allocations[i] = allocations[--allocation_count];
            status = cudaSuccess;
            break;
        }
    }
    pthread_mutex_unlock(&lock);
    return status;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    *total_bytes = virtual_gpu.total_bytes;
    *free_bytes = virtual_gpu.total_bytes - used_bytes;
    return cudaSuccess;
}

/* --- virtual memory management: PyTorch's expandable segments ------------------------------------------------ */

/* Addresses and memory come apart here: a range is reserved first, memory is created and mapped into it later. The
 * handle of created memory is its size, all that is needed to take it back. */

static CUresult memory_page_bytes(size_t *bytes, const CUmemAllocationProp *properties,
                                  CUmemAllocationGranularity_flags which) {
    *bytes = PAGE_BYTES;
    return CUDA_SUCCESS;
}

static CUresult reserve_range(CUdeviceptr *address, size_t bytes, size_t alignment, CUdeviceptr wish,
                              unsigned long long flags) {
    pthread_mutex_lock(&lock);
    *address = take_addresses(bytes);
    pthread_mutex_unlock(&lock);
    return *address ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult release_range(CUdeviceptr address, size_t bytes) {
    pthread_mutex_lock(&lock);
    space.ranges_out--;
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

static CUresult create_memory(CUmemGenericAllocationHandle *handle, size_t bytes,
                              const CUmemAllocationProp *properties, unsigned long long flags) {
    CUresult status = CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&lock);
    if (bytes <= virtual_gpu.total_bytes - used_bytes) {
        used_bytes += bytes;
        *handle = bytes;
        status = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&lock);
    return status;
}

static CUresult release_memory(CUmemGenericAllocationHandle handle) {
    pthread_mutex_lock(&lock);
    used_bytes -= handle;
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

static CUresult map_memory(CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
                           unsigned long long flags) {
    return CUDA_SUCCESS;
}

static CUresult unmap_memory(CUdeviceptr address, size_t bytes) { return CUDA_SUCCESS; }

static CUresult set_access(CUdeviceptr address, size_t bytes, const CUmemAccessDesc *access, size_t count) {
    return CUDA_SUCCESS;
}

void *find_memory_function(const char *name) {
    static const struct {
        const char *name;
        void *function;
    } known[] = {
        {"cuMemGetAllocationGranularity", memory_page_bytes},
        {"cuMemAddressReserve", reserve_range},
        {"cuMemAddressFree", release_range},
        {"cuMemCreate", create_memory},
        {"cuMemRelease", release_memory},
        {"cuMemMap", map_memory},
        {"cuMemUnmap", unmap_memory},
        {"cuMemSetAccess", set_access},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, name)) return known[i].function;
    return NULL;
}

/* --- copies -------------------------------------------------------------------------------------------------- */

/* Memory of the host is real. Reading the device gives zeros, always the same; writing to it does nothing. What the
 * host reads may decide what it does next, a shape or a branch, and then the step is not the real one. */
static cudaError_t told_of_read(void *to, size_t pitch, size_t width_bytes, size_t height) {
    switch (notice("reads")) {
        case FAIL: return (cudaError_t)fail("what numbers on the GPU decide", cudaErrorNotSupported);
        case PLAY:
            for (size_t row = 0; row < height; row++) memset((char *)to + row * pitch, 0, width_bytes);
    }
    return cudaSuccess;
}

static cudaError_t copy(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width_bytes,
                        size_t height) {
    if (on_device(to)) return cudaSuccess;
    if (on_device(from)) return told_of_read(to, to_pitch, width_bytes, height);
    for (size_t row = 0; row < height; row++)
        memcpy((char *)to + row * to_pitch, (const char *)from + row * from_pitch, width_bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
    cudaError_t status = (cudaError_t)forbidden_by_capture();
    return status ? status : copy(to, bytes, from, bytes, bytes, 1);
}

/* A copy to the host that is captured is done by every launch, as long as the memory there is pinned. */
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width_bytes,
                              size_t height, enum cudaMemcpyKind kind, cudaStream_t stream) {
    int is_read = !on_device(to) && on_device(from), status = cudaSuccess;
    for (size_t row = 0; row < height; row++) {
        struct host_deed deed = {.data = (char *)to + row * to_pitch, .zeroed_bytes = is_read ? width_bytes : 0};
        if (!is_captured(stream, deed, &status)) return copy(to, to_pitch, from, from_pitch, width_bytes, height);
    }
    return status || !is_read ? (cudaError_t)status : told_of_read(to, to_pitch, 0, height);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream) {
    return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}

cudaError_t cudaMemset(void *to, int value, size_t bytes) {
    if (!on_device(to)) memset(to, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream) {
    int status;
    return is_captured(stream, (struct host_deed){0}, &status) ? (cudaError_t)status : cudaMemset(to, value, bytes);
}

/* --- host memory and pointers -------------------------------------------------------------------------------- */

/* Memory of the host that is pinned: nothing is the faster for it, but a program may ask whether it is. */
static struct pinned {
    struct pinned *older;
    const char *start;
    size_t bytes;
} *newest_pinned;

/* Returns how many bytes from `pointer` on are pinned, 0 if it is not. */
static size_t pinned_bytes(const void *pointer) {
    pthread_mutex_lock(&lock);
    struct pinned *range = newest_pinned;
    while (range && !((const char *)pointer >= range->start && (const char *)pointer < range->start + range->bytes))
        range = range->older;
    size_t bytes = range ? (size_t)(range->start + range->bytes - (const char *)pointer) : 0;
    pthread_mutex_unlock(&lock);
    return bytes;
}

void deliver_zeros(void *to, size_t bytes) {
    if (bytes <= pinned_bytes(to)) memset(to, 0, bytes);
}

cudaError_t cudaHostRegister(void *pointer, size_t bytes, unsigned flags) {
    if (pinned_bytes(pointer)) return cudaErrorHostMemoryAlreadyRegistered;
    struct pinned *range = malloc(sizeof *range);
    if (!range) return cudaErrorMemoryAllocation;
    pthread_mutex_lock(&lock);
    *range = (struct pinned){newest_pinned, pointer, bytes};
    newest_pinned = range;
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *pointer) {
    pthread_mutex_lock(&lock);
    struct pinned **link = &newest_pinned, *range;
    while (*link && (*link)->start != pointer) link = &(*link)->older;
    range = *link;
    if (range) *link = range->older;
    pthread_mutex_unlock(&lock);
    free(range);
    return range ? cudaSuccess : cudaErrorHostMemoryNotRegistered;
}

cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned flags) {
    cudaError_t status = (cudaError_t)forbidden_by_capture();
    if (status) return status;
    if (posix_memalign(pointer, 4096, bytes ? bytes : 1)) return cudaErrorMemoryAllocation;
    status = cudaHostRegister(*pointer, bytes, flags);
    if (status) free(*pointer);
    return status;
}

cudaError_t cudaFreeHost(void *pointer) {
    cudaError_t status = cudaHostUnregister(pointer);
    free(pointer);
    return status;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *pointer) {
    memset(attributes, 0, sizeof *attributes);
    if (on_device(pointer)) {
        attributes->type = cudaMemoryTypeDevice;
        attributes->device = THE_DEVICE;
        attributes->devicePointer = (void *)pointer;
    } else if (pinned_bytes(pointer)) {
        attributes->type = cudaMemoryTypeHost;
        attributes->device = THE_DEVICE;
        attributes->devicePointer = attributes->hostPointer = (void *)pointer; /* one address for both */
    } else {
        attributes->type = cudaMemoryTypeUnregistered;
        attributes->device = -2; /* cudaInvalidDeviceId */
        attributes->hostPointer = (void *)pointer;
    }
    return cudaSuccess;
}
