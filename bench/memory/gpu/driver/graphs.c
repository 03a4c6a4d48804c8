/* CUDA graphs: work that is captured in place of being done, and launched later.
 *
 * PyTorch's allocator asks on every allocation whether a stream is being captured and by whom, and then serves it from
 * a pool of its own. So a capture follows its streams, through the events by which one stream waits for another, and
 * calls that CUDA forbids meanwhile fail as they do there. A launched graph computes nothing; it calls the host's
 * functions and delivers zeros to the host's memory, as the captured calls would have. What the driver itself keeps
 * on a device for a graph is not counted. */
#include "virtual_gpu.h"

#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct CUgraphNode_st {
    struct CUgraphNode_st **dependencies;
    size_t dependency_count;
    struct host_deed deed;
    int is_reached; /* from where the search for work that nobody waits for stands */
};

struct nodes {
    struct CUgraphNode_st **items;
    size_t count, room;
};

/* A graph owns its nodes, in the order of their making: each comes after those that it depends on. */
struct CUgraph_st {
    struct nodes nodes;
};

/* Of a graph that can be launched only what it does to the host is left. */
struct CUgraphExec_st {
    struct host_deed *deeds;
    size_t count;
};

struct capture {
    struct capture *older;
    unsigned long long id;
    cudaStream_t origin;
    pthread_t thread;
    enum cudaStreamCaptureMode mode;
    int is_invalid;
    struct CUgraph_st *graph;
};

/* A stream that is being captured, and the nodes that its next work depends on. */
struct member {
    struct member *older;
    cudaStream_t stream;
    struct capture *capture;
    struct nodes last;
};

