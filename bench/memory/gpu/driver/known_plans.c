/* What cuDNN has planned before. Building a plan may mean to compile a kernel, a fifth of a second for a grouped
 * convolution in half precision, and PyTorch here keeps no plan. A plan is known by the content of its descriptor: all
 * that was set in it and in the descriptors that it names. */
#define _GNU_SOURCE
#include "known_plans.h"

#include <pthread.h>
#include <search.h>
#include <stdlib.h>

struct content {
    cudnnBackendDescriptor_t descriptor;
    cudnnBackendDescriptorType_t type;
    uint64_t hash;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* backward runs in a thread of its own */
static void *contents, *plans;

static int by_descriptor(const void *one, const void *other) {
    uintptr_t a = (uintptr_t)((const struct content *)one)->descriptor;
    uintptr_t b = (uintptr_t)((const struct content *)other)->descriptor;
    return (a > b) - (a < b);
}

static int by_hash(const void *one, const void *other) {
    uint64_t a = ((const struct plan *)one)->hash, b = ((const struct plan *)other)->hash;
    return (a > b) - (a < b);
}

/* FNV-1a. */
static uint64_t mixed(uint64_t hash, const void *bytes, size_t count) {
    for (const unsigned char *byte = bytes; count--; byte++) hash = (hash ^ *byte) * 0x100000001b3;
    return hash;
}

static struct content *content_of(cudnnBackendDescriptor_t descriptor) {
    struct content wanted = {.descriptor = descriptor};
    struct content **found = tfind(&wanted, &contents, by_descriptor);
    return found ? *found : NULL;
}

static size_t element_bytes(cudnnBackendAttributeType_t type) {
    switch (type) {
        case CUDNN_TYPE_BOOLEAN:
        case CUDNN_TYPE_CHAR: return 1;
        case CUDNN_TYPE_INT64:
        case CUDNN_TYPE_DOUBLE:
        case CUDNN_TYPE_VOID_PTR: return 8;
        case CUDNN_TYPE_FRACTION: return 16;
        default: return 4;
    }
}

void content_begins(cudnnBackendDescriptor_t descriptor, cudnnBackendDescriptorType_t type) {
    pthread_mutex_lock(&lock);
    struct content *content = content_of(descriptor);
    if (!content && (content = malloc(sizeof *content))) {
        content->descriptor = descriptor;
        tsearch(content, &contents, by_descriptor);
    }
    if (content) {
        content->type = type;
        content->hash = mixed(0xcbf29ce484222325, &type, sizeof type);
    }
    pthread_mutex_unlock(&lock);
}

void content_grows(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                   cudnnBackendAttributeType_t type, int64_t count, const void *values) {
    pthread_mutex_lock(&lock);
    struct content *content = content_of(descriptor);
    if (content) {
        uint64_t hash = mixed(mixed(content->hash, &name, sizeof name), &count, sizeof count);
        if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR) {
            for (int64_t i = 0; i < count; i++) {
                struct content *named = content_of(((const cudnnBackendDescriptor_t *)values)[i]);
                if (named) hash = mixed(hash, &named->hash, sizeof named->hash);
            }
        } else {
            hash = mixed(hash, values, (size_t)count * element_bytes(type));
        }
        content->hash = hash;
    }
    pthread_mutex_unlock(&lock);
}

void content_follows(cudnnBackendDescriptor_t result, cudnnBackendDescriptor_t source, int64_t rank) {
    pthread_mutex_lock(&lock);
    struct content *from = content_of(source), *content = content_of(result);
    if (from && content) content->hash = mixed(from->hash, &rank, sizeof rank);
    pthread_mutex_unlock(&lock);
}

void content_ends(cudnnBackendDescriptor_t descriptor) {
    pthread_mutex_lock(&lock);
    struct content *content = content_of(descriptor);
    if (content) tdelete(content, &contents, by_descriptor);
    free(content);
    pthread_mutex_unlock(&lock);
}

struct plan *plan_of(cudnnBackendDescriptor_t descriptor) {
    pthread_mutex_lock(&lock);
    struct content *content = content_of(descriptor);
    struct plan **known = NULL;
    if (content && content->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR) {
        struct plan *fresh = calloc(1, sizeof *fresh);
        if (fresh) {
            fresh->hash = content->hash;
            known = tsearch(fresh, &plans, by_hash);
            if (known && *known != fresh) free(fresh);
        }
    }
    pthread_mutex_unlock(&lock);
    return known ? *known : NULL;
}
