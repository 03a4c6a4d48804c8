/* cuDNN's graph API, through which PyTorch runs convolutions: it describes an operation, asks the heuristics for
 * execution plans, takes the first that can be built and allocates the workspace that the plan names.
 *
 * All of that is answered by the real libcudnn. Since version 9.8 it can plan for a device that is not there, when
 * every descriptor that depends on the device is given a description of it. Only executing a plan does nothing. */
#define _GNU_SOURCE
#include "known_plans.h"
#include "virtual_gpu.h"

#include <cudnn.h>
#include <dirent.h>
#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

static struct {
    cudnnStatus_t (*create)(cudnnBackendDescriptorType_t, cudnnBackendDescriptor_t *);
    cudnnStatus_t (*destroy)(cudnnBackendDescriptor_t);
    cudnnStatus_t (*set)(cudnnBackendDescriptor_t, cudnnBackendAttributeName_t, cudnnBackendAttributeType_t, int64_t,
                         const void *);
    cudnnStatus_t (*get)(cudnnBackendDescriptor_t, cudnnBackendAttributeName_t, cudnnBackendAttributeType_t, int64_t,
                         int64_t *, void *);
    cudnnStatus_t (*finalize)(cudnnBackendDescriptor_t);
    void (*last_error)(char *, size_t);
    cudnnBackendDescriptor_t device;
    int ready;
} real;

static char open_error[256];

static void open_real_cudnn(void) {
    /* cuDNN's parts call each other by the names that this file answers. Bound deeply they find each other first;
     * loaded beforehand, they are there when cuDNN looks for them. (A namespace of its own, by dlmopen, would bring a
     * second libc, whose thread-specific data overwrites that of the first: Python's state, for one.) */
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s", virtual_gpu.cudnn_library);
    DIR *parts = opendir(dirname(folder));
    for (struct dirent *part; parts && (part = readdir(parts));) {
        char path[PATH_MAX + sizeof part->d_name];
        snprintf(path, sizeof path, "%s/%s", folder, part->d_name);
        if (!strncmp(part->d_name, "libcudnn_", 9)) dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    }
    if (parts) closedir(parts);
    void *library = dlopen(virtual_gpu.cudnn_library, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    if (!library) {
        snprintf(open_error, sizeof open_error, "%s", dlerror());
        return;
    }
    real.create = dlsym(library, "cudnnBackendCreateDescriptor");
    real.destroy = dlsym(library, "cudnnBackendDestroyDescriptor");
    real.set = dlsym(library, "cudnnBackendSetAttribute");
    real.get = dlsym(library, "cudnnBackendGetAttribute");
    real.finalize = dlsym(library, "cudnnBackendFinalize");
    real.last_error = dlsym(library, "cudnnGetLastErrorString");
    if (!real.create || !real.destroy || !real.set || !real.get || !real.finalize || !real.last_error) {
        snprintf(open_error, sizeof open_error, "%s lacks the graph API", virtual_gpu.cudnn_library);
        return;
    }
    real.ready = !real.create(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &real.device) &&
                 !real.set(real.device, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                           (int64_t)strlen(virtual_gpu.cudnn_device), virtual_gpu.cudnn_device) &&
                 !real.finalize(real.device);
    if (!real.ready) real.last_error(open_error, sizeof open_error);
}

static int real_is_ready(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_real_cudnn);
    return real.ready;
}

void cudnnGetLastErrorString(char *message, size_t bytes) {
    if (real.ready)
        real.last_error(message, bytes);
    else
        snprintf(message, bytes, "%s", open_error);
}

/* The attribute through which a kind of descriptor learns its device, or -1. */
static int device_attribute(cudnnBackendDescriptorType_t type) {
    switch (type) {
        case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR: return CUDNN_ATTR_ENGINEHEUR_DEVICEPROP;
        case CUDNN_BACKEND_ENGINE_DESCRIPTOR: return CUDNN_ATTR_ENGINE_DEVICEPROP;
        case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR: return CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP;
        default: return -1;
    }
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *descriptor) {
    if (!real_is_ready()) return CUDNN_STATUS_NOT_INITIALIZED;
    cudnnStatus_t status = real.create(type, descriptor);
    if (status) return status;
    content_begins(*descriptor, type);
    int attribute = device_attribute(type);
    if (attribute < 0) return status;
    return real.set(*descriptor, (cudnnBackendAttributeName_t)attribute, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                    &real.device);
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
    content_ends(descriptor);
    return real.destroy(descriptor);
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count, const void *values) {
    /* The description of the device takes the place of the handle, which is not a real one. */
    if (type == CUDNN_TYPE_HANDLE) return CUDNN_STATUS_SUCCESS;
    content_grows(descriptor, name, type, count, values);
    return real.set(descriptor, name, type, count, values);
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
    struct plan *plan = plan_of(descriptor);
    if (!plan) return real.finalize(descriptor);
    if (!plan->built) {
        plan->status = real.finalize(descriptor);
        if (!plan->status)
            real.get(descriptor, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, NULL,
                     &plan->workspace_bytes);
        plan->built = 1;
    }
    return plan->status;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t room, int64_t *count, void *values) {
    if (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE) {
        struct plan *plan = plan_of(descriptor);
        if (plan) {
            if (count) *count = 1;
            *(int64_t *)values = virtual_gpu.cudnn_workspaces ? plan->workspace_bytes : 0;
            return CUDNN_STATUS_SUCCESS;
        }
    }
    cudnnStatus_t status = real.get(descriptor, name, type, room, count, values);
    if (!status && name == CUDNN_ATTR_ENGINEHEUR_RESULTS && values && count)
        for (int64_t rank = 0; rank < *count && rank < room; rank++)
            content_follows(((cudnnBackendDescriptor_t *)values)[rank], descriptor, rank);
    return status;
}
