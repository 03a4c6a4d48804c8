/* The management library, as a library of its own: PyTorch asks it for processes when it words an out-of-memory error,
 * and a real one beside a virtual GPU would not know the device. */
#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7 };

struct memory {
    unsigned long long total_bytes, free_bytes, used_bytes;
};

struct process {
    unsigned id;
    unsigned long long used_bytes;
    unsigned gpu_instance, compute_instance; /* absent: all ones */
};

static struct memory device_memory(void) {
    int (*ask)(size_t *, size_t *) = (int (*)(size_t *, size_t *))dlsym(RTLD_DEFAULT, "cudaMemGetInfo");
    size_t free_bytes = 0, total_bytes = 0;
    if (ask) ask(&free_bytes, &total_bytes);
    return (struct memory){total_bytes, free_bytes, total_bytes - free_bytes};
}

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlInitWithFlags(unsigned flags) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int error) { return error ? "not supported by the virtual GPU" : "success"; }

int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    int (*ask)(int *) = (int (*)(int *))dlsym(RTLD_DEFAULT, "cudaDriverGetVersion");
    return ask ? ask(version) : NOT_SUPPORTED;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = 1;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = (void *)1;
    return SUCCESS;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **device) { return nvmlDeviceGetHandleByIndex_v2(0, device); }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) { return nvmlDeviceGetHandleByIndex_v2(0, device); }

int nvmlDeviceGetMemoryInfo(void *device, struct memory *memory) {
    *memory = device_memory();
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, struct process *processes) {
    unsigned room = *count;
    *count = 1;
    if (room < 1 || !processes) return INSUFFICIENT_SIZE;
    processes[0] = (struct process){(unsigned)getpid(), device_memory().used_bytes, ~0u, ~0u};
    return SUCCESS;
}

/* The older function under this name is what PyTorch asks. It only decorates its message with the answer: nobody. */
int nvmlDeviceGetComputeRunningProcesses(void *device, unsigned *count, void *processes) {
    *count = 0;
    return SUCCESS;
}

/* Links between several GPUs: there is only one. */
int nvmlDeviceGetGpuFabricInfoV(void *device, void *information) { return NOT_SUPPORTED; }
int nvmlDeviceGetNvLinkRemoteDeviceType(void *device, unsigned link, int *type) { return NOT_SUPPORTED; }
int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *device, unsigned link, void *information) { return NOT_SUPPORTED; }
