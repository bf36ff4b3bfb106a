// One run: inputs over the caller's memory, Run, outputs read in place.
#define MR_IMPLEMENTATION
#include "api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *memory_info;

mr_call *mr_call_new(void *session, size_t inputs, size_t outputs, mr_error *e) {
	if (!memory_info &&
	    mr_failed(F(CreateCpuMemoryInfo, Status *, (int, int, void **))(0, 0, &memory_info), e))
		return NULL;
	mr_call *c = calloc(1, sizeof *c);
	if (!c) return mr_own_error(e, "out of memory"), NULL;
	c->session = session;
	c->inputs = inputs;
	c->outputs = outputs;
	c->in = calloc(inputs + 1, sizeof *c->in);
	c->out = calloc(outputs + 1, sizeof *c->out);
	c->names = calloc(inputs + 1, sizeof *c->names);
	c->values = calloc(inputs + 1, sizeof *c->values);
	c->results = calloc(outputs + 1, sizeof *c->results);
	if (!c->in || !c->out || !c->names || !c->values || !c->results) {
		mr_call_free(c);
		return mr_own_error(e, "out of memory"), NULL;
	}
	// A kept RunOptions is faster than none, and carries the terminate flag.
	if (mr_failed(F(CreateRunOptions, Status *, (void **))(&c->options), e)) {
		mr_call_free(c);
		return NULL;
	}
	return c;
}

static void release_outputs(mr_call *c) {
	for (size_t i = 0; i < c->outputs; i++) {
		if (c->out[i].value) F(ReleaseValue, void, (Value *))(c->out[i].value);
		c->out[i].value = NULL;
		c->out[i].elem = 0;
	}
}

void mr_call_free(mr_call *c) {
	if (c->out && c->results) release_outputs(c);
	for (size_t i = 0; c->out && i < c->outputs; i++) {
		free(c->out[i].own);
		free(c->out[i].keys);
	}
	if (c->options) F(ReleaseRunOptions, void, (void *))(c->options);
	free(c->in);
	free(c->out);
	free(c->names);
	free(c->values);
	free(c->results);
	free(c->offsets);
	free(c);
}

void mr_terminate(mr_call *c) {
	Status *s = F(RunOptionsSetTerminate, Status *, (void *))(c->options);
	if (s) F(ReleaseStatus, void, (Status *))(s);
}

// string_input makes a string tensor of length-prefixed elements.
static Value *string_input(mr_call *c, const mr_tensor *t) {
	void *allocator = NULL;
	Value *v = NULL;
	if (mr_failed(F(GetAllocatorWithDefaultOptions, Status *, (void **))(&allocator), &c->error) ||
	    mr_failed(F(CreateTensorAsOrtValue, Status *, (void *, const int64_t *, size_t, int, Value **))(
		              allocator, t->shape, t->rank, ELEM_STRING, &v), &c->error))
		return NULL;
	const unsigned char *p = (const unsigned char *)t->data, *end = p + t->bytes;
	for (size_t i = 0; end - p >= 4; i++) {
		size_t n = p[0] | p[1] << 8 | p[2] << 16 | (size_t)p[3] << 24;
		p += 4;
		char *buffer = NULL;
		if (n > (size_t)(end - p) ||
		    mr_failed(F(GetResizedStringTensorElementBuffer, Status *, (Value *, size_t, size_t, char **))(
			              v, i, n, &buffer), &c->error)) {
			F(ReleaseValue, void, (Value *))(v);
			return NULL;
		}
		memcpy(buffer, p, n);
		p += n;
	}
	return v;
}

static int make_inputs(mr_call *c, size_t *n) {
	*n = 0;
	for (size_t i = 0; i < c->inputs; i++) {
		mr_tensor *t = &c->in[i];
		if (t->rank < 0) continue;
		Value *v = NULL;
		if (t->elem == ELEM_STRING) {
			v = string_input(c, t);
		} else {
			mr_failed(F(CreateTensorWithDataAsOrtValue, Status *,
			            (const void *, void *, size_t, const int64_t *, size_t, int, Value **))(
				          memory_info, (void *)t->data, t->bytes, t->shape, t->rank, t->elem, &v), &c->error);
		}
		if (!v) return -1;
		c->names[*n] = c->input_names[i];
		c->values[(*n)++] = v;
	}
	return 0;
}

int mr_run(mr_call *c) {
	size_t n = 0;
	c->error.code = 0;
	release_outputs(c);
	int failed = make_inputs(c, &n);
	if (!failed) {
		memset(c->results, 0, c->outputs * sizeof *c->results);
		failed = mr_failed(
			F(Run, Status *, (void *, const void *, const char *const *, const Value *const *, size_t,
		                      const char *const *, size_t, Value **))(
				c->session, c->options, c->names, (const Value *const *)c->values, n,
				(const char *const *)c->output_names, c->outputs, c->results),
			&c->error);
	}
	for (size_t i = 0; i < n; i++) F(ReleaseValue, void, (Value *))(c->values[i]);
	if (failed) {
		// The flag of Terminate is sticky.
		Status *s = F(RunOptionsUnsetTerminate, Status *, (void *))(c->options);
		if (s) F(ReleaseStatus, void, (Status *))(s);
		return -1;
	}
	for (size_t i = 0; i < c->outputs; i++) c->out[i].value = c->results[i];
	for (size_t i = 0; i < c->outputs; i++)
		if (mr_convert(c, &c->out[i])) return -1;
	return 0;
}
