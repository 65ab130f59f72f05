// A stand-in for libnvinfer, libnvonnxparser and libcudart, so that NVIDIA's real Python bindings
// can be driven without a GPU: it "builds" a plan from a line of text, "runs" it on the processor,
// and "captures" graphs by remembering the calls. It checks how the API is used, nothing else.
//
// An object of the API is {vtable pointer, pointer to the implementation}; the bindings call the
// implementation's virtual functions by position. The positions are facts of the public headers of
// each version, listed in slots.json; VBuilder_createNetworkV2 and so on are macros that look them
// up when the library is used (see bindings_stub.py), so that it is compiled only once. A function
// whose position is not filled here ends the process with its number: nothing is passed over.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

static int at(const char* name) {
    static std::map<std::string, int> slots;
    if (slots.empty()) {
        std::ifstream file(getenv("STUB_SLOTS"));
        std::string key;
        for (int slot; file >> key >> slot;) slots[key] = slot;
    }
    auto found = slots.find(name);
    return found == slots.end() ? -1 : found->second;  // this version has no such function
}

struct Dims {
    int32_t count;
    int64_t sizes[8];
};

using Function = void (*)();

template <int Class, int Slot> void missing() {
    static const char* const names[] = {"builder", "network",  "tensor",  "config",  "profile",
                                        "timings", "memory",   "runtime", "engine",  "context",
                                        "inspector", "parser", "error",   "outer",
                                        "settings", "kernels"};
    fprintf(stderr, "stub: slot %d of %s was called\n", Slot, names[Class]);
    abort();
}

template <int Class, int Slot> struct Fill {
    static void into(Function* table) {
        table[Slot] = &missing<Class, Slot>;
        Fill<Class, Slot - 1>::into(table);
    }
};
template <int Class> struct Fill<Class, -1> {
    static void into(Function*) {}
};

static void destroyed(void*) {}

struct Table {
    Function slots[100];
};
template <int Class> Function* table() {
    static Table made;
    static bool filled = false;
    if (!filled) Fill<Class, 99>::into(made.slots);
    filled = true;
    made.slots[0] = made.slots[1] = reinterpret_cast<Function>(&destroyed);
    return made.slots;
}

struct Implementation {
    Function* table;
};
struct Outer {
    Function* table;
    Implementation* implementation;
};

template <int Class, class State> Outer* object(State* state) {
    state->table = table<Class>();
    return new Outer{table<13>(), state};
}
template <int Class, class F> void set(int slot, F function) {
    if (slot >= 0) table<Class>()[slot] = reinterpret_cast<Function>(function);
}

// ---- the application's objects that are called back ---------------------------------------
struct Callback {
    Function* table;
};
static Callback* logger = nullptr;
static void say(int severity, const char* text) {
    using Log = void (*)(Callback*, int, const char*);
    if (logger) reinterpret_cast<Log>(logger->table[ILogger_log])(logger, severity, text);
}