/* An event that was last recorded in a capture; the capture may have ended since. */
struct captured_event {
    struct captured_event *older;
    cudaEvent_t event;
    unsigned long long capture_id;
    struct nodes last;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct capture *newest_capture;
static struct member *newest_member;
static struct captured_event *newest_event;
/* How many captures and captured events there are: looked at without the lock, on every launch of a kernel. */
static atomic_int running, events_captured;
static _Thread_local enum cudaStreamCaptureMode mode_of_thread = cudaStreamCaptureModeGlobal;

/* --- nodes; the caller holds the lock ------------------------------------------------------------------------- */

static int append(struct nodes *nodes, struct CUgraphNode_st *node) {
    if (nodes->count == nodes->room) {
        size_t room = nodes->room ? 2 * nodes->room : 4;
        struct CUgraphNode_st **grown = realloc(nodes->items, room * sizeof *grown);
        if (!grown) return 0;
        nodes->items = grown;
        nodes->room = room;
    }
    nodes->items[nodes->count++] = node;
    return 1;
}

static int append_missing(struct nodes *nodes, const struct nodes *others) {
    for (size_t i = 0; i < others->count; i++) {
        size_t place = 0;
        while (place < nodes->count && nodes->items[place] != others->items[i]) place++;
        if (place == nodes->count && !append(nodes, others->items[i])) return 0;
    }
    return 1;
}

static void destroy_graph(struct CUgraph_st *graph) {
    for (size_t i = 0; i < graph->nodes.count; i++) {
        free(graph->nodes.items[i]->dependencies);
        free(graph->nodes.items[i]);
    }
    free(graph->nodes.items);
    free(graph);
}

/* --- captures; the caller holds the lock ---------------------------------------------------------------------- */

static struct member *find_member(cudaStream_t stream) {
    struct member *member = newest_member;
    while (member && member->stream != stream) member = member->older;
    return member;
}

static struct capture *find_capture(unsigned long long id) {
    struct capture *capture = newest_capture;
    while (capture && capture->id != id) capture = capture->older;
    return capture;
}

static struct captured_event *find_event(cudaEvent_t event) {
    struct captured_event *found = newest_event;
    while (found && found->event != event) found = found->older;
    return found;
}

static void forget_event(cudaEvent_t event) {
    struct captured_event **link = &newest_event, *found;
    while (*link && (*link)->event != event) link = &(*link)->older;
    if (!(found = *link)) return;
    *link = found->older;
    free(found->last.items);
    free(found);
    atomic_fetch_sub(&events_captured, 1);
}

static struct member *add_member(cudaStream_t stream, struct capture *capture) {
    struct member *member = calloc(1, sizeof *member);
    if (!member) return NULL;
    *member = (struct member){newest_member, stream, capture, {0}};
    return newest_member = member;
}

static int add_node(struct member *member, struct host_deed deed) {
    struct CUgraphNode_st *node = calloc(1, sizeof *node);
    if (!node) return 0;
    if (!append(&member->capture->graph->nodes, node)) {
        free(node);
        return 0;
    }
    node->deed = deed;
    node->dependencies = member->last.items;
    node->dependency_count = member->last.count;
    member->last = (struct nodes){0};
    return append(&member->last, node);
}

static cudaError_t invalidate(struct capture *capture, cudaError_t reason) {
    capture->is_invalid = 1;
    return reason;
}

/* Whether some work of the capture is waited for by nobody up to its end. */
static int is_unjoined(const struct member *origin) {
    const struct nodes *all = &origin->capture->graph->nodes;
    for (size_t i = 0; i < origin->last.count; i++) origin->last.items[i]->is_reached = 1;
    for (size_t i = all->count; i-- > 0;) {
        if (!all->items[i]->is_reached) return 1;
        for (size_t j = 0; j < all->items[i]->dependency_count; j++) all->items[i]->dependencies[j]->is_reached = 1;
    }
    return 0;
}

/* Takes the capture out of the list, with its streams; its graph stays. */
static void finish(struct capture *capture) {
    for (struct member **link = &newest_member, *member; (member = *link);) {
        if (member->capture != capture) {
            link = &member->older;
            continue;
        }
        *link = member->older;
        free(member->last.items);
        free(member);
    }
    struct capture **link = &newest_capture;
    while (*link != capture) link = &(*link)->older;
    *link = capture->older;
    free(capture);
    atomic_fetch_sub(&running, 1);
}

/* Whether a capture forbids this thread what may disturb it, such as cudaMalloc. */
static struct capture *forbidding(void) {
    struct capture *capture = newest_capture;
    for (; capture && mode_of_thread != cudaStreamCaptureModeRelaxed; capture = capture->older) {
        if (pthread_equal(capture->thread, pthread_self())) {
            if (capture->mode != cudaStreamCaptureModeRelaxed) return capture;
        } else if (mode_of_thread == cudaStreamCaptureModeGlobal && capture->mode == cudaStreamCaptureModeGlobal)
            return capture;
    }
    return NULL;
}

/* --- what the other files ask --------------------------------------------------------------------------------- */

int forbidden_by_capture(void) {
    if (!atomic_load(&running)) return cudaSuccess;
    pthread_mutex_lock(&lock);
    struct capture *capture = forbidding();
    cudaError_t status = capture ? invalidate(capture, cudaErrorStreamCaptureUnsupported) : cudaSuccess;
    pthread_mutex_unlock(&lock);
    return status;
}

int waits_for_capture(void *stream) {
    if (!atomic_load(&running)) return cudaSuccess;
    pthread_mutex_lock(&lock);
    struct member *member = find_member(stream);
    cudaError_t status = member ? invalidate(member->capture, cudaErrorStreamCaptureUnsupported) : cudaSuccess;
    pthread_mutex_unlock(&lock);
    return status;
}

int is_captured(void *stream, struct host_deed deed, int *status) {
    *status = cudaSuccess;
    if (!atomic_load(&running)) return 0;
    pthread_mutex_lock(&lock);
    struct member *member = find_member(stream);
    if (member && member->capture->is_invalid)
        *status = cudaErrorStreamCaptureInvalidated;
    else if (member && !add_node(member, deed))
        *status = invalidate(member->capture, cudaErrorMemoryAllocation);
    pthread_mutex_unlock(&lock);
    return member != NULL;
}

int capture_work(void *stream) {
    int status;
    is_captured(stream, (struct host_deed){0}, &status);
    return status;
}

/* --- beginning and ending a capture --------------------------------------------------------------------------- */

cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) {
    enum cudaStreamCaptureMode before = mode_of_thread;
    mode_of_thread = *mode;
    *mode = before;
    return cudaSuccess;
}

