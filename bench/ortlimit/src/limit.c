// limit measures ONNX Runtime called from C: the most that any server can get
// out of it. It reads commands from stdin, one a line, fields parted by tabs,
// and answers each with a line of JSON:
//
//   load NAME PATH [INPUT DIMS [VALUE]]...   a session; DIMS as "N,3,48,192"
//   run NAME BATCH THREADS MILLISECONDS      all threads on that one session
//
// Inputs that load does not name get the shape of the model: a variable first
// dimension is the batch (N), other variable dimensions are 1. Floats are
// random in [0, 1), all else is VALUE or 0.
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "onnxruntime_c_api.h"

enum { MAX_FIELDS = 64, MAX_VALUES = 16, MAX_DIMS = 8, MAX_THREADS = 64 };
enum { MAX_SAMPLES = 1 << 18 };  // latencies kept by each thread
enum { BATCH = -1 };             // stands for the batch size in dims

typedef struct {
  char* name;
  ONNXTensorElementDataType type;
  int64_t dims[MAX_DIMS];
  size_t rank;
  double value;
} Input;

typedef struct Model {
  char* name;
  OrtSession* session;
  Input inputs[MAX_VALUES];
  size_t n_inputs;
  char* outputs[MAX_VALUES];
  int tensor_output[MAX_VALUES];  // others are made anew by each run
  size_t n_outputs;
  struct Model* next;
} Model;

typedef struct {
  Model* model;
  int batch;
  int64_t until;  // ns; the thread starts no run after that
  pthread_barrier_t* start;
  pthread_t thread;

  int64_t runs;
  int64_t started, ended;  // ns
  double* samples;         // us
  size_t n_samples;
  int64_t for_ns;
  char error[512];
} Caller;

static const OrtApi* api;
static OrtEnv* env;
static OrtMemoryInfo* cpu;
static OrtAllocator* allocator;
static Model* models;
static char failure[512];  // of the main thread

// failed copies the text of a status that is not OK and frees it.
static int failed(OrtStatus* s, char* text, size_t size) {
  if (s == NULL) return 0;
  snprintf(text, size, "%s", api->GetErrorMessage(s));
  api->ReleaseStatus(s);
  return 1;
}

#define TRY(call)                                                 \
  do {                                                            \
    if (failed((call), failure, sizeof failure)) return 0;        \
  } while (0)

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static size_t element_size(ONNXTensorElementDataType t) {
  switch (t) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64: return 8;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32: return 4;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16: return 2;
    default: return 1;
  }
}

static void fill(void* data, const Input* in, size_t count, uint64_t seed) {
  for (size_t i = 0; i < count; i++) {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    switch (in->type) {
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
        ((float*)data)[i] = (seed >> 40) / (float)(1 << 24);
        break;
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE:
        ((double*)data)[i] = (seed >> 11) / (double)(1LL << 53);
        break;
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
        ((int64_t*)data)[i] = (int64_t)in->value;
        break;
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
        ((int32_t*)data)[i] = (int32_t)in->value;
        break;
      default:  // zeros, as they came
        break;
    }
  }
}

// make_input returns a tensor of the batch, or NULL and an error.
static OrtValue* make_input(const Input* in, int batch, uint64_t seed, char* error, size_t size) {
  int64_t dims[MAX_DIMS];
  size_t count = 1;
  for (size_t i = 0; i < in->rank; i++) {
    dims[i] = in->dims[i] == BATCH ? batch : in->dims[i];
    count *= dims[i];
  }
  OrtValue* v = NULL;
  if (in->type == ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING) {
    if (failed(api->CreateTensorAsOrtValue(allocator, dims, in->rank, in->type, &v), error, size))
      return NULL;
    for (size_t i = 0; i < count; i++)
      if (failed(api->FillStringTensorElement(v, "1", i), error, size)) return NULL;
    return v;
  }
  size_t bytes = count * element_size(in->type);
  size_t room = (bytes + 64) / 64 * 64;
  void* data = aligned_alloc(64, room);
  memset(data, 0, room);
  fill(data, in, count, seed);
  if (failed(api->CreateTensorWithDataAsOrtValue(cpu, data, bytes, dims, in->rank, in->type, &v),
             error, size))
    return NULL;
  return v;  // the data lives as long as the process or until free_input
}

static void free_input(OrtValue* v, const Input* in) {
  void* data = NULL;
  if (v == NULL) return;
  if (in->type != ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING) {
    OrtStatus* s = api->GetTensorMutableData(v, &data);
    if (s != NULL) api->ReleaseStatus(s);
  }
  api->ReleaseValue(v);
  free(data);
}

