/* cuDNN's recurrent layers: PyTorch lays all weights out in one buffer, at the places it is told, and allocates a
 * reserve (what forward keeps for backward) and a workspace (scratch) of the sizes it is told.
 *
 * The real libcudnn tells no size without a device, so these are stated here. The weights and the states of dropout
 * are exact. The reserve is that of libcudnn 9.24 but for its rounding of tiny parts; the workspace is an
 * approximation of it. Whoever runs such a layer is told so. */
#include "virtual_gpu.h"

#include <cudnn.h>
#include <stdlib.h>

/* The descriptors, opaque to PyTorch, with the part that is read again. */
struct cudnnTensorStruct {
    cudnnDataType_t type;
    int rows, columns; /* of a matrix or bias among the weights */
};

struct cudnnDropoutStruct {
    float probability;
};

struct cudnnRNNStruct {
    cudnnRNNAlgo_t algorithm;
    cudnnRNNMode_t cell;
    cudnnDataType_t type;
    size_t directions, inputs, hidden, outputs, layers; /* outputs: fewer than hidden with a projection */
    int drops;
};

struct cudnnRNNDataStruct {
    size_t batch, longest, steps; /* steps: of all sequences together */
    int padded;
};

#define DESCRIBES(name, type)                                                                           \
    cudnnStatus_t cudnnCreate##name##Descriptor(type *descriptor) {                                     \
        *descriptor = calloc(1, sizeof **descriptor);                                                   \
        return *descriptor ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED; \
    }                                                                                                   \
    cudnnStatus_t cudnnDestroy##name##Descriptor(type descriptor) {                                     \
        free(descriptor);                                                                               \
        return CUDNN_STATUS_SUCCESS;                                                                    \
    }

DESCRIBES(Tensor, cudnnTensorDescriptor_t)
DESCRIBES(Dropout, cudnnDropoutDescriptor_t)
DESCRIBES(RNN, cudnnRNNDescriptor_t)
DESCRIBES(RNNData, cudnnRNNDataDescriptor_t)

static size_t element_bytes(cudnnDataType_t type) {
    switch (type) {
        case CUDNN_DATA_DOUBLE: return 8;
        case CUDNN_DATA_FLOAT: return 4;
        default: return 2;
    }
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }
static size_t rounded_up(size_t count, size_t unit) { return (count + unit - 1) / unit * unit; }

/* --- dropout between the layers ------------------------------------------------------------------------------ */