static int is_legacy(cudaStream_t stream) { return !stream || stream == cudaStreamLegacy; }

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
    static unsigned long long last_id;
    if (is_legacy(stream)) return cudaErrorStreamCaptureUnsupported;
    struct capture *capture = calloc(1, sizeof *capture);
    struct CUgraph_st *graph = calloc(1, sizeof *graph);
    cudaError_t status = capture && graph ? cudaSuccess : cudaErrorMemoryAllocation;
    pthread_mutex_lock(&lock);
    if (!status && find_member(stream)) status = cudaErrorIllegalState;
    if (!status && !add_member(stream, capture)) status = cudaErrorMemoryAllocation;
    if (!status) {
        *capture = (struct capture){newest_capture, ++last_id, stream, pthread_self(), mode, 0, graph};
        newest_capture = capture;
        atomic_fetch_add(&running, 1);
    }
    pthread_mutex_unlock(&lock);
    if (status) {
        free(capture);
        free(graph);
    }
    return status;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    *graph = NULL;
    cudaError_t status = cudaSuccess;
    pthread_mutex_lock(&lock);
    struct member *member = find_member(stream);
    struct capture *capture = member ? member->capture : NULL;
    if (!capture)
        status = cudaErrorIllegalState;
    else if (capture->origin != stream)
        status = cudaErrorStreamCaptureUnmatched;
    else if (capture->mode != cudaStreamCaptureModeRelaxed && !pthread_equal(capture->thread, pthread_self()))
        status = cudaErrorStreamCaptureWrongThread;
    else {
        if (capture->is_invalid)
            status = cudaErrorStreamCaptureInvalidated;
        else if (is_unjoined(member))
            status = cudaErrorStreamCaptureUnjoined;
        if (status)
            destroy_graph(capture->graph);
        else
            *graph = capture->graph;
        finish(capture);
    }
    pthread_mutex_unlock(&lock);
    return status;
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                     unsigned long long *id, cudaGraph_t *graph, const cudaGraphNode_t **nodes,
                                     const cudaGraphEdgeData **edges, size_t *count) {
    *status = cudaStreamCaptureStatusNone;
    if (edges) *edges = NULL; /* no dependency is of a kind of its own */
    if (!atomic_load(&running)) return cudaSuccess;
    pthread_mutex_lock(&lock);
    struct member *member = find_member(stream);
    if (member && member->capture->is_invalid)
        *status = cudaStreamCaptureStatusInvalidated;
    else if (member) {
        *status = cudaStreamCaptureStatusActive;
        if (id) *id = member->capture->id;
        if (graph) *graph = member->capture->graph;
        if (nodes) *nodes = member->last.items;
        if (count) *count = member->last.count;
    }
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    return cudaStreamGetCaptureInfo(stream, status, NULL, NULL, NULL, NULL, NULL);
}

/* --- events: how a capture spreads to other streams and comes back -------------------------------------------- */

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
    if (flags & cudaEventRecordExternal) return capture_work(stream);
    if (!atomic_load(&running) && !atomic_load(&events_captured)) return cudaSuccess;
    cudaError_t status = cudaSuccess;
    pthread_mutex_lock(&lock);
    forget_event(event);
    struct member *member = find_member(stream);
    if (member) {
        struct captured_event *captured = calloc(1, sizeof *captured);
        if (captured && append_missing(&captured->last, &member->last)) {
            captured->event = event;
            captured->capture_id = member->capture->id;
            captured->older = newest_event;
            newest_event = captured;
            atomic_fetch_add(&events_captured, 1);
        } else {
            if (captured) free(captured->last.items);
            free(captured);
            status = invalidate(member->capture, cudaErrorMemoryAllocation);
        }
    }
    pthread_mutex_unlock(&lock);
    return status;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    return cudaEventRecordWithFlags(event, stream, cudaEventRecordDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    pthread_mutex_lock(&lock);
    forget_event(event);
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}