// ---- CUDA: memory of the host, streams that run at once, graphs that remember calls --------
struct Call {
    void (*run)(void*);
    void* state;
};
static std::vector<Call>* capturing = nullptr;
static int graph_launches = 0;
static void enqueue(void (*run)(void*), void* state) {
    if (capturing)
        capturing->push_back({run, state});
    else
        run(state);
}
struct Copy {
    void *to, *from;
    size_t size;
};
static void copy(void* state) {
    Copy* what = static_cast<Copy*>(state);
    memcpy(what->to, what->from, what->size);
}
extern "C" {
int cudaSetDevice(int) { return getenv("STUB_NO_GPU") ? 100 : getenv("STUB_DRIVER") ? 35 : 0; }
int cudaMalloc(void** p, size_t n) {
    return !getenv("STUB_NO_MEMORY") && (*p = malloc(n)) ? 0 : 2;
}
int cudaFree(void* p) { return free(p), 0; }
int cudaHostAlloc(void** p, size_t n, unsigned) { return (*p = malloc(n)) ? 0 : 2; }
int cudaFreeHost(void* p) { return free(p), 0; }
int cudaStreamCreateWithFlags(void** s, unsigned flags) {
    *s = malloc(1);
    return flags == 1 ? 0 : 1;
}
int cudaStreamDestroy(void* s) { return free(s), 0; }
int cudaStreamSynchronize(void*) { return capturing ? 900 : 0; }
int cudaMemcpyAsync(void* to, void* from, size_t n, int kind, void*) {
    if (kind != 1 && kind != 2) return 21;
    enqueue(copy, new Copy{to, from, n});
    return 0;
}
using Clock = std::chrono::steady_clock;
int cudaEventCreate(void** e) { return *e = new Clock::time_point(), 0; }
int cudaEventDestroy(void* e) { return delete static_cast<Clock::time_point*>(e), 0; }
int cudaEventRecord(void* e, void*) {
    return *static_cast<Clock::time_point*>(e) = Clock::now(), 0;
}
int cudaEventSynchronize(void*) { return 0; }
int cudaEventElapsedTime(float* ms, void* a, void* b) {
    auto* start = static_cast<Clock::time_point*>(a);
    auto* stop = static_cast<Clock::time_point*>(b);
    *ms = std::chrono::duration<float, std::milli>(*stop - *start).count();
    return 0;
}
int cudaStreamBeginCapture(void*, int mode) {
    if (capturing || mode != 1) return 1;
    capturing = new std::vector<Call>();
    return 0;
}
int cudaStreamEndCapture(void*, void** graph) {
    *graph = capturing;
    capturing = nullptr;
    return getenv("STUB_NO_CAPTURE") ? 901 : 0;
}
int cudaGraphInstantiate(void** ready, void* graph, unsigned long long) {
    *ready = new std::vector<Call>(*static_cast<std::vector<Call>*>(graph));
    return 0;
}
int cudaGraphLaunch(void* ready, void*) {
    ++graph_launches;
    for (const Call& call : *static_cast<std::vector<Call>*>(ready)) call.run(call.state);
    return 0;
}
int cudaGraphDestroy(void* g) { return delete static_cast<std::vector<Call>*>(g), 0; }
int cudaGraphExecDestroy(void* g) { return delete static_cast<std::vector<Call>*>(g), 0; }
int cudaGetLastError() { return 0; }
const char* cudaGetErrorString(int error) {
    return error == 100 ? "no CUDA-capable device is detected" : "stub error";
}
int cudaMemGetInfo(size_t* free_bytes, size_t* all) {
    *free_bytes = 1u << 30;
    *all = size_t(8) << 30;
    return 0;
}
int cudaDeviceGetAttribute(int* value, int attribute, int) {
    int capability = getenv("STUB_CAPABILITY") ? atoi(getenv("STUB_CAPABILITY")) : 87;
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : attribute == 18;
    return 0;
}
int cudaGetDeviceProperties(char* properties, int) { return strcpy(properties, "Orin"), 0; }
int cudaDriverGetVersion(int* version) {
    *version = getenv("STUB_DRIVER") ? atoi(getenv("STUB_DRIVER")) : 13000;
    return 0;
}
int stub_graph_launches() { return graph_launches; }
}

// ---- the network: "STUB <batch> <channels> <height> <width> <classes>" ----------------------
struct Model {
    long batch, channels, height, width, classes;
};
struct Memory : Implementation {
    std::string bytes;
};
struct Tensor : Implementation {
    std::string name;
    Dims dims;
};
struct Network : Implementation {
    Model model;
    bool strong;
};
struct Profile : Implementation {
    long batch[3] = {0, 0, 0};
};
struct Timings : Implementation {
    std::string bytes;
};
struct Config : Implementation {
    Profile* profile = nullptr;
    Timings* timings = nullptr;
    Outer* timings_outer = nullptr;
    Callback* monitor = nullptr;
    size_t workspace = 0;
    int verbosity = 0, level = 3;
    bool tf32 = true;
    int capability = 0;  // of TensorRT for RTX; 0 for the device here
};
struct Engine : Implementation {
    Model model;
    long smallest, largest;
};
struct Context : Implementation {
    Engine* engine;
    long batch = 0;
    float *image = nullptr, *logits = nullptr;
    Callback* profiler = nullptr;
    std::string* kernels = nullptr;  // grows by a batch size when it runs first
};
struct ParserError : Implementation {};
struct Parser {
    Function* table;
    Network* network;
    bool failed;
};
struct Any : Implementation {};