// call runs the model again and again until the time is over. The outputs of
// the first run are the buffers of all later ones.
static void* call(void* arg) {
  Caller* c = arg;
  Model* m = c->model;
  OrtValue* in[MAX_VALUES] = {0};
  OrtValue* out[MAX_VALUES] = {0};
  const char* names[MAX_VALUES];
  for (size_t i = 0; i < m->n_inputs; i++) {
    names[i] = m->inputs[i].name;
    in[i] = make_input(&m->inputs[i], c->batch, 88172645463325252ULL + i + 977 * (uintptr_t)c,
                       c->error, sizeof c->error);
  }
  for (int warm = 1, more = 1; more && c->error[0] == 0;) {
    int64_t before = now();
    if (failed(api->Run(m->session, NULL, names, (const OrtValue* const*)in, m->n_inputs,
                        (const char* const*)m->outputs, m->n_outputs, out),
               c->error, sizeof c->error))
      break;
    int64_t after = now();
    for (size_t i = 0; i < m->n_outputs; i++) {
      if (m->tensor_output[i]) continue;
      api->ReleaseValue(out[i]);
      out[i] = NULL;
    }
    if (warm) {
      warm = 0;
      pthread_barrier_wait(c->start);
      c->started = now();
      c->until = c->started + c->for_ns;
      continue;
    }
    c->runs++;
    if (c->n_samples < MAX_SAMPLES) c->samples[c->n_samples++] = (after - before) / 1e3;
    c->ended = after;
    more = after < c->until;
  }
  if (c->started == 0) pthread_barrier_wait(c->start);  // the others shall not hang
  for (size_t i = 0; i < m->n_outputs; i++)
    if (out[i] != NULL) api->ReleaseValue(out[i]);
  for (size_t i = 0; i < m->n_inputs; i++) free_input(in[i], &m->inputs[i]);
  return NULL;
}

