/* Kernels that are compiled while the program runs: by PyTorch with NVRTC, by Triton, by cuDNN. Like all kernels they
 * do nothing, but whoever loads them asks more about them. */
#include "virtual_gpu.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

CUresult cuModuleLoad(CUmodule *module, const char *file) {
    *module = new_handle();
    return CUDA_SUCCESS;
}

CUresult cuModuleLoadData(CUmodule *module, const void *image) { return cuModuleLoad(module, NULL); }

CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned count, CUjit_option *options,
                            void **values) {
    return cuModuleLoad(module, NULL);
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    *function = new_handle();
    return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction function) {
    struct cudaFuncAttributes attributes;
    cudaFuncGetAttributes(&attributes, function);
    switch (attribute) {
        case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = attributes.maxThreadsPerBlock; break;
        case CU_FUNC_ATTRIBUTE_NUM_REGS: *value = attributes.numRegs; break;
        case CU_FUNC_ATTRIBUTE_PTX_VERSION: *value = attributes.ptxVersion; break;
        case CU_FUNC_ATTRIBUTE_BINARY_VERSION: *value = attributes.binaryVersion; break;
        case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = attributes.maxDynamicSharedSizeBytes; break;
        default: *value = 0; /* no shared, constant or local memory, and no clusters */
    }
    return CUDA_SUCCESS;
}

CUresult cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jit_options, void **jit_values,
                           unsigned jit_count, CUlibraryOption *options, void **values, unsigned count) {
    *library = new_handle();
    return CUDA_SUCCESS;
}

CUresult cuLibraryGetKernel(CUkernel *kernel, CUlibrary library, const char *name) {
    *kernel = new_handle();
    return CUDA_SUCCESS;
}

CUresult cuKernelGetAttribute(int *value, CUfunction_attribute attribute, CUkernel kernel, CUdevice device) {
    return cuFuncGetAttribute(value, attribute, (CUfunction)kernel);
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream, void **arguments,
                        void **extra) {
    return (CUresult)capture_work(stream);
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *configuration, CUfunction function, void **arguments, void **extra) {
    return (CUresult)capture_work(configuration->hStream);
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction function, int threads,
                                                     size_t shared_bytes) {
    return (CUresult)cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, shared_bytes);
}

CUresult cuPointerGetAttribute(void *value, CUpointer_attribute attribute, CUdeviceptr pointer) {
    if (attribute != CU_POINTER_ATTRIBUTE_DEVICE_POINTER)
        return (CUresult)refuse("cuPointerGetAttribute", CUDA_ERROR_NOT_SUPPORTED);
    struct cudaPointerAttributes attributes;
    cudaPointerGetAttributes(&attributes, (const void *)pointer);
    if (attributes.type != cudaMemoryTypeDevice) return CUDA_ERROR_INVALID_VALUE;
    *(CUdeviceptr *)value = pointer;
    return CUDA_SUCCESS;
}