template <class State> State* state_of(void* outer) {
    return static_cast<State*>(static_cast<Outer*>(outer)->implementation);
}
static Dims image_dims(const Model& m, long batch) {
    return {4, {batch, m.channels, m.height, m.width}};
}

static Outer* memory(const std::string& bytes) {
    Memory* made = new Memory();
    made->bytes = bytes;
    set<6>(VHostMemory_data, +[](Memory* m) { return (void*)m->bytes.data(); });
    set<6>(VHostMemory_size, +[](Memory* m) { return m->bytes.size(); });
    set<6>(VHostMemory_type, +[](Memory*) { return int32_t(2); });
    return object<6>(made);
}

static Outer* tensor(const char* name, Dims dims) {
    Tensor* made = new Tensor();
    made->name = name;
    made->dims = dims;
    set<2>(VTensor_getName, +[](Tensor* t) { return t->name.c_str(); });
    set<2>(VTensor_getDimensions, +[](Tensor* t) { return t->dims; });
    return object<2>(made);
}

static Outer* network(bool strong) {
    Network* made = new Network();
    made->strong = strong;
    set<1>(VNetworkDefinition_getNbInputs, +[](Network*) { return int32_t(1); });
    set<1>(VNetworkDefinition_getNbOutputs, +[](Network*) { return int32_t(1); });
    set<1>(VNetworkDefinition_getInput, +[](Network* n, int32_t) {
        return (void*)tensor("image", image_dims(n->model, n->model.batch));
    });
    return object<1>(made);
}

static Outer* timings(const char* data, size_t size) {
    Timings* made = new Timings();
    made->bytes.assign(data ? data : "", size);
    set<5>(VTimingCache_serialize, +[](Timings* t) {
        return (void*)memory("TIMINGS " + std::to_string(t->bytes.size()));
    });
    return object<5>(made);
}

static Outer* config() {
    Config* made = new Config();
    set<3>(VBuilderConfig_setMemoryPoolLimit,
           +[](Config* c, int32_t pool, size_t n) { c->workspace = pool == 0 ? n : 0; });
    set<3>(VBuilderConfig_setBuilderOptimizationLevel, +[](Config* c, int32_t l) { c->level = l; });
    set<3>(VBuilderConfig_setProfilingVerbosity, +[](Config* c, int32_t v) { c->verbosity = v; });
    set<3>(VBuilderConfig_createTimingCache,
           +[](Config*, const void* d, size_t n) { return (void*)timings((const char*)d, n); });
    set<3>(VBuilderConfig_setTimingCache, +[](Config* c, Outer* cache, bool ignore) {
        Timings* found = state_of<Timings>(cache);
        if (!ignore && found->bytes.find("OTHER DEVICE") == 0) return false;
        c->timings = found;
        c->timings_outer = cache;
        return true;
    });
    set<3>(VBuilderConfig_getTimingCache, +[](Config* c) { return (void*)c->timings_outer; });
    set<3>(VBuilderConfig_addOptimizationProfile, +[](Config* c, void* profile) {
        c->profile = state_of<Profile>(profile);
        return int32_t(0);
    });
    set<3>(VBuilderConfig_setNbComputeCapabilities, +[](Config*, int32_t n) { return n == 1; });
    set<3>(VBuilderConfig_setComputeCapability, +[](Config* c, int32_t capability, int32_t at) {
        c->capability = capability;
        return at == 0;
    });
    set<3>(VBuilderConfig_clearFlag, +[](Config* c, int32_t) { c->tf32 = false; });
    set<3>(VBuilderConfig_setProgressMonitor,
           +[](Config* c, Callback* monitor) { c->monitor = monitor; });
    return object<3>(made);
}

static bool monitored(Config* c) {
    if (!c->monitor) return true;
    using Start = void (*)(Callback*, const char*, const char*, int32_t);
    using Step = bool (*)(Callback*, const char*, int32_t);
    using Finish = void (*)(Callback*, const char*);
    Function* table = c->monitor->table;
    reinterpret_cast<Start>(table[IProgressMonitor_phaseStart])(c->monitor, "Timing", nullptr, 2);
    bool more = true;
    for (int32_t step = 0; step < 2 && more; ++step)
        more = reinterpret_cast<Step>(table[IProgressMonitor_stepComplete])(c->monitor, "Timing",
                                                                           step);
    reinterpret_cast<Finish>(table[IProgressMonitor_phaseFinish])(c->monitor, "Timing");
    return more;
}

