// The part of ONNX Runtime's C API that is used here, without its header: the
// API is a table of functions whose places never change, so a place and a
// signature are all that a call needs. slots_test.go holds every place against
// the header that comes with the Go binding.
#ifndef MILLRACE_ORT_API_H
#define MILLRACE_ORT_API_H

#include <stddef.h>
#include <stdint.h>

enum { MR_API_VERSION = 24, MR_MAX_RANK = 32, MR_TEXT = 2048 };

typedef struct {
	const void *(*GetApi)(uint32_t version);
	const char *(*GetVersionString)(void);
} mr_base;

// Status is ONNX Runtime's OrtStatus; NULL is success.
typedef void Status;
typedef void Value;
typedef void Info;

enum mr_slot {
	SLOT_GetErrorCode = 1,
	SLOT_GetErrorMessage = 2,
	SLOT_CreateEnvWithCustomLogger = 4,
	SLOT_CreateSession = 7,
	SLOT_Run = 9,
	SLOT_SetSessionExecutionMode = 13,
	SLOT_SetSessionLogId = 20,
	SLOT_SessionGetInputCount = 30,
	SLOT_SessionGetOutputCount = 31,
	SLOT_SessionGetInputTypeInfo = 33,
	SLOT_SessionGetOutputTypeInfo = 34,
	SLOT_SessionGetInputName = 36,
	SLOT_SessionGetOutputName = 37,
	SLOT_CreateRunOptions = 39,
	SLOT_RunOptionsSetTerminate = 46,
	SLOT_RunOptionsUnsetTerminate = 47,
	SLOT_CreateTensorAsOrtValue = 48,
	SLOT_CreateTensorWithDataAsOrtValue = 49,
	SLOT_GetTensorMutableData = 51,
	SLOT_GetStringTensorDataLength = 53,
	SLOT_GetStringTensorContent = 54,
	SLOT_CastTypeInfoToTensorInfo = 55,
	SLOT_GetOnnxTypeFromTypeInfo = 56,
	SLOT_GetTensorElementType = 60,
	SLOT_GetDimensionsCount = 61,
	SLOT_GetDimensions = 62,
	SLOT_GetSymbolicDimensions = 63,
	SLOT_GetTensorTypeAndShape = 65,
	SLOT_GetValueType = 67,
	SLOT_CreateCpuMemoryInfo = 69,
	SLOT_AllocatorFree = 76,
	SLOT_GetAllocatorWithDefaultOptions = 78,
	SLOT_GetValue = 80,
	SLOT_GetValueCount = 81,
	SLOT_ReleaseStatus = 93,
	SLOT_ReleaseSession = 95,
	SLOT_ReleaseValue = 96,
	SLOT_ReleaseRunOptions = 97,
	SLOT_ReleaseTypeInfo = 98,
	SLOT_ReleaseTensorTypeAndShapeInfo = 99,
	SLOT_CastTypeInfoToSequenceTypeInfo = 104,
	SLOT_GetSequenceElementType = 107,
	SLOT_GetAvailableProviders = 125,
	SLOT_ReleaseAvailableProviders = 126,
	SLOT_HasValue = 192,
	SLOT_CastTypeInfoToOptionalTypeInfo = 250,
	SLOT_GetOptionalContainedTypeInfo = 251,
	SLOT_GetResizedStringTensorElementBuffer = 252,
};

// Kinds of values, ONNX Runtime's ONNXType.
enum { KIND_TENSOR = 1, KIND_SEQUENCE = 2, KIND_MAP = 3, KIND_OPTIONAL = 6 };

// Element types, ONNX Runtime's ONNXTensorElementDataType.
enum { ELEM_FLOAT = 1, ELEM_INT64 = 7, ELEM_STRING = 8, ELEM_DOUBLE = 11 };

// mr_error is what went wrong: code is ONNX Runtime's, -1 for our own.
typedef struct {
	int code;
	char text[MR_TEXT];
} mr_error;

// mr_tensor is an input, filled by the caller.
typedef struct {
	const char *data;
	size_t bytes;
	int elem;
	int rank; // -1: the input is left out
	int64_t shape[MR_MAX_RANK];
} mr_tensor;

// mr_output is an output. data points into value, or into own where the value
// had to be converted (strings, maps, sequences).
typedef struct {
	Value *value;
	char *data;
	size_t bytes;
	int elem; // 0: no value (an empty optional)
	int rank;
	int64_t shape[MR_MAX_RANK];
	char *own;
	size_t own_size;
	char *keys; // of maps: length-prefixed decimal numbers or strings
	size_t keys_len, keys_size;
	int is_map;
	int declared_elem, declared_rank; // what the model says of it, for an empty sequence
	int64_t declared_shape[MR_MAX_RANK];
} mr_output;

// mr_call is the workspace of one run at a time.
typedef struct {
	void *session, *options;
	size_t inputs, outputs;
	char **input_names, **output_names;
	mr_tensor *in;
	mr_output *out;
	const char **names; // scratch: names and values of the inputs that are there
	Value **values;
	Value **results;
	size_t *offsets; // scratch for strings
	size_t offsets_size;
	mr_error error;
} mr_call;

// mr_thread is a thread that makes one run at a time, of call, when begin is written to, and
// writes to over when what mr_run has returned is in failed. Both are eventfds.
typedef struct {
	int begin, over;
	mr_call *call;
	int failed;
} mr_thread;

// mr_spec describes an input or output of a session. Dimensions are -1 where
// they vary. mr_spec_free frees the names.
typedef struct {
	int optional;  // may be absent
	int container; // holds maps or a sequence
	int elem, rank;
	int64_t shape[MR_MAX_RANK];
	char *dim_names[MR_MAX_RANK]; // NULL where there is none
	char *name;
} mr_spec;

int mr_open(const char *library, int log_fd, int level, mr_error *e);
const char *mr_version(void);
int mr_providers(char ***list, int *n, mr_error *e);
void mr_providers_free(char **list, int n);
int mr_set_options(void *options, const char *log_id, int parallel, mr_error *e);
void *mr_session(const char *path, void *options, mr_error *e);
void mr_session_close(void *session);
int mr_counts(void *session, size_t *inputs, size_t *outputs, mr_error *e);
int mr_describe(void *session, int output, size_t i, mr_spec *spec, mr_error *e);
void mr_spec_free(mr_spec *spec);
mr_call *mr_call_new(void *session, size_t inputs, size_t outputs, mr_error *e);
void mr_call_free(mr_call *c);
int mr_run(mr_call *c);
mr_thread *mr_thread_new(void);
void mr_terminate(mr_call *c);
int mr_catch_traps(mr_error *e);
void mr_trim(void);

#ifdef MR_IMPLEMENTATION
// F casts the function in a slot: F(Run, Status *, (args...)).
extern void **mr_api;
extern void *mr_memory_info; // of memory of the CPU
#define F(name, result, args) ((result (*) args)mr_api[SLOT_##name])
int mr_failed(Status *s, mr_error *e);
int mr_own_error(mr_error *e, const char *text);
int mr_convert(mr_call *c, mr_output *o);
int mr_count(int rank, const int64_t *shape, size_t *n);
#endif

#endif
