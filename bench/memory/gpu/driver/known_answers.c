#include "known_answers.h"

#include <search.h>
#include <stdlib.h>
#include <string.h>

static void *answers;

/* FNV-1a. */
uint64_t mixed(uint64_t hash, const void *bytes, size_t count) {
    for (const unsigned char *byte = bytes; count--; byte++) hash = (hash ^ *byte) * 0x100000001b3;
    return hash;
}

static int by_key(const void *one, const void *other) {
    uint64_t a = ((const struct answer *)one)->key, b = ((const struct answer *)other)->key;
    return (a > b) - (a < b);
}

struct answer *answer_to(uint64_t key) {
    struct answer wanted = {.key = key}, **found = tfind(&wanted, &answers, by_key);
    if (found) return *found;
    struct answer *fresh = calloc(1, sizeof *fresh);
    if (!fresh) return NULL;
    fresh->key = key;
    if (tsearch(fresh, &answers, by_key)) return fresh;
    free(fresh);
    return NULL;
}

void keep_values(struct answer *answer, const void *values, size_t bytes) {
    free(answer->values);
    answer->values = malloc(bytes + 1);
    if (!answer->values) return;
    memcpy(answer->values, values ? values : "", bytes);
    answer->bytes = bytes, answer->known = 1;
}
