/* cuDNN's handles and older descriptors, but for those that recurrent layers read. What batch normalisation asks for
 * beside its tensors is taken as nothing. */
#include "virtual_gpu.h"

#include <cudnn.h>
#include <stdio.h>

size_t cudnnGetVersion(void) { return CUDNN_VERSION; }
size_t cudnnGetCudartVersion(void) { return CUDART_VERSION; }

cudnnStatus_t cudnnGetProperty(libraryPropertyType property, int *value) {
    *value = property == MAJOR_VERSION ? CUDNN_MAJOR : property == MINOR_VERSION ? CUDNN_MINOR : CUDNN_PATCHLEVEL;
    return CUDNN_STATUS_SUCCESS;
}

const char *cudnnGetErrorString(cudnnStatus_t status) {
    static _Thread_local char text[256];
    switch (status) {
        case CUDNN_STATUS_SUCCESS: return "CUDNN_STATUS_SUCCESS";
        case CUDNN_STATUS_NOT_SUPPORTED:
            snprintf(text, sizeof text, "%s: leave cuDNN out with torch.backends.cudnn.flags(enabled=False)", refusal());
            return text;
        default: return "cuDNN error on the virtual GPU";
    }
}

/* The stream that PyTorch last set, handed back when it asks. */
static _Thread_local cudaStream_t stream_in_use;

cudnnStatus_t cudnnCreate(cudnnHandle_t *handle) {
    *handle = new_handle();
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
    stream_in_use = stream;
    return capture_work(stream) ? CUDNN_STATUS_EXECUTION_FAILED : CUDNN_STATUS_SUCCESS; /* as for cuBLAS */
}

cudnnStatus_t cudnnGetStream(cudnnHandle_t handle, cudaStream_t *stream) {
    *stream = stream_in_use;
    return CUDNN_STATUS_SUCCESS;
}

/* PyTorch sets descriptors and passes them on, but reads none of these back. */
#define CREATES(function, type)              \
    cudnnStatus_t function(type *descriptor) { \
        *descriptor = new_handle();          \
        return CUDNN_STATUS_SUCCESS;         \
    }

CREATES(cudnnCreateFilterDescriptor, cudnnFilterDescriptor_t)
CREATES(cudnnCreateConvolutionDescriptor, cudnnConvolutionDescriptor_t)
CREATES(cudnnCreateActivationDescriptor, cudnnActivationDescriptor_t)
CREATES(cudnnCreatePoolingDescriptor, cudnnPoolingDescriptor_t)

cudnnStatus_t cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(
    cudnnHandle_t handle, cudnnBatchNormMode_t mode, cudnnBatchNormOps_t operations, const cudnnTensorDescriptor_t x,
    const cudnnTensorDescriptor_t z, const cudnnTensorDescriptor_t y, const cudnnTensorDescriptor_t statistics,
    const cudnnActivationDescriptor_t activation, size_t *bytes) {
    *bytes = 0;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetBatchNormalizationTrainingExReserveSpaceSize(cudnnHandle_t handle, cudnnBatchNormMode_t mode,
                                                                   cudnnBatchNormOps_t operations,
                                                                   const cudnnActivationDescriptor_t activation,
                                                                   const cudnnTensorDescriptor_t x, size_t *bytes) {
    *bytes = 0;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetBatchNormalizationBackwardExWorkspaceSize(
    cudnnHandle_t handle, cudnnBatchNormMode_t mode, cudnnBatchNormOps_t operations, const cudnnTensorDescriptor_t x,
    const cudnnTensorDescriptor_t y, const cudnnTensorDescriptor_t dy, const cudnnTensorDescriptor_t dz,
    const cudnnTensorDescriptor_t dx, const cudnnTensorDescriptor_t statistics,
    const cudnnActivationDescriptor_t activation, size_t *bytes) {
    *bytes = 0;
    return CUDNN_STATUS_SUCCESS;
}