static void* build(Any*, void* network_outer, void* config_outer) {
    Network* n = state_of<Network>(network_outer);
    Config* c = state_of<Config>(config_outer);
    if (!monitored(c)) return nullptr;
    bool dynamic = n->model.batch == -1;
    if (!n->strong || c->workspace < (1 << 20) || c->verbosity != 2 || (dynamic && !c->profile)) {
        say(1, "stub: not strongly typed, no workspace, not detailed or no profile");
        return nullptr;
    }
    if (n->model.classes > 9000) {
        say(1, "stub: out of memory");
        return nullptr;
    }
    say(2, "stub: a warning of the builder");
    char text[200];
    long low = dynamic ? c->profile->batch[0] : n->model.batch;
    long high = dynamic ? c->profile->batch[2] : n->model.batch;
    const Model& m = n->model;
    snprintf(text, sizeof text, "PLAN %ld %ld %ld %ld %ld %ld %ld%s", m.batch, low, high,
             m.channels, m.height, m.width, m.classes, c->tf32 ? "" : " without TF32");
    return memory(text);
}

extern "C" void* createInferBuilder_INTERNAL(void* log, int) {
    logger = static_cast<Callback*>(log);
    set<0>(VBuilder_createBuilderConfig, +[](Any*) { return (void*)config(); });
    set<0>(VBuilder_createNetworkV2, +[](Any*, uint32_t flags) {
        return (void*)network(STRONG_ALWAYS || (flags >> STRONG_BIT) & 1);
    });
    set<0>(VBuilder_createOptimizationProfile, +[](Any*) {
        set<4>(VOptimizationProfile_setDimensions,
               +[](Profile* p, const char* name, int32_t which, const Dims& dims) {
                   p->batch[which] = dims.sizes[0];
                   return strcmp(name, "image") == 0 && dims.count == 4;
               });
        return (void*)object<4>(new Profile());
    });
    set<0>(VBuilder_buildSerializedNetwork, &build);
    return object<0>(new Any());
}

// ---- the parser ---------------------------------------------------------------------------
static bool parse(Parser* p, const void* data, size_t size, const char*) {
    Model& m = p->network->model;
    std::string text(static_cast<const char*>(data), size);
    if (getenv("STUB_MODEL")) text = getenv("STUB_MODEL");  // a real ONNX file is not read
    int found = sscanf(text.c_str(), "STUB %ld %ld %ld %ld %ld", &m.batch, &m.channels, &m.height,
                       &m.width, &m.classes);
    p->failed = found != 5;
    return !p->failed;
}
extern "C" void* createNvOnnxParser_INTERNAL(void* net, void*, int) {
    static Function slots[100];
    static bool filled = false;
    if (!filled) Fill<11, 99>::into(slots);
    filled = true;
    slots[IParser_destroy] = slots[IParser_destroy + 1] = reinterpret_cast<Function>(&destroyed);
    slots[IParser_parse] = reinterpret_cast<Function>(&parse);
    slots[IParser_getNbErrors] =
        reinterpret_cast<Function>(+[](Parser* p) { return int32_t(p->failed); });
    static Function error_slots[100];
    Fill<12, 99>::into(error_slots);
    const char* (*text)(void*) = +[](void*) { return "unsupported data type"; };
    error_slots[IParserError_desc] = reinterpret_cast<Function>(text);
    error_slots[IParserError_node] = reinterpret_cast<Function>(+[](void*) { return int32_t(7); });
    text = +[](void*) { return "blocks.0.norm1"; };
    error_slots[IParserError_nodeName] = reinterpret_cast<Function>(text);
    text = +[](void*) { return "LayerNormalization"; };
    error_slots[IParserError_nodeOperator] = reinterpret_cast<Function>(text);
    slots[IParser_getError] = reinterpret_cast<Function>(+[](Parser*, int32_t) {
        static Callback error{error_slots};
        return (void*)&error;
    });
    return new Parser{slots, state_of<Network>(net), false};
}

