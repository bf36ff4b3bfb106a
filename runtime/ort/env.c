// The environment: loading the library, log lines, providers, sessions.
#define _GNU_SOURCE
#define MR_IMPLEMENTATION
#include "api.h"

#include <dlfcn.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void **mr_api;
void *mr_memory_info;
static const char *version;
static void *env;
static int log_fd = -1;

int mr_own_error(mr_error *e, const char *text) {
	e->code = -1;
	snprintf(e->text, MR_TEXT, "%s", text);
	return -1;
}

int mr_failed(Status *s, mr_error *e) {
	if (!s) return 0;
	e->code = F(GetErrorCode, int, (const Status *))(s);
	snprintf(e->text, MR_TEXT, "%s", F(GetErrorMessage, const char *, (const Status *))(s));
	F(ReleaseStatus, void, (Status *))(s);
	return -1;
}

// on_log is called by ONNX Runtime on any thread. It writes one record, small
// enough to be atomic, to a pipe that does not block: a full pipe drops it.
static void on_log(void *param, int severity, const char *category, const char *id,
                   const char *place, const char *message) {
	(void)param, (void)category, (void)place;
	char record[3072];
	int n = snprintf(record, sizeof record - 1, "%d\x1f%s\x1f%s", severity, id ? id : "",
	                 message ? message : "");
	if (n < 0) return;
	if (n > (int)sizeof record - 2) n = sizeof record - 2;
	for (int i = 0; i < n; i++)
		if (record[i] == '\n') record[i] = ' ';
	record[n++] = '\n';
	ssize_t written = write(log_fd, record, n);
	(void)written;
}

// What is larger than LARGE has pages of its own and goes back to the system at once when it is
// freed, and so does what is free beyond SPARE at the end of a heap. By itself the C library moves
// both up to the largest block that was ever freed, 32 MB and 64 MB at most, and keeps that much in
// each of its heaps after a model has gone: mr_trim reaches only what lies between used blocks.
enum { LARGE = 1 << 20, SPARE = 2 << 20 };

int mr_open(const char *library, int fd, int level, mr_error *e) {
	mallopt(M_MMAP_THRESHOLD, LARGE);
	mallopt(M_TRIM_THRESHOLD, SPARE);
	void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
	if (!handle) return mr_own_error(e, dlerror());
	const mr_base *(*base)(void) = (const mr_base *(*)(void))dlsym(handle, "OrtGetApiBase");
	if (!base) return mr_own_error(e, "it is not an ONNX Runtime library");
	version = base()->GetVersionString();
	mr_api = (void **)base()->GetApi(MR_API_VERSION);
	if (!mr_api) {
		snprintf(e->text, MR_TEXT, "version %s is too old: API version %d is needed", version,
		         MR_API_VERSION);
		e->code = -1;
		return -1;
	}
	log_fd = fd;
	if (mr_failed(F(CreateCpuMemoryInfo, Status *, (int, int, void **))(0, 0, &mr_memory_info), e) ||
	    mr_failed(F(CreateEnvWithCustomLogger, Status *, (void *, void *, int, const char *, void **))(
		              (void *)on_log, NULL, level, "millrace", &env), e)) {
		log_fd = -1;
		return -1;
	}
	return mr_catch_traps(e);
}

const char *mr_version(void) { return version; }

int mr_providers(char ***list, int *n, mr_error *e) {
	return mr_failed(F(GetAvailableProviders, Status *, (char ***, int *))(list, n), e);
}

void mr_providers_free(char **list, int n) {
	Status *s = F(ReleaseAvailableProviders, Status *, (char **, int))(list, n);
	if (s) F(ReleaseStatus, void, (Status *))(s);
}

int mr_set_options(void *options, const char *log_id, int parallel, mr_error *e) {
	if (mr_failed(F(SetSessionLogId, Status *, (void *, const char *))(options, log_id), e)) return -1;
	return mr_failed(F(SetSessionExecutionMode, Status *, (void *, int))(options, parallel), e);
}

void *mr_session(const char *path, void *options, mr_error *e) {
	void *session = NULL;
	mr_failed(F(CreateSession, Status *, (void *, const char *, void *, void **))(env, path, options,
	                                                                              &session), e);
	return session;
}

void mr_session_close(void *session) { F(ReleaseSession, void, (void *))(session); }

int mr_counts(void *session, size_t *inputs, size_t *outputs, mr_error *e) {
	if (mr_failed(F(SessionGetInputCount, Status *, (void *, size_t *))(session, inputs), e)) return -1;
	return mr_failed(F(SessionGetOutputCount, Status *, (void *, size_t *))(session, outputs), e);
}

static void *allocator(void) {
	void *a = NULL;
	Status *s = F(GetAllocatorWithDefaultOptions, Status *, (void **))(&a);
	if (s) F(ReleaseStatus, void, (Status *))(s);
	return a;
}

