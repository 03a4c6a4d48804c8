/* What the virtual GPU cannot play. It is told to whoever watches, and where an answer would be made up, refused. */
#include "virtual_gpu.h"

#include <stdio.h>

static void (*watcher)(const char *deed);

void virtual_gpu_watch(void (*told)(const char *deed)) { watcher = told; }

void notice(const char *deed) {
    if (watcher) watcher(deed);
}

static _Thread_local const char *refused;

int refuse(const char *function, int status) {
    refused = function;
    notice(function);
    return status;
}

const char *refusal(void) {
    static _Thread_local char text[128];
    snprintf(text, sizeof text, "%s is not modelled by the virtual GPU", refused ? refused : "this");
    return text;
}