// ---- running ------------------------------------------------------------------------------
struct Run {
    Context* context;
    long batch;
    float *image, *logits;
};
static void run(void* state) {  // logits[b][c] = (c + 1) * mean of image b
    Run* what = static_cast<Run*>(state);
    const Model& m = what->context->engine->model;
    long pixels = m.channels * m.height * m.width;
    for (long b = 0; b < what->batch; ++b) {
        double mean = 0;
        for (long i = 0; i < pixels; ++i) mean += what->image[b * pixels + i];
        for (long c = 0; c < m.classes; ++c)
            what->logits[b * m.classes + c] = float((c + 1) * mean / pixels);
    }
}
static bool execute(Context* c, void* stream) {
    if (!stream || !c->batch || !c->image || !c->logits) {
        say(1, "stub: no stream, shape or addresses");
        return false;
    }
    std::string batch = " " + std::to_string(c->batch);
    if (c->kernels && c->kernels->find(batch) == std::string::npos) *c->kernels += batch;
    enqueue(run, new Run{c, c->batch, c->image, c->logits});
    if (c->profiler) {
        using Report = void (*)(Callback*, const char*, float);
        auto report = reinterpret_cast<Report>(c->profiler->table[IProfiler_reportLayerTime]);
        report(c->profiler, "__myl_CastMean_myl0_0", 0.25f);
        report(c->profiler, "head/MatMul_myl0_1", 0.5f);
    }
    return true;
}
static const char* inspected =
    "{\"Layers\": [{\"Name\": \"head/MatMul_myl0_1\", \"LayerType\": \"gemm\", \"Inputs\": [{\"Name\":"
    " \"x\", \"Dimensions\": [1,4], \"Format/Datatype\": \"Int8\"}], \"Outputs\": [], \"TacticName\":"
    " \"sm80_xmma_gemm_i8i8\", \"Metadata\": \"[ONNX Layer: head/MatMul]\"}], \"Bindings\": []}";

static void* context(Engine* engine, int32_t) {
    Context* made = new Context();
    made->engine = engine;
    set<9>(VExecutionContext_setInputShape, +[](Context* c, const char* name, const Dims& dims) {
        bool fits = dims.sizes[0] >= c->engine->smallest && dims.sizes[0] <= c->engine->largest;
        c->batch = dims.sizes[0];
        return fits && strcmp(name, "image") == 0 && dims.sizes[3] == c->engine->model.width;
    });
    set<9>(VExecutionContext_setTensorAddress, +[](Context* c, const char* name, void* data) {
        (strcmp(name, "image") == 0 ? c->image : c->logits) = static_cast<float*>(data);
        return true;
    });
    set<9>(VExecutionContext_enqueueV3, &execute);
    set<9>(VExecutionContext_setProfiler, +[](Context* c, Callback* p) { c->profiler = p; });
    set<9>(VExecutionContext_getProfiler, +[](Context* c) { return c->profiler; });
    return object<9>(made);
}

// ---- TensorRT for RTX: validity of engines, and the kernels that are kept -------------------
struct Kernels : Implementation {
    std::string bytes = "KERNELS for";
};
struct Settings : Implementation {
    int graphs = -1, specialization = -1;  // CudaGraphStrategy, DynamicShapesKernelSpecialization
    Kernels* kernels = nullptr;
};

static Outer* kernels() {
    Kernels* made = new Kernels();
    set<15>(VRuntimeCache_serialize, +[](Kernels* k) { return (void*)memory(k->bytes); });
    set<15>(VRuntimeCache_deserialize, +[](Kernels* k, const void* data, size_t size) {
        std::string given(static_cast<const char*>(data), size);
        if (given.find("KERNELS for") != 0) return false;
        k->bytes = given;
        return true;
    });
    return object<15>(made);
}

