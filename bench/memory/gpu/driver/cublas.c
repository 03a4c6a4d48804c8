/* cuBLAS: handles, and descriptors that nobody looks into. The computations themselves are generated and do nothing.
 * The workspaces that PyTorch gives to cuBLAS are PyTorch's own allocations and are counted like any other. */
#include "virtual_gpu.h"

#include <cublasLt.h>
#include <cublas_v2.h>
#include <stdlib.h>
#include <string.h>

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle) {
    *handle = new_handle();
    return CUBLAS_STATUS_SUCCESS;
}

/* PyTorch says on which stream a handle works each time before it does: what a capture takes of that work. */
cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
    return capture_work(stream) ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t *mode) {
    *mode = CUBLAS_DEFAULT_MATH;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t *mode) {
    *mode = CUBLAS_POINTER_MODE_HOST;
    return CUBLAS_STATUS_SUCCESS;
}

size_t cublasLtGetVersion(void) { return CUBLAS_VERSION; }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *descriptor, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
    *descriptor = new_handle();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t leading_dimension) {
    *layout = new_handle();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
    *preference = new_handle();
    return CUBLAS_STATUS_SUCCESS;
}

/* One algorithm, always possible. PyTorch allocates the workspace before it asks, so the answer does not change it. */
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[], int *found) {
    memset(&results[0], 0, sizeof results[0]);
    results[0].state = CUBLAS_STATUS_SUCCESS;
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

/* Solvers report to the host which of their arguments was wrong: none. */
#define SOLVES_WITHOUT_COMPLAINT(letter, number)                                                                     \
    cublasStatus_t cublas##letter##gelsBatched(cublasHandle_t handle, cublasOperation_t operation, int m, int n,     \
                                               int right_sides, number *const a[], int lda, number *const c[],       \
                                               int ldc, int *wrong, int *device_info, int batch) {                   \
        *wrong = 0;                                                                                                  \
        return CUBLAS_STATUS_SUCCESS;                                                                                \
    }                                                                                                                \
    cublasStatus_t cublas##letter##geqrfBatched(cublasHandle_t handle, int m, int n, number *const a[], int lda,     \
                                                number *const tau[], int *wrong, int batch) {                        \
        *wrong = 0;                                                                                                  \
        return CUBLAS_STATUS_SUCCESS;                                                                                \
    }                                                                                                                \
    cublasStatus_t cublas##letter##getrsBatched(cublasHandle_t handle, cublasOperation_t operation, int n,           \
                                                int right_sides, const number *const a[], int lda,                   \
                                                const int *pivots, number *const b[], int ldb, int *wrong,           \
                                                int batch) {                                                         \
        *wrong = 0;                                                                                                  \
        return CUBLAS_STATUS_SUCCESS;                                                                                \
    }

SOLVES_WITHOUT_COMPLAINT(S, float)
SOLVES_WITHOUT_COMPLAINT(D, double)
SOLVES_WITHOUT_COMPLAINT(C, cuComplex)
SOLVES_WITHOUT_COMPLAINT(Z, cuDoubleComplex)
