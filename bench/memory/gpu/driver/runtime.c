/* The CUDA runtime apart from memory: one device, streams and events that are always ready, kernels that do nothing. */
#include "virtual_gpu.h"

#include <cuda_runtime_api.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

/* Loading the library says who is played; PyTorch comes later. */
struct virtual_gpu virtual_gpu;

void virtual_gpu_configure(const struct virtual_gpu *wanted) {
    virtual_gpu = *wanted;
    reserve_address_space();
}

void *new_handle(void) {
    static atomic_uintptr_t last = 0x10000;
    return (void *)(atomic_fetch_add(&last, 16) + 16);
}

/* --- the device ---------------------------------------------------------------------------------------------- */

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device) {
    *device = THE_DEVICE;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) { return device == THE_DEVICE ? cudaSuccess : cudaErrorInvalidDevice; }

cudaError_t cudaDeviceSynchronize(void) { return (cudaError_t)forbidden_by_capture(); }

cudaError_t cudaDriverGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) { return cudaDriverGetVersion(version); }

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
    *properties = (struct cudaDeviceProp){
        .totalGlobalMem = virtual_gpu.total_bytes,
        .major = virtual_gpu.capability_major,
        .minor = virtual_gpu.capability_minor,
        .multiProcessorCount = virtual_gpu.multiprocessors,
        .maxThreadsPerMultiProcessor = virtual_gpu.threads_per_multiprocessor,
        .maxBlocksPerMultiProcessor = virtual_gpu.blocks_per_multiprocessor,
        .sharedMemPerBlockOptin = virtual_gpu.shared_bytes_per_block,
        .sharedMemPerMultiprocessor = virtual_gpu.shared_bytes_per_block + virtual_gpu.reserved_shared_bytes_per_block,
        .reservedSharedMemPerBlock = virtual_gpu.reserved_shared_bytes_per_block,
        .l2CacheSize = virtual_gpu.l2_cache_bytes,
        .clusterLaunch = virtual_gpu.capability_major >= 9,
        /* The same on every GPU that this PyTorch supports. */
        .sharedMemPerBlock = 49152,
        .regsPerBlock = 65536,
        .regsPerMultiprocessor = 65536,
        .warpSize = 32,
        .maxThreadsPerBlock = 1024,
        .maxThreadsDim = {1024, 1024, 64},
        .maxGridSize = {2147483647, 65535, 65535},
        .totalConstMem = 65536,
        .memPitch = 2147483647,
        .textureAlignment = 512,
        .texturePitchAlignment = 32,
        .asyncEngineCount = 3,
        .concurrentKernels = 1,
        .unifiedAddressing = 1,
        .canMapHostMemory = 1,
        .managedMemory = 1,
        .concurrentManagedAccess = 1,
        .computePreemptionSupported = 1,
        .cooperativeLaunch = 1,
        .streamPrioritiesSupported = 1,
        .globalL1CacheSupported = 1,
        .localL1CacheSupported = 1,
        .hostRegisterSupported = 1,
        .memoryPoolsSupported = 1,
        .pciBusID = 1,
    };
    snprintf(properties->name, sizeof properties->name, "%s", virtual_gpu.name);
    memset(&properties->uuid, 0x5a, sizeof properties->uuid);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    struct cudaDeviceProp properties;
    cudaGetDeviceProperties(&properties, device);
    switch (attribute) {
        case cudaDevAttrComputeCapabilityMajor: *value = properties.major; break;
        case cudaDevAttrComputeCapabilityMinor: *value = properties.minor; break;
        case cudaDevAttrMultiProcessorCount: *value = properties.multiProcessorCount; break;
        case cudaDevAttrMaxThreadsPerMultiProcessor: *value = properties.maxThreadsPerMultiProcessor; break;
        case cudaDevAttrMaxBlocksPerMultiprocessor: *value = properties.maxBlocksPerMultiProcessor; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)properties.sharedMemPerBlock; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)properties.sharedMemPerBlockOptin; break;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = (int)properties.sharedMemPerMultiprocessor; break;
        case cudaDevAttrReservedSharedMemoryPerBlock: *value = (int)properties.reservedSharedMemPerBlock; break;
        case cudaDevAttrL2CacheSize: *value = properties.l2CacheSize; break;
        case cudaDevAttrMaxRegistersPerBlock: *value = properties.regsPerBlock; break;
        case cudaDevAttrMaxRegistersPerMultiprocessor: *value = properties.regsPerMultiprocessor; break;
        case cudaDevAttrWarpSize: *value = properties.warpSize; break;
        case cudaDevAttrMaxThreadsPerBlock: *value = properties.maxThreadsPerBlock; break;
        case cudaDevAttrMaxBlockDimX: *value = properties.maxThreadsDim[0]; break;
        case cudaDevAttrMaxBlockDimY: *value = properties.maxThreadsDim[1]; break;
        case cudaDevAttrMaxBlockDimZ: *value = properties.maxThreadsDim[2]; break;
        case cudaDevAttrMaxGridDimX: *value = properties.maxGridSize[0]; break;
        case cudaDevAttrMaxGridDimY: *value = properties.maxGridSize[1]; break;
        case cudaDevAttrMaxGridDimZ: *value = properties.maxGridSize[2]; break;
        case cudaDevAttrUnifiedAddressing: *value = properties.unifiedAddressing; break;
        case cudaDevAttrCooperativeLaunch: *value = properties.cooperativeLaunch; break;
        case cudaDevAttrMemoryPoolsSupported: *value = properties.memoryPoolsSupported; break;
        default: *value = 0; /* a feature that the virtual GPU does not have */
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int bytes, int device) {
    snprintf(text, (size_t)bytes, "0000:01:00.0");
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *possible, int device, int peer) {
    *possible = 0;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

/* --- errors: every call reports its own; only the launch of a kernel leaves one behind ------------------------- */

static _Thread_local cudaError_t launch_error;

cudaError_t cudaPeekAtLastError(void) { return launch_error; }

cudaError_t cudaGetLastError(void) {
    cudaError_t error = launch_error;
    launch_error = cudaSuccess;
    return error;
}

/* Those that a caller may meet, as CUDA calls and describes them. */
static const struct {
    cudaError_t error;
    const char *name, *text;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorIllegalState, "cudaErrorIllegalState",
     "the operation cannot be performed in the present state"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureMerge, "cudaErrorStreamCaptureMerge",
     "operation would result in a merge of separate capture sequences"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched",
     "capture was not ended in the same stream as it began"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined", "capturing stream has unjoined work"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
     "dependency created on uncaptured work in another stream"},
    {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
     "operation not permitted on an event last recorded in a capturing stream"},
    {cudaErrorStreamCaptureWrongThread, "cudaErrorStreamCaptureWrongThread",
     "attempt to terminate a thread-local capture sequence from another thread"},
};

