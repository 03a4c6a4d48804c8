/* Plans that were built before, by the content of their descriptors. */
#ifndef KNOWN_PLANS_H
#define KNOWN_PLANS_H

#include <cudnn.h>
#include <stdint.h>

struct plan {
    uint64_t hash;
    int built; /* whether the rest is known */
    cudnnStatus_t status;
    int64_t workspace_bytes;
};

/* A descriptor is created, an attribute of it set, it is filled with the answer number `rank` of `source`, destroyed. */
void content_begins(cudnnBackendDescriptor_t descriptor, cudnnBackendDescriptorType_t type);
void content_grows(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                   cudnnBackendAttributeType_t type, int64_t count, const void *values);
void content_follows(cudnnBackendDescriptor_t result, cudnnBackendDescriptor_t source, int64_t rank);
void content_ends(cudnnBackendDescriptor_t descriptor);

/* The plan that a descriptor describes, the same for equal contents; kept for good. NULL for
 * a descriptor of something else, or if memory is out. */
struct plan *plan_of(cudnnBackendDescriptor_t descriptor);

#endif