static int describe_tensor(const void *tensor, mr_spec *spec, mr_error *e) {
	size_t rank = 0;
	const char *names[MR_MAX_RANK] = {0};
	if (mr_failed(F(GetTensorElementType, Status *, (const void *, int *))(tensor, &spec->elem), e) ||
	    mr_failed(F(GetDimensionsCount, Status *, (const void *, size_t *))(tensor, &rank), e))
		return -1;
	if (rank > MR_MAX_RANK) return mr_own_error(e, "a tensor has more than 32 dimensions");
	if (mr_failed(F(GetDimensions, Status *, (const void *, int64_t *, size_t))(tensor, spec->shape,
	                                                                            rank), e) ||
	    mr_failed(F(GetSymbolicDimensions, Status *, (const void *, const char **, size_t))(
		              tensor, names, rank), e))
		return -1;
	spec->rank = rank;
	for (size_t d = 0; d < rank; d++) {
		// The names die with the type info.
		if (names[d] && *names[d] && !(spec->dim_names[d] = strdup(names[d])))
			return mr_own_error(e, "out of memory");
	}
	return 0;
}

static int describe_type(const void *info, mr_spec *spec, mr_error *e);

// describe_inner describes what an optional or a sequence holds and releases
// its type info.
static int describe_inner(void *inner, mr_spec *spec, mr_error *e) {
	int failed = describe_type(inner, spec, e);
	F(ReleaseTypeInfo, void, (void *))(inner);
	return failed;
}

static int describe_optional(const void *info, mr_spec *spec, mr_error *e) {
	const void *optional = NULL;
	void *inner = NULL;
	if (mr_failed(F(CastTypeInfoToOptionalTypeInfo, Status *, (const void *, const void **))(
		              info, &optional), e) ||
	    mr_failed(F(GetOptionalContainedTypeInfo, Status *, (const void *, void **))(optional, &inner), e))
		return -1;
	return describe_inner(inner, spec, e);
}

static int describe_sequence(const void *info, mr_spec *spec, mr_error *e) {
	const void *sequence = NULL;
	void *inner = NULL;
	if (mr_failed(F(CastTypeInfoToSequenceTypeInfo, Status *, (const void *, const void **))(
		              info, &sequence), e) ||
	    mr_failed(F(GetSequenceElementType, Status *, (const void *, void **))(sequence, &inner), e) ||
	    describe_inner(inner, spec, e))
		return -1;
	if (spec->rank >= MR_MAX_RANK) return mr_own_error(e, "a tensor has more than 32 dimensions");
	memmove(spec->shape + 1, spec->shape, spec->rank * sizeof spec->shape[0]);
	memmove(spec->dim_names + 1, spec->dim_names, spec->rank * sizeof spec->dim_names[0]);
	spec->shape[0] = -1;
	spec->dim_names[0] = NULL;
	spec->rank++;
	return 0;
}

// describe_type fills in what a type info says. Maps are served as rows of
// numbers, sequences as one more dimension in front.
static int describe_type(const void *info, mr_spec *spec, mr_error *e) {
	int kind = 0;
	const void *tensor = NULL;
	if (mr_failed(F(GetOnnxTypeFromTypeInfo, Status *, (const void *, int *))(info, &kind), e)) return -1;
	switch (kind) {
	case KIND_TENSOR:
		if (mr_failed(F(CastTypeInfoToTensorInfo, Status *, (const void *, const void **))(info, &tensor), e))
			return -1;
		return describe_tensor(tensor, spec, e);
	case KIND_MAP:
		spec->container = 1;
		spec->elem = ELEM_FLOAT;
		spec->rank = 1;
		spec->shape[0] = -1;
		return 0;
	case KIND_OPTIONAL:
		spec->optional = 1;
		return describe_optional(info, spec, e);
	case KIND_SEQUENCE:
		spec->container = 1;
		return describe_sequence(info, spec, e);
	}
	return mr_own_error(e, "it is neither a tensor nor a sequence or map of numbers");
}

int mr_describe(void *session, int output, size_t i, mr_spec *spec, mr_error *e) {
	memset(spec, 0, sizeof *spec);
	void *info = NULL;
	Status *s;
	if (output) {
		s = F(SessionGetOutputName, Status *,
		      (void *, size_t, void *, char **))(session, i, allocator(), &spec->name);
	} else {
		s = F(SessionGetInputName, Status *,
		      (void *, size_t, void *, char **))(session, i, allocator(), &spec->name);
	}
	if (mr_failed(s, e)) return -1;
	if (output) {
		s = F(SessionGetOutputTypeInfo, Status *, (void *, size_t, void **))(session, i, &info);
	} else {
		s = F(SessionGetInputTypeInfo, Status *, (void *, size_t, void **))(session, i, &info);
	}
	if (mr_failed(s, e)) return -1;
	return describe_inner(info, spec, e);
}

void mr_spec_free(mr_spec *spec) {
	for (int d = 0; d < spec->rank; d++) free(spec->dim_names[d]);
	if (spec->name) {
		Status *s = F(AllocatorFree, Status *, (void *, void *))(allocator(), spec->name);
		if (s) F(ReleaseStatus, void, (Status *))(s);
	}
	spec->name = NULL;
	spec->rank = 0;
}

void mr_trim(void) { malloc_trim(0); }
