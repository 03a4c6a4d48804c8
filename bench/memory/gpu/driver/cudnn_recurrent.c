/* cuDNN's recurrent layers: PyTorch lays all weights out in one buffer, at the places it is told, and allocates a
 * reserve (what forward keeps for backward) and a workspace (scratch) of the sizes it is told.
 *
 * The real libcudnn tells no size without a device, so these are stated here. All are what cuDNN 9.19 answered on an
 * H100, to the byte, for whatever PyTorch asks (tests/hardware/recurrent_h100.csv is a sample). What differs on GPUs of
 * other capability is that of libcudnn 9.24 when it was given such a capability, and seen on no card. Whoever runs such
 * a layer is told so. */
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
    int drops, padded;
};

struct cudnnRNNDataStruct {
    size_t batch, longest, steps; /* steps: of all sequences together */
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
static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
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
    if (bias != CUDNN_RNN_DOUBLE_BIAS || input != CUDNN_LINEAR_INPUT || algorithm == CUDNN_RNN_ALGO_PERSIST_DYNAMIC ||
        math == CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION)
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
        .drops = dropout && dropout->probability > 0,
        .padded = (flags & CUDNN_RNN_PADDED_IO_ENABLED) != 0,
    };
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetRNNDataDescriptor(cudnnRNNDataDescriptor_t descriptor, cudnnDataType_t type,
                                        cudnnRNNDataLayout_t layout, int longest, int batch, int width,
                                        const int lengths[], void *filler) {
    *descriptor = (struct cudnnRNNDataStruct){
        .batch = (size_t)batch,
        .longest = (size_t)longest,
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

/* Their parts follow each other, each from a multiple of 32 bytes. */
static size_t part(const struct cudnnRNNStruct *layers, size_t elements) {
    return rounded_up(elements * element_bytes(layers->type), 32);
}

static size_t hidden_elements(const struct cudnnRNNStruct *layers, size_t rows) {
    return rows * layers->directions * layers->hidden;
}

/* What backward needs of a cell's gates; a GRU's new gate saw the old state in three more. */
static size_t kept_gates(const struct cudnnRNNStruct *layers) {
    return layers->cell == CUDNN_GRU ? 6 : gates(layers);
}

static size_t reserve_bytes(const struct cudnnRNNStruct *layers, const struct cudnnRNNDataStruct *data) {
    size_t each = hidden_elements(layers, data->steps), all = layers->layers * each, between = layers->layers - 1;
    size_t bytes = 256 + part(layers, between * each) + part(layers, kept_gates(layers) * all);
    if (layers->cell == CUDNN_LSTM) bytes += part(layers, all);
    if (projects(layers))
        bytes += part(layers, all) +
                 part(layers, layers->layers * layers->directions * data->steps * layers->outputs);
    if (layers->drops) { /* bits of what is dropped, padding and all, of either direction for either direction */
        size_t bits = layers->directions * data->longest * data->batch * layers->outputs;
        bytes += between * layers->directions * rounded_up((bits + 7) / 8, 32);
    }
    return bytes;
}

/* Persistent kernels, which keep the weights on chip; bfloat16 takes the standard ones whatever is asked. */
static int persists(const struct cudnnRNNStruct *layers) {
    return layers->algorithm != CUDNN_RNN_ALGO_STANDARD && layers->type != CUDNN_DATA_BFLOAT16;
}

/* Both ways: a buffer of cuBLAS for each layer and direction, which run beside each other (on devices of capability 8
 * layers of one direction do not); a copy of the matrices; the states of an LSTM's cells and of the other direction;
 * what is projected; a number for each padded sequence. */
static size_t common_bytes(const struct cudnnRNNStruct *layers, const struct cudnnRNNDataStruct *data) {
    int in_turn = virtual_gpu.capability_major == 8 && layers->directions == 1 && layers->layers > 1;
    size_t buffers = in_turn ? 0 : layers->layers * layers->directions;
    size_t states = hidden_elements(layers, layers->layers * data->batch);
    size_t bytes = 256 + buffers * 8 * MEBIBYTE + part(layers, all_matrix_elements(layers));
    if (layers->cell == CUDNN_LSTM) bytes += part(layers, 2 * states);
    if (layers->directions == 2) bytes += part(layers, 2 * states);
    if (projects(layers)) bytes += part(layers, hidden_elements(layers, data->steps));
    if (layers->padded) bytes += rounded_up(data->batch * 8, 32);
    return bytes;
}

/* Input, output and states before and after, without padding and by length; backward also their gradients. */
static size_t unpadded_bytes(const struct cudnnRNNStruct *layers, const struct cudnnRNNDataStruct *data) {
    if (!layers->padded) return 0;
    size_t rows = layers->layers * data->batch, outputs = layers->directions * layers->outputs;
    size_t bytes = part(layers, data->steps * layers->inputs) + part(layers, data->steps * outputs);
    bytes += 2 * part(layers, rows * outputs);
    if (layers->cell == CUDNN_LSTM) bytes += 2 * part(layers, hidden_elements(layers, rows));
    return bytes;
}

/* The gates, in one direction of 256 steps at most (persistent kernels take all, and four copies of one direction's);
 * states; the outputs of a layer and the next, or what dropout leaves. */
static size_t forward_bytes(const struct cudnnRNNStruct *layers, const struct cudnnRNNDataStruct *data) {
    size_t count = gates(layers), rows = layers->layers * data->batch, steps = data->steps;
    size_t bytes = common_bytes(layers, data) + unpadded_bytes(layers, data);
    if (persists(layers)) {
        bytes += part(layers, 4 * count * steps * layers->hidden) + part(layers, 2 * rows * layers->hidden);
    } else {
        if (layers->directions == 1) steps = smaller(steps, 256 * data->batch);
        bytes += part(layers, count * hidden_elements(layers, rows));
    }
    bytes += part(layers, count * hidden_elements(layers, steps));
    if (layers->directions == 2)
        bytes += part(layers, 2 * hidden_elements(layers, data->steps));
    else if (layers->drops)
        bytes += part(layers, hidden_elements(layers, data->steps));
    return bytes;
}

/* Layers of one direction go back as a wave, each some steps behind the one above: the rows that are under way. */
static size_t rows_in_wave(const struct cudnnRNNStruct *layers, const struct cudnnRNNDataStruct *data) {
    size_t batch = data->batch;
    size_t steps = batch <= 1 ? 32 : batch <= 8 ? 16 : batch <= 16 ? 8 : batch <= 96 ? 4 : 2;
    if (virtual_gpu.capability_major >= 8 && data->longest >= 128) steps = larger(steps, 8);
    return smaller(data->steps, batch * (layers->layers * steps + larger(steps, 8)));
}

/* The gradients of outputs, of two layers where there are several; the operands of the weights' gradients; states.
 * Persistent kernels take the gates and eight more of one direction; those for larger hidden sizes have a least, which
 * was seen on an H100 alone. */
static size_t backward_bytes(const struct cudnnRNNStruct *layers, const struct cudnnRNNDataStruct *data) {
    size_t hidden = layers->hidden, steps = data->steps, states = layers->layers * data->batch;
    size_t rows = layers->layers > 1 ? 2 * steps : steps;
    size_t bytes = common_bytes(layers, data) + 2 * unpadded_bytes(layers, data);
    if (persists(layers)) {
        size_t eight = part(layers, 8 * steps * hidden);
        if (layers->algorithm == CUDNN_RNN_ALGO_PERSIST_STATIC)
            eight = larger(eight, rounded_up((2432 + data->batch) * hidden * 2, 32));
        bytes += eight + part(layers, kept_gates(layers) * steps * hidden) + part(layers, 2 * states * hidden);
    } else {
        if (layers->directions == 1 && layers->layers > 1) rows = rows_in_wave(layers, data);
        bytes += part(layers, hidden_elements(layers, states));
    }
    bytes += part(layers, hidden_elements(layers, rows));
    size_t operands = layers->directions == 2 ? 4 : 1;
    return bytes + part(layers, operands * steps * larger(layers->inputs, hidden));
}

static size_t workspace_bytes(const struct cudnnRNNStruct *layers, const struct cudnnRNNDataStruct *data,
                              cudnnForwardMode_t mode) {
    size_t forward = forward_bytes(layers, data);
    return mode == CUDNN_FWD_MODE_TRAINING ? larger(forward, backward_bytes(layers, data)) : forward;
}

cudnnStatus_t cudnnGetRNNTempSpaceSizes(cudnnHandle_t handle, cudnnRNNDescriptor_t layers, cudnnForwardMode_t mode,
                                        cudnnRNNDataDescriptor_t data, size_t *workspace, size_t *reserve) {
    /* PyTorch pads nothing of its own: sequences in a padded layout are as long as each other. */
    if (layers->padded && data->steps != data->longest * data->batch)
        return (cudnnStatus_t)refuse("cudnnGetRNNTempSpaceSizes", CUDNN_STATUS_NOT_SUPPORTED);
    notice("recurrent");
    if (workspace) *workspace = virtual_gpu.cudnn_workspaces ? workspace_bytes(layers, data, mode) : 0;
    if (reserve) *reserve = mode == CUDNN_FWD_MODE_TRAINING ? reserve_bytes(layers, data) : 0;
    return CUDNN_STATUS_SUCCESS;
}