/* A stream waits for an event of a capture: it becomes part of it, or depends on more of it. */
static cudaError_t wait_for_capture(cudaStream_t stream, struct member *member, struct captured_event *captured) {
    struct capture *capture = find_capture(captured->capture_id);
    if (!capture) return cudaErrorCapturedEvent;
    if (is_legacy(stream)) return invalidate(capture, cudaErrorStreamCaptureImplicit);
    if (member && member->capture != capture) {
        invalidate(member->capture, cudaErrorStreamCaptureMerge);
        return invalidate(capture, cudaErrorStreamCaptureMerge);
    }
    if (!member) member = add_member(stream, capture);
    if (!member || !append_missing(&member->last, &captured->last))
        return invalidate(capture, cudaErrorMemoryAllocation);
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    if (flags & cudaEventWaitExternal) return capture_work(stream);
    if (!atomic_load(&running) && !atomic_load(&events_captured)) return cudaSuccess;
    cudaError_t status = cudaSuccess;
    pthread_mutex_lock(&lock);
    struct member *member = find_member(stream);
    struct captured_event *captured = find_event(event);
    if (captured)
        status = wait_for_capture(stream, member, captured);
    else if (member)
        status = invalidate(member->capture, cudaErrorStreamCaptureIsolation);
    pthread_mutex_unlock(&lock);
    return status;
}

/* The host asks for an event, which nothing that is only captured ever reaches. */
static cudaError_t reach(cudaEvent_t event) {
    if (!atomic_load(&events_captured)) return cudaSuccess;
    pthread_mutex_lock(&lock);
    struct captured_event *captured = find_event(event);
    struct capture *capture = captured ? find_capture(captured->capture_id) : NULL;
    if (capture) invalidate(capture, cudaErrorCapturedEvent);
    pthread_mutex_unlock(&lock);
    return captured ? cudaErrorCapturedEvent : cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    cudaError_t status = reach(event);
    return status ? status : (cudaError_t)forbidden_by_capture();
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) { return cudaEventQuery(event); }

/* --- graphs --------------------------------------------------------------------------------------------------- */

static cudaError_t tell(struct CUgraphNode_st *const *from, size_t from_count, cudaGraphNode_t *nodes, size_t *count) {
    for (size_t i = 0; nodes && i < *count; i++) nodes[i] = i < from_count ? from[i] : NULL;
    if (!nodes || from_count < *count) *count = from_count;
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count) {
    return tell(graph->nodes.items, graph->nodes.count, nodes, count);
}

cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t node, cudaGraphNode_t *nodes, cudaGraphEdgeData *edges,
                                         size_t *count) {
    return tell(node->dependencies, node->dependency_count, nodes, count);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    destroy_graph(graph);
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long flags) {
    *executable = calloc(1, sizeof **executable);
    struct host_deed *deeds = calloc(graph->nodes.count + 1, sizeof *deeds);
    if (!*executable || !deeds) {
        free(*executable);
        free(deeds);
        return cudaErrorMemoryAllocation;
    }
    (*executable)->deeds = deeds;
    for (size_t i = 0; i < graph->nodes.count; i++) {
        const struct host_deed *deed = &graph->nodes.items[i]->deed;
        if (deed->function || deed->zeroed_bytes) deeds[(*executable)->count++] = *deed;
    }
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    int status;
    int captured = is_captured(stream, (struct host_deed){0}, &status);
    for (size_t i = 0; i < executable->count; i++) {
        struct host_deed deed = executable->deeds[i];
        if (captured)
            is_captured(stream, deed, &status);
        else if (deed.function)
            deed.function(deed.data);
        else
            deliver_zeros(deed.data, deed.zeroed_bytes);
    }
    return status;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    free(executable->deeds);
    free(executable);
    return cudaSuccess;
}
