/* The driver API. PyTorch links a few of its functions and fetches the others by name at run time. */
#include "virtual_gpu.h"

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <string.h>

/* The primary context exists and is current, like after the first CUDA call on a real device. */
static CUcontext the_context(void) { return (CUcontext)0x1000; }

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    *device = ordinal;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *count) { return (CUresult)cudaGetDeviceCount(count); }

CUresult cuDriverGetVersion(int *version) { return (CUresult)cudaDriverGetVersion(version); }

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
    if (attribute == CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED) {
        *value = 1;
        return CUDA_SUCCESS;
    }
    /* Both APIs number their attributes alike. */
    return (CUresult)cudaDeviceGetAttribute(value, (enum cudaDeviceAttr)attribute, device);
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
    *flags = 0;
    *active = 1;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    *context = the_context();
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext *context) {
    *context = the_context();
    return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice *device) { return cuDeviceGet(device, THE_DEVICE); }

CUresult cuCtxSetCurrent(CUcontext context) { return CUDA_SUCCESS; }

CUresult cuGetErrorString(CUresult error, const char **text) {
    *text = cudaGetErrorString((cudaError_t)error);
    return CUDA_SUCCESS;
}

/* Nothing is ever logged here. */
static CUresult register_log(void) { return CUDA_SUCCESS; }

static CUresult not_supported(void) { return (CUresult)refuse("a function of the driver", CUDA_ERROR_NOT_SUPPORTED); }

cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version,
                                             unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *result) {
    static const struct {
        const char *name;
        void *function;
    } known[] = {
        {"cuDeviceGet", cuDeviceGet},
        {"cuDeviceGetAttribute", cuDeviceGetAttribute},
        {"cuCtxGetCurrent", cuCtxGetCurrent},
        {"cuCtxSetCurrent", cuCtxSetCurrent},
        {"cuGetErrorString", cuGetErrorString},
        {"cuLogsRegisterCallback", register_log},
        {"cuLogsUnregisterCallback", register_log},
    };
    *function = find_memory_function(name);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, name)) *function = known[i].function;
    if (!*function) *function = not_supported;
    if (result) *result = cudaDriverEntryPointSuccess;
    return cudaSuccess;
}