/* A random generator of 24 bytes for every thread that the device can run at once. */
cudnnStatus_t cudnnDropoutGetStatesSize(cudnnHandle_t handle, size_t *bytes) {
    size_t threads = (size_t)virtual_gpu.multiprocessors * (size_t)virtual_gpu.threads_per_multiprocessor;
    *bytes = 24 * rounded_up(threads, 512);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetDropoutDescriptor(cudnnDropoutDescriptor_t descriptor, cudnnHandle_t handle, float probability,
                                        void *states, size_t bytes, unsigned long long seed) {
    descriptor->probability = probability;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnRestoreDropoutDescriptor(cudnnDropoutDescriptor_t descriptor, cudnnHandle_t handle,
                                            float probability, void *states, size_t bytes, unsigned long long seed) {
    return cudnnSetDropoutDescriptor(descriptor, handle, probability, states, bytes, seed);
}

/* --- the layers ---------------------------------------------------------------------------------------------- */

cudnnStatus_t cudnnSetRNNDescriptor_v8(cudnnRNNDescriptor_t descriptor, cudnnRNNAlgo_t algorithm, cudnnRNNMode_t cell,
                                       cudnnRNNBiasMode_t bias, cudnnDirectionMode_t directions,
                                       cudnnRNNInputMode_t input, cudnnDataType_t type, cudnnDataType_t precision,
                                       cudnnMathType_t math, int32_t inputs, int32_t hidden, int32_t outputs,
                                       int32_t layers, cudnnDropoutDescriptor_t dropout, uint32_t flags) {
    /* PyTorch gives every layer two biases, also where its module has none. */
    if (bias != CUDNN_RNN_DOUBLE_BIAS || input != CUDNN_LINEAR_INPUT || algorithm == CUDNN_RNN_ALGO_PERSIST_DYNAMIC)
        return (cudnnStatus_t)refuse("cudnnSetRNNDescriptor_v8", CUDNN_STATUS_NOT_SUPPORTED);
    *descriptor = (struct cudnnRNNStruct){
        .algorithm = algorithm,
        .cell = cell,
        .type = type,
        .directions = directions == CUDNN_BIDIRECTIONAL ? 2 : 1,
        .inputs = (size_t)inputs,
        .hidden = (size_t)hidden,
        .outputs = (size_t)outputs,
        .layers = (size_t)layers,
        .drops = dropout && dropout->probability > 0 && layers > 1,
    };
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetRNNDataDescriptor(cudnnRNNDataDescriptor_t descriptor, cudnnDataType_t type,
                                        cudnnRNNDataLayout_t layout, int longest, int batch, int width,
                                        const int lengths[], void *filler) {
    *descriptor = (struct cudnnRNNDataStruct){
        .batch = (size_t)batch,
        .longest = (size_t)longest,
        .padded = layout != CUDNN_RNN_DATA_LAYOUT_SEQ_MAJOR_PACKED,
    };
    for (int i = 0; i < batch; i++) descriptor->steps += (size_t)lengths[i];
    return CUDNN_STATUS_SUCCESS;
}

static size_t gates(const struct cudnnRNNStruct *layers) {
    switch (layers->cell) {
        case CUDNN_LSTM: return 4;
        case CUDNN_GRU: return 3;
        default: return 1;
    }
}

static int projects(const struct cudnnRNNStruct *layers) { return layers->outputs != layers->hidden; }

/* --- the weights: all matrices, layer after layer and direction after direction, then all biases ---------------- */

static size_t inputs_of_layer(const struct cudnnRNNStruct *layers, size_t layer) {
    return layer ? layers->directions * layers->outputs : layers->inputs;
}

/* The elements in the matrices of one direction of a layer: on the input, on the state, and the projection. */
static size_t matrix_elements(const struct cudnnRNNStruct *layers, size_t layer) {
    size_t projection = projects(layers) ? layers->outputs * layers->hidden : 0;
    return gates(layers) * layers->hidden * (inputs_of_layer(layers, layer) + layers->outputs) + projection;
}

static size_t all_matrix_elements(const struct cudnnRNNStruct *layers) {
    size_t elements = 0;
    for (size_t layer = 0; layer < layers->layers; layer++)
        elements += layers->directions * matrix_elements(layers, layer);
    return elements;
}

cudnnStatus_t cudnnGetRNNWeightSpaceSize(cudnnHandle_t handle, cudnnRNNDescriptor_t layers, size_t *bytes) {
    size_t biases = layers->layers * layers->directions * 2 * gates(layers) * layers->hidden;
    *bytes = (all_matrix_elements(layers) + biases) * element_bytes(layers->type);
    return CUDNN_STATUS_SUCCESS;
}

/* Matrices and biases are numbered alike: those on the input by gate, those on the state by gate, the projection. */
cudnnStatus_t cudnnGetRNNWeightParams(cudnnHandle_t handle, cudnnRNNDescriptor_t layers, int32_t place, size_t bytes,
                                      const void *weights, int32_t number, cudnnTensorDescriptor_t matrix,
                                      void **matrix_address, cudnnTensorDescriptor_t bias, void **bias_address) {
    size_t layer = (size_t)place / layers->directions, direction = (size_t)place % layers->directions;
    size_t count = gates(layers), gate = (size_t)number, hidden = layers->hidden;
    size_t inputs = inputs_of_layer(layers, layer), outputs = layers->outputs;
    if (matrix_address) {
        size_t offset = direction * matrix_elements(layers, layer);
        for (size_t below = 0; below < layer; below++) offset += layers->directions * matrix_elements(layers, below);
        int rows = (int)hidden, columns = (int)outputs;
        if (gate < count) {
            offset += gate * hidden * inputs;
            columns = (int)inputs;
        } else {
            offset += count * hidden * inputs + (gate - count) * hidden * outputs;
            if (gate == 2 * count) rows = (int)outputs, columns = (int)hidden; /* the projection */
        }
        *matrix = (struct cudnnTensorStruct){layers->type, rows, columns};
        *matrix_address = (char *)weights + offset * element_bytes(layers->type);
    }
    if (bias_address) {
        size_t offset = all_matrix_elements(layers) + ((size_t)place * 2 * count + gate) * hidden;
        *bias = (struct cudnnTensorStruct){layers->type, (int)hidden, 1};
        *bias_address = (char *)weights + offset * element_bytes(layers->type);
    }
    return CUDNN_STATUS_SUCCESS;
}

/* PyTorch asks this of weights alone. */
cudnnStatus_t cudnnGetTensorNdDescriptor(const cudnnTensorDescriptor_t tensor, int room, cudnnDataType_t *type,
                                         int *dimensions, int sizes[], int strides[]) {
    *type = tensor->type;
    *dimensions = 3;
    sizes[0] = 1;
    sizes[1] = tensor->rows;
    sizes[2] = tensor->columns;
    strides[0] = tensor->rows * tensor->columns;
    strides[1] = tensor->columns;
    strides[2] = 1;
    return CUDNN_STATUS_SUCCESS;
}

/* --- reserve and workspace ------------------------------------------------------------------------------------- */

/* What a cell keeps of each step, in multiples of its hidden size: its gates, and the cell's state or what the new
 * gate of a GRU saw of the old state. */
static size_t kept_by_cell(const struct cudnnRNNStruct *layers) {
    switch (layers->cell) {
        case CUDNN_LSTM: return 5;
        case CUDNN_GRU: return 6;
        default: return 1;
    }
}

static size_t reserve_bytes(const struct cudnnRNNStruct *layers, const struct cudnnRNNDataStruct *data) {
    size_t each = layers->directions * data->steps, between = layers->layers - 1;
    size_t kept = kept_by_cell(layers) * layers->hidden + (projects(layers) ? layers->hidden + layers->outputs : 0);
    size_t elements = each * (layers->layers * kept + between * layers->hidden);
    size_t bytes = 256 + rounded_up(elements * element_bytes(layers->type), 32);
    if (layers->drops) { /* bits of what is dropped, padding and all, of either direction for either direction */
        size_t bits = layers->directions * data->longest * data->batch * layers->outputs;
        bytes += between * layers->directions * rounded_up((bits + 7) / 8, 32);
    }
    return bytes;
}

/* A buffer of cuBLAS for each layer and direction, which run beside each other; a copy of the matrices; the gates or,
 * backward, the operands of the weights' gradients; input and output without their padding; what dropout leaves. The
 * persistent kernels for small hidden sizes need more. On devices of capability 8 layers of one direction need no
 * buffers. */
static size_t workspace_bytes(const struct cudnnRNNStruct *layers, const struct cudnnRNNDataStruct *data,
                              cudnnForwardMode_t mode) {
    size_t hidden = layers->hidden, inputs = layers->inputs, directions = layers->directions;
    size_t outputs = data->steps * hidden * directions;
    size_t unpadded = data->padded ? data->steps * inputs + outputs : 0;
    size_t operand = inputs;
    if (directions == 2)
        operand = 2 * larger(inputs, 2 * hidden);
    else if (layers->layers == 1)
        operand = larger(inputs, hidden);
    size_t forward = gates(layers) * outputs + unpadded;
    size_t backward = outputs + data->steps * operand + 2 * unpadded;
    if (layers->algorithm == CUDNN_RNN_ALGO_PERSIST_STATIC_SMALL_H && layers->type != CUDNN_DATA_BFLOAT16) {
        forward += 4 * gates(layers) * data->steps * hidden;
        backward += (8 + kept_by_cell(layers)) * data->steps * hidden;
    }
    size_t steps = mode == CUDNN_FWD_MODE_TRAINING ? larger(forward, backward) : forward;
    size_t between = directions == 2 ? 2 * outputs : layers->drops ? outputs : 0;
    size_t states = (layers->cell == CUDNN_LSTM ? 6 : gates(layers)) * data->batch * hidden;
    size_t elements = all_matrix_elements(layers) + steps + between + states * layers->layers * directions;
    int in_turn = virtual_gpu.capability_major == 8 && directions == 1 && layers->layers > 1;
    size_t buffers = in_turn ? 0 : layers->layers * directions;
    return buffers * 8 * MEBIBYTE + elements * element_bytes(layers->type);
}

cudnnStatus_t cudnnGetRNNTempSpaceSizes(cudnnHandle_t handle, cudnnRNNDescriptor_t layers, cudnnForwardMode_t mode,
                                        cudnnRNNDataDescriptor_t data, size_t *workspace, size_t *reserve) {
    notice("recurrent");
    if (workspace) *workspace = virtual_gpu.cudnn_workspaces ? workspace_bytes(layers, data, mode) : 0;
    if (reserve) *reserve = mode == CUDNN_FWD_MODE_TRAINING ? reserve_bytes(layers, data) : 0;
    return CUDNN_STATUS_SUCCESS;
}