static void* settings(Engine*) {
    Settings* made = new Settings();
    set<14>(VRuntimeConfig_setCudaGraphStrategy, +[](Settings* s, int32_t v) {
        s->graphs = v;
        return true;
    });
    set<14>(VRuntimeConfig_setDynamicShapesKernelSpecializationStrategy,
            +[](Settings* s, int32_t v) {
                s->specialization = v;
                return true;
            });
    set<14>(VRuntimeConfig_createRuntimeCache, +[](Settings*) { return (void*)kernels(); });
    set<14>(VRuntimeConfig_setRuntimeCache, +[](Settings* s, Outer* given) {
        s->kernels = state_of<Kernels>(given);
        return true;
    });
    return object<14>(made);
}

static void* configured(Engine* engine, Outer* given) {
    Settings* s = state_of<Settings>(given);
    if (s->graphs != 0 || s->specialization != 1 || !s->kernels) {
        say(1, "stub: graphs are on, kernels are specialised lazily, or none are kept");
        return nullptr;
    }
    Outer* made = static_cast<Outer*>(context(engine, 0));
    state_of<Context>(made)->kernels = &s->kernels->bytes;
    return made;
}

static int32_t validity(Any*, const void* data, int64_t size, uint64_t* told) {
    std::string text(static_cast<const char*>(data), size);
    *told = getenv("STUB_DIAGNOSIS") ? atoi(getenv("STUB_DIAGNOSIS")) : 0;
    if (text.find("PLAN") != 0) *told |= 32;
    if (*told) say(0, "stub: the engine is invalid");
    return *told ? 2 : 0;
}

static void* deserialize(Any*, const void* data, size_t size) {
    Engine* made = new Engine();
    std::string text(static_cast<const char*>(data), size);
    Model& m = made->model;
    int found = sscanf(text.c_str(), "PLAN %ld %ld %ld %ld %ld %ld %ld", &m.batch, &made->smallest,
                       &made->largest, &m.channels, &m.height, &m.width, &m.classes);
    if (found != 7) {
        say(1, "stub: the engine plan file is not compatible with this version of TensorRT");
        return nullptr;
    }
    set<8>(VCudaEngine_getNbIOTensors, +[](Engine*) { return int32_t(2); });
    set<8>(VCudaEngine_getIOTensorName,
           +[](Engine*, int32_t i) { return i == 0 ? "image" : "logits"; });
    set<8>(VCudaEngine_getTensorIOMode,
           +[](Engine*, const char* name) { return int32_t(strcmp(name, "image") == 0 ? 1 : 2); });
    set<8>(VCudaEngine_getTensorDataType, +[](Engine*, const char*) { return int32_t(0); });
    set<8>(VCudaEngine_getTensorShape, +[](Engine* e, const char* name) {
        if (strcmp(name, "image") == 0) return image_dims(e->model, e->model.batch);
        return Dims{2, {e->model.batch, e->model.classes}};
    });
    set<8>(VCudaEngine_getProfileShape, +[](Engine* e, const char*, int32_t, int32_t which) {
        return image_dims(e->model, which == 2 ? e->largest : e->smallest);
    });
    set<8>(VCudaEngine_createExecutionContext, &context);
    set<8>(VCudaEngine_createRuntimeConfig, &settings);
    set<8>(VCudaEngine_createExecutionContextWithRuntimeConfig, &configured);
    set<8>(VCudaEngine_createEngineInspector, +[](Engine*) {
        set<10>(VEngineInspector_setExecutionContext, +[](Any*, void*) { return true; });
        set<10>(VEngineInspector_getEngineInformation, +[](Any*, int32_t) { return inspected; });
        return (void*)object<10>(new Any());
    });
    return object<8>(made);
}

extern "C" {
void* createInferRuntime_INTERNAL(void* log, int) {
    logger = static_cast<Callback*>(log);
    set<7>(VRuntime_deserializeCudaEngine, &deserialize);
    set<7>(VRuntime_getEngineValidity, &validity);
    return object<7>(new Any());
}
void* createInferRefitter_INTERNAL(void*, void*, int) { return nullptr; }
void* createNvOnnxParserRefitter_INTERNAL(void*, void*, int) { return nullptr; }
void* getBuilderPluginRegistry(int) { return nullptr; }
void* getPluginRegistry() { return nullptr; }
int getNvOnnxParserVersion() { return 0; }
bool initLibNvInferPlugins(void*, const char*) { return true; }
}