const char *cudaGetErrorString(cudaError_t error) {
    if (error == cudaErrorNotSupported) return refusal();
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].error == error) return errors[i].text;
    return "error of the virtual GPU";
}

const char *cudaGetErrorName(cudaError_t error) {
    if (error == cudaErrorNotSupported) return "cudaErrorNotSupported";
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].error == error) return errors[i].name;
    return "cudaErrorUnknown";
}

/* --- streams and events: whatever was asked is already done ---------------------------------------------------- */

cudaError_t cudaStreamCreate(cudaStream_t *stream) {
    *stream = new_handle();
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) { return cudaStreamCreate(stream); }

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
    return cudaStreamCreate(stream);
}

cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority) {
    *priority = 0;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return (cudaError_t)waits_for_capture(stream); }
cudaError_t cudaStreamQuery(cudaStream_t stream) { return (cudaError_t)waits_for_capture(stream); }

cudaError_t cudaEventCreate(cudaEvent_t *event) {
    *event = new_handle();
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) { return cudaEventCreate(event); }

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end) {
    notice("times");
    *milliseconds = 0;
    return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data) {
    int status;
    if (!is_captured(stream, (struct host_deed){.function = function, .data = data}, &status)) function(data);
    return (cudaError_t)status;
}

cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t callback, void *data, unsigned flags) {
    if (waits_for_capture(stream)) return cudaErrorStreamCaptureUnsupported; /* unlike functions, callbacks stay out */
    callback(stream, cudaSuccess, data);
    return cudaSuccess;
}

/* --- kernels ------------------------------------------------------------------------------------------------- */

/* Compiled code registers its kernels when a library is loaded, and announces every launch with the configuration
 * first and the call second. These functions belong to nvcc and have no header. */

void **__cudaRegisterFatBinary(void *binary) {
    static void *registered;
    return &registered;
}

void __cudaRegisterFatBinaryEnd(void **binary) {}
void __cudaUnregisterFatBinary(void **binary) {}
void __cudaRegisterFunction(void) {}
void __cudaRegisterVar(void) {}
char __cudaInitModule(void **binary) { return 1; }

static _Thread_local struct {
    dim3 grid, block;
    size_t shared_bytes;
    cudaStream_t stream;
} announced;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream) {
    announced.grid = grid;
    announced.block = block;
    announced.shared_bytes = shared_bytes;
    announced.stream = stream;
    return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared_bytes, void *stream) {
    *grid = announced.grid;
    *block = announced.block;
    *shared_bytes = announced.shared_bytes;
    *(cudaStream_t *)stream = announced.stream;
    return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t shared_bytes,
                               cudaStream_t stream) {
    return launch_error = (cudaError_t)capture_work(stream);
}

cudaError_t cudaLaunchKernel(const void *function, dim3 grid, dim3 block, void **arguments, size_t shared_bytes,
                             cudaStream_t stream) {
    return launch_error = (cudaError_t)capture_work(stream);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *configuration, const void *function, void **arguments) {
    return launch_error = (cudaError_t)capture_work(configuration->stream);
}

cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function) {
    *kernel = (cudaKernel_t)function;
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function) {
    *attributes = (struct cudaFuncAttributes){
        .maxThreadsPerBlock = 1024,
        .numRegs = 32,
        .ptxVersion = virtual_gpu.kernel_architecture,
        .binaryVersion = virtual_gpu.kernel_architecture,
        .maxDynamicSharedSizeBytes = 49152,
    };
    return cudaSuccess;
}

/* An estimate from threads alone: without the compiled kernel nobody knows its registers and shared memory. */
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function, int threads,
                                                          size_t shared_bytes) {
    *blocks = threads > 0 ? virtual_gpu.threads_per_multiprocessor / threads : 1;
    if (*blocks > virtual_gpu.blocks_per_multiprocessor) *blocks = virtual_gpu.blocks_per_multiprocessor;
    if (*blocks < 1) *blocks = 1;
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *function, int threads,
                                                                   size_t shared_bytes, unsigned flags) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, shared_bytes);
}

/* Constants of a kernel: nothing reads them, so all share one place. */
cudaError_t cudaGetSymbolAddress(void **pointer, const void *symbol) {
    static char constants[65536];
    *pointer = constants;
    return cudaSuccess;
}
