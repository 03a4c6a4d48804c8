/* cuDNN's graph API, through which PyTorch runs convolutions: it describes an operation, asks the heuristics for
 * execution plans, takes the first that can be built and allocates the workspace that the plan names.
 *
 * All of that is answered by the real libcudnn. Since version 9.8 it can plan for a device that is not there, when
 * every descriptor that depends on the device is given a description of it. Only executing a plan does nothing.
 *
 * PyTorch here keeps no plan and asks the same with every convolution. So descriptors are only noted, and cuDNN is given
 * them when something is asked that it has not answered before. What it refuses in a descriptor is therefore told when
 * that is finalized. */
#define _GNU_SOURCE
#include "known_answers.h"
#include "virtual_gpu.h"

#include <cudnn.h>
#include <dirent.h>
#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
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

/* What cuDNN said of the failure that this thread's last call was answered with, where that was kept; else empty. */
static _Thread_local char kept_error[256];

void cudnnGetLastErrorString(char *message, size_t bytes) {
    if (*kept_error)
        snprintf(message, bytes, "%s", kept_error), *kept_error = 0;
    else if (real.ready)
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

/* --- descriptors, as PyTorch holds them ----------------------------------------------------------------------- */

/* An attribute that was set. Of descriptors, `values` holds the noted ones. */
struct said {
    cudnnBackendAttributeName_t name;
    cudnnBackendAttributeType_t type;
    int64_t count;
    void *values;
};

struct description {
    cudnnBackendDescriptorType_t type;
    int references; /* PyTorch's, and one for every description that names it */
    int finalized;
    uint64_t content; /* equal for equal descriptors, and those that these name */
    struct said *said;
    size_t said_count;
    struct { /* the question that it is an answer to, where `of` is not NULL */
        struct description *of;
        cudnnBackendAttributeName_t name;
        int64_t room, rank;
    } question;
    cudnnBackendDescriptor_t real; /* NULL while nobody needs it */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* backward runs in a thread of its own */

static cudnnStatus_t create_real(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *descriptor) {
    cudnnStatus_t status = real.create(type, descriptor);
    int attribute = device_attribute(type);
    if (status || attribute < 0) return status;
    return real.set(*descriptor, (cudnnBackendAttributeName_t)attribute, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                    &real.device);
}

static void destroy_real(cudnnBackendDescriptor_t *descriptor) {
    if (*descriptor) real.destroy(*descriptor);
    *descriptor = NULL;
}

static void release(struct description *one);

/* As it was when it was created. */
static void forget(struct description *one) {
    for (size_t i = 0; i < one->said_count; i++) {
        struct said *said = &one->said[i];
        if (said->type == CUDNN_TYPE_BACKEND_DESCRIPTOR)
            for (int64_t j = 0; j < said->count; j++) release(((struct description **)said->values)[j]);
        free(said->values);
    }
    free(one->said);
    if (one->question.of) release(one->question.of);
    destroy_real(&one->real);
    *one = (struct description){
        .type = one->type, .references = one->references, .content = mixed(EMPTY, &one->type, sizeof one->type)};
}

static void release(struct description *one) {
    if (--one->references) return;
    forget(one);
    free(one);
}

static cudnnStatus_t make_real(struct description *one);

static cudnnStatus_t set_real(struct description *one, const struct said *said) {
    if (said->type != CUDNN_TYPE_BACKEND_DESCRIPTOR)
        return real.set(one->real, said->name, said->type, said->count, said->values);
    cudnnBackendDescriptor_t *named = calloc((size_t)said->count + 1, sizeof *named);
    cudnnStatus_t status = named ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
    for (int64_t i = 0; !status && i < said->count; i++) {
        struct description *other = ((struct description **)said->values)[i];
        status = make_real(other);
        named[i] = other->real;
    }
    if (!status) status = real.set(one->real, said->name, said->type, said->count, named);
    free(named);
    return status;
}

/* Asks cuDNN for descriptors, and hands over that of the one that is in want of it. */
static cudnnStatus_t ask_again(struct description *one) {
    int64_t room = one->question.room, count = 0;
    cudnnBackendDescriptor_t *answers = calloc((size_t)room, sizeof *answers);
    cudnnStatus_t status = answers ? make_real(one->question.of) : CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
    for (int64_t rank = 0; !status && rank < room; rank++) status = create_real(one->type, &answers[rank]);
    if (!status)
        status = real.get(one->question.of->real, one->question.name, CUDNN_TYPE_BACKEND_DESCRIPTOR, room, &count,
                          answers);
    for (int64_t rank = 0; answers && rank < room; rank++)
        if (!status && rank == one->question.rank)
            one->real = answers[rank];
        else
            destroy_real(&answers[rank]);
    free(answers);
    return status;
}

/* Gives cuDNN all that was noted, if it does not know yet. */
static cudnnStatus_t make_real(struct description *one) {
    if (one->real) return CUDNN_STATUS_SUCCESS;
    cudnnStatus_t status = one->question.of ? ask_again(one) : create_real(one->type, &one->real);
    for (size_t i = 0; !status && i < one->said_count; i++) status = set_real(one, &one->said[i]);
    if (!status && one->finalized) status = real.finalize(one->real);
    if (status) destroy_real(&one->real);
    return status;
}

/* Notes that a descriptor is the answer number `rank` to what was asked of another. */
static void follow(struct description *one, struct description *of, cudnnBackendAttributeName_t name, int64_t room,
                   int64_t rank, cudnnBackendDescriptor_t answer) {
    of->references++; /* before what it knew is forgotten, which may be the last to name the other */
    forget(one);
    one->question.of = of, one->question.name = name, one->question.room = room, one->question.rank = rank;
    one->real = answer;
    one->content = mixed(mixed(mixed(of->content, &name, sizeof name), &room, sizeof room), &rank, sizeof rank);
}

static size_t element_bytes(cudnnBackendAttributeType_t type) {
    switch (type) {
        case CUDNN_TYPE_BOOLEAN:
        case CUDNN_TYPE_CHAR: return 1;
        case CUDNN_TYPE_INT64:
        case CUDNN_TYPE_DOUBLE:
        case CUDNN_TYPE_VOID_PTR:
        case CUDNN_TYPE_BACKEND_DESCRIPTOR: return 8;
        case CUDNN_TYPE_FRACTION: return 16;
        default: return 4;
    }
}

static cudnnStatus_t note(struct description *one, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                          int64_t count, const void *values) {
    size_t bytes = (size_t)count * element_bytes(type);
    for (int64_t i = 0; type == CUDNN_TYPE_BACKEND_DESCRIPTOR && i < count; i++)
        if (!((struct description *const *)values)[i]) return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
    struct said *said = realloc(one->said, (one->said_count + 1) * sizeof *said);
    if (said) one->said = said;
    void *copy = malloc(bytes + 1);
    if (!said || !copy) {
        free(copy);
        return CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
    }
    memcpy(copy, values, bytes);
    said += one->said_count++;
    *said = (struct said){name, type, count, copy};
    const int64_t said_of[] = {name, type, count};
    one->content = mixed(one->content, said_of, sizeof said_of);
    if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR) {
        for (int64_t i = 0; i < count; i++) {
            struct description *named = ((struct description **)copy)[i];
            named->references++;
            one->content = mixed(one->content, &named->content, sizeof named->content);
            one->content = mixed(one->content, &named->finalized, sizeof named->finalized);
        }
    } else {
        one->content = mixed(one->content, copy, bytes);
    }
    return one->real ? set_real(one, said) : CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t ask_real(struct description *one, cudnnBackendAttributeName_t name,
                              cudnnBackendAttributeType_t type, int64_t room, int64_t *count, void *values) {
    cudnnStatus_t status = make_real(one);
    if (status) return status;
    if (type != CUDNN_TYPE_BACKEND_DESCRIPTOR || !values)
        return real.get(one->real, name, type, room, count, values);
    struct description **held = values;
    cudnnBackendDescriptor_t *answers = calloc((size_t)room + 1, sizeof *answers);
    if (!answers) return CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
    for (int64_t rank = 0; !status && rank < room; rank++) status = create_real(held[rank]->type, &answers[rank]);
    if (!status) status = real.get(one->real, name, type, room, count, answers);
    for (int64_t rank = 0; rank < room; rank++)
        if (!status && rank < *count)
            follow(held[rank], one, name, room, rank, answers[rank]);
        else
            destroy_real(&answers[rank]);
    free(answers);
    return status;
}

/* Whether the same would be answered at any time: not where memory was out, say. */
static int is_for_good(cudnnStatus_t status) {
    int kind = CUDNN_STATUS_CATEGORY(status);
    return kind == CUDNN_STATUS_SUCCESS || kind == CUDNN_STATUS_CATEGORY(CUDNN_STATUS_BAD_PARAM) ||
           kind == CUDNN_STATUS_CATEGORY(CUDNN_STATUS_NOT_SUPPORTED);
}

static void keep_error(struct answer *answer) {
    char message[sizeof kept_error] = "";
    real.last_error(message, sizeof message);
    keep_values(answer, message, strlen(message) + 1);
}

static cudnnStatus_t told(const struct answer *answer) {
    if (answer->known && answer->status) snprintf(kept_error, sizeof kept_error, "%s", (char *)answer->values);
    return answer->status;
}

static cudnnStatus_t ask(struct description *one, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                         int64_t room, int64_t *count, void *values) {
    const int64_t question[] = {GET, one->finalized, name, type, room, values != NULL};
    struct answer *answer = answer_to(mixed(one->content, question, sizeof question));
    if (!answer) return CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
    int are_descriptors = type == CUDNN_TYPE_BACKEND_DESCRIPTOR;
    if (!answer->known) {
        answer->count = -1;
        answer->status = ask_real(one, name, type, room, &answer->count, values);
        if (!is_for_good(answer->status)) return answer->status; /* and is asked again */
        if (answer->status) {
            keep_error(answer);
        } else if (answer->count >= 0) { /* else it is not known how much of `values` was written */
            int64_t written = values ? answer->count < room ? answer->count : room : 0;
            keep_values(answer, values, are_descriptors ? 0 : (size_t)written * element_bytes(type));
        }
    } else if (!answer->status && values) {
        memcpy(values, answer->values, answer->bytes);
        for (int64_t rank = 0; are_descriptors && rank < answer->count && rank < room; rank++)
            follow(((struct description **)values)[rank], one, name, room, rank, NULL);
    }
    if (count && !answer->status && answer->count >= 0) *count = answer->count;
    return told(answer);
}

static cudnnStatus_t finalize(struct description *one) {
    const int64_t question[] = {FINALIZE, one->finalized};
    struct answer *answer = answer_to(mixed(one->content, question, sizeof question));
    if (!answer) return CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
    if (!answer->known || one->real) {
        cudnnStatus_t status = make_real(one);
        if (!status) status = real.finalize(one->real);
        if (!is_for_good(status)) return status; /* and what is known stays */
        answer->status = status;
        if (status)
            keep_error(answer);
        else
            answer->known = 1;
    }
    if (!answer->status) one->finalized = 1;
    return told(answer);
}

/* --- what PyTorch calls --------------------------------------------------------------------------------------- */

/* What is executed has the addresses of tensors, every time others, and nobody asks about it. */
static int is_executed(const struct description *one) { return one->type == CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR; }

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *descriptor) {
    *kept_error = 0;
    if (!real_is_ready()) return CUDNN_STATUS_NOT_INITIALIZED;
    struct description *one = calloc(1, sizeof *one);
    if (!one) return CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
    one->type = type, one->references = 1;
    forget(one);
    *descriptor = one;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
    if (!descriptor) return CUDNN_STATUS_SUCCESS;
    pthread_mutex_lock(&lock);
    release(descriptor);
    pthread_mutex_unlock(&lock);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count, const void *values) {
    *kept_error = 0;
    /* The description of the device takes the place of the handle, which is not a real one. */
    if (type == CUDNN_TYPE_HANDLE || is_executed(descriptor)) return CUDNN_STATUS_SUCCESS;
    pthread_mutex_lock(&lock);
    cudnnStatus_t status = note(descriptor, name, type, count, values);
    pthread_mutex_unlock(&lock);
    return status;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
    *kept_error = 0;
    if (is_executed(descriptor)) return CUDNN_STATUS_SUCCESS;
    pthread_mutex_lock(&lock);
    cudnnStatus_t status = finalize(descriptor);
    pthread_mutex_unlock(&lock);
    return status;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t room, int64_t *count, void *values) {
    *kept_error = 0;
    pthread_mutex_lock(&lock);
    cudnnStatus_t status = ask(descriptor, name, type, room, count, values);
    pthread_mutex_unlock(&lock);
    if (!status && values && name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE && !virtual_gpu.cudnn_workspaces)
        *(int64_t *)values = 0;
    return status;
}