static int by_value(const void* a, const void* b) {
  double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

// report sums the callers up.
static int report(Caller* callers, int n, int batch) {
  double rate = 0;
  int64_t runs = 0;
  size_t count = 0;
  for (int i = 0; i < n; i++) {
    if (callers[i].error[0] != 0) {
      snprintf(failure, sizeof failure, "%s", callers[i].error);
      return 0;
    }
    runs += callers[i].runs;
    rate += callers[i].runs * (double)batch / ((callers[i].ended - callers[i].started) / 1e9);
    count += callers[i].n_samples;
  }
  double* all = malloc((count + 1) * sizeof *all);
  size_t at = 0;
  for (int i = 0; i < n; i++) {
    memcpy(all + at, callers[i].samples, callers[i].n_samples * sizeof *all);
    at += callers[i].n_samples;
  }
  qsort(all, count, sizeof *all, by_value);
  printf("{\"rows_per_second\": %.3f, \"runs\": %lld, \"p50_us\": %.3f}\n", rate, (long long)runs,
         count == 0 ? 0 : all[count / 2]);
  free(all);
  return 1;
}

static Model* find(const char* name) {
  for (Model* m = models; m != NULL; m = m->next)
    if (strcmp(m->name, name) == 0) return m;
  snprintf(failure, sizeof failure, "no model %s was loaded", name);
  return NULL;
}

static int run(char** field, int fields) {
  if (fields != 5) {
    snprintf(failure, sizeof failure, "run takes 4 fields");
    return 0;
  }
  Model* m = find(field[1]);
  int batch = atoi(field[2]), threads = atoi(field[3]);
  if (m == NULL) return 0;
  int batched = 0;
  for (size_t i = 0; i < m->n_inputs; i++)
    for (size_t k = 0; k < m->inputs[i].rank; k++) batched |= m->inputs[i].dims[k] == BATCH;
  if (threads < 1 || threads > MAX_THREADS || batch < 1 || (batch > 1 && !batched)) {
    snprintf(failure, sizeof failure, "batch or threads out of range, or no batch dimension");
    return 0;
  }
  Caller callers[MAX_THREADS];
  memset(callers, 0, sizeof callers);
  pthread_barrier_t start;
  pthread_barrier_init(&start, NULL, threads);
  for (int i = 0; i < threads; i++) {
    Caller* c = &callers[i];
    c->model = m, c->batch = batch, c->start = &start;
    c->for_ns = atoll(field[4]) * 1000000LL;
    c->samples = malloc(MAX_SAMPLES * sizeof *c->samples);
    pthread_create(&c->thread, NULL, call, c);
  }
  for (int i = 0; i < threads; i++) pthread_join(callers[i].thread, NULL);
  pthread_barrier_destroy(&start);
  int ok = report(callers, threads, batch);
  for (int i = 0; i < threads; i++) free(callers[i].samples);
  return ok;
}

// tensor_info reads type and shape; a value that is no tensor has type 0.
static int tensor_info(OrtTypeInfo* info, Input* in) {
  const OrtTensorTypeAndShapeInfo* t = NULL;
  in->type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  TRY(api->CastTypeInfoToTensorInfo(info, &t));
  if (t == NULL) return 1;
  TRY(api->GetTensorElementType(t, &in->type));
  TRY(api->GetDimensionsCount(t, &in->rank));
  if (in->rank > MAX_DIMS) {
    snprintf(failure, sizeof failure, "more than %d dimensions", MAX_DIMS);
    return 0;
  }
  TRY(api->GetDimensions(t, in->dims, in->rank));
  for (size_t i = 0; i < in->rank; i++)
    if (in->dims[i] < 0) in->dims[i] = i == 0 ? BATCH : 1;
  return 1;
}

static int describe(Model* m) {
  TRY(api->SessionGetInputCount(m->session, &m->n_inputs));
  TRY(api->SessionGetOutputCount(m->session, &m->n_outputs));
  if (m->n_inputs > MAX_VALUES || m->n_outputs > MAX_VALUES) {
    snprintf(failure, sizeof failure, "more than %d inputs or outputs", MAX_VALUES);
    return 0;
  }
  OrtTypeInfo* info;
  for (size_t i = 0; i < m->n_inputs; i++) {
    TRY(api->SessionGetInputName(m->session, i, allocator, &m->inputs[i].name));
    TRY(api->SessionGetInputTypeInfo(m->session, i, &info));
    int ok = tensor_info(info, &m->inputs[i]);
    api->ReleaseTypeInfo(info);
    if (!ok) return 0;
  }
  for (size_t i = 0; i < m->n_outputs; i++) {
    Input out = {0};
    TRY(api->SessionGetOutputName(m->session, i, allocator, &m->outputs[i]));
    TRY(api->SessionGetOutputTypeInfo(m->session, i, &info));
    int ok = tensor_info(info, &out);
    api->ReleaseTypeInfo(info);
    if (!ok) return 0;
    m->tensor_output[i] = out.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  }
  return 1;
}

// shape overrides what the model says of an input.
static int shape(Model* m, const char* name, char* dims, const char* value) {
  for (size_t i = 0; i < m->n_inputs; i++) {
    Input* in = &m->inputs[i];
    if (strcmp(in->name, name) != 0) continue;
    in->rank = 0;
    for (char *rest = dims, *d; (d = strsep(&rest, ",")) != NULL && in->rank < MAX_DIMS;)
      if (*d != 0) in->dims[in->rank++] = strcmp(d, "N") == 0 ? BATCH : atoll(d);
    in->value = atof(value);
    return 1;
  }
  snprintf(failure, sizeof failure, "no input %s", name);
  return 0;
}

static int load(char** field, int fields) {
  if (fields < 3 || fields % 3 != 0) {
    snprintf(failure, sizeof failure, "load takes a name, a path and triples of input");
    return 0;
  }
  OrtSessionOptions* options;
  TRY(api->CreateSessionOptions(&options));
  TRY(api->SetIntraOpNumThreads(options, 1));
  TRY(api->AddSessionConfigEntry(options, "session.intra_op.allow_spinning", "0"));
  Model* m = calloc(1, sizeof *m);
  m->name = strdup(field[1]);
  OrtStatus* s = api->CreateSession(env, field[2], options, &m->session);
  api->ReleaseSessionOptions(options);
  TRY(s);
  if (!describe(m)) return 0;
  for (int i = 3; i < fields; i += 3)
    if (!shape(m, field[i], field[i + 1], field[i + 2])) return 0;
  m->next = models;
  models = m;
  printf("{}\n");
  return 1;
}

static int start(const char* library) {
  void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (handle == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    return 0;
  }
  const OrtApiBase* (*base)(void) = (const OrtApiBase* (*)(void))dlsym(handle, "OrtGetApiBase");
  api = base == NULL ? NULL : base()->GetApi(ORT_API_VERSION);
  if (api == NULL) {
    fprintf(stderr, "%s has no API of version %d\n", library, ORT_API_VERSION);
    return 0;
  }
  TRY(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "limit", &env));
  TRY(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &cpu));
  TRY(api->GetAllocatorWithDefaultOptions(&allocator));
  printf("{\"version\": \"%s\"}\n", base()->GetVersionString());
  return 1;
}

// print_failure answers with the error as JSON; quotes and control characters go.
static void print_failure(void) {
  for (char* p = failure; *p != 0; p++)
    if (*p == '"' || *p == '\\' || (unsigned char)*p < ' ') *p = ' ';
  printf("{\"error\": \"%s\"}\n", failure);
}

int main(int argc, char** argv) {
  if (argc != 2 || !start(argv[1])) {
    fprintf(stderr, "%s\n", argc != 2 ? "usage: limit LIBRARY" : failure);
    return 1;
  }
  fflush(stdout);
  char* line = NULL;
  size_t size = 0;
  ssize_t n;
  while ((n = getline(&line, &size, stdin)) > 0) {
    if (line[n - 1] == '\n') line[n - 1] = 0;
    char* field[MAX_FIELDS];
    int fields = 0;
    for (char *rest = line, *f; fields < MAX_FIELDS && (f = strsep(&rest, "\t")) != NULL;)
      field[fields++] = f;
    failure[0] = 0;
    int ok = 0;
    if (strcmp(field[0], "load") == 0) ok = load(field, fields);
    else if (strcmp(field[0], "run") == 0) ok = run(field, fields);
    else snprintf(failure, sizeof failure, "unknown command");
    if (!ok) print_failure();
    fflush(stdout);
  }
  return 0;
}
