/* What the virtual GPU cannot play. It is told to whoever watches, who may have it refused; and where an answer would
 * be made up, it is refused in any case. */
#define _GNU_SOURCE
#include "virtual_gpu.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* --- who asks ------------------------------------------------------------------------------------------------- */

#define MOST_CALLERS 64 /* the operator that asks is some 20 calls away */

/* The name of the function that goes on at an address, or NULL. Looking one up takes a millisecond in libraries as
 * large as PyTorch's, so that names are kept by address; another address may take the place. */
static const char *function_at(const void *address) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct {
        const void *address;
        const char *name; /* lives as long as its library */
    } known[4096];
    size_t place = ((uintptr_t)address * 0x9e3779b97f4a7c15u) >> 52;
    pthread_mutex_lock(&lock);
    if (known[place].address != address) {
        Dl_info found;
        known[place].name = dladdr(address, &found) ? found.dli_sname : NULL;
        known[place].address = address;
    }
    const char *name = known[place].name;
    pthread_mutex_unlock(&lock);
    return name;
}

/* Writes the functions that have called this one, innermost first, one a line. */
static void write_callers(char *text, size_t room) {
    void *addresses[MOST_CALLERS];
    int count = backtrace(addresses, MOST_CALLERS);
    *text = 0;
    for (int i = 0; i < count; i++) {
        const char *name = function_at(addresses[i]);
        if (!name) continue;
        size_t length = strlen(name);
        if (length + 2 > room) continue; /* longer than any operator's */
        memcpy(text, name, length);
        memcpy(text + length, "\n", 2);
        text += length + 1;
        room -= length + 1;
    }
}

/* --- telling --------------------------------------------------------------------------------------------------- */

static int (*watcher)(const char *deed, const char *callers);

void virtual_gpu_watch(int (*told)(const char *deed, const char *callers)) { watcher = told; }

int notice(const char *deed) {
    char callers[16384];
    if (!watcher) return PLAY;
    write_callers(callers, sizeof callers);
    return watcher(deed, callers);
}

/* --- refusing -------------------------------------------------------------------------------------------------- */

static _Thread_local const char *refused;

int fail(const char *what, int status) {
    refused = what;
    return status;
}

int refuse(const char *function, int status) {
    notice(function);
    return fail(function, status);
}

const char *refusal(void) {
    static _Thread_local char text[128];
    snprintf(text, sizeof text, "%s is not modelled by the virtual GPU", refused ? refused : "this");
    return text;
}
