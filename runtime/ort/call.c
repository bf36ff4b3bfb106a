// One run: inputs over the caller's memory, Run, outputs read in place.
#define _GNU_SOURCE
#define MR_IMPLEMENTATION
#include "api.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

mr_call *mr_call_new(void *session, size_t inputs, size_t outputs, mr_error *e) {
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

// fill_strings sets the elements of a string tensor from length-prefixed ones,
// which must be exactly as many.
static int fill_strings(mr_call *c, const mr_tensor *t, Value *v) {
	const unsigned char *p = (const unsigned char *)t->data, *end = p + t->bytes;
	size_t count = 0;
	if (mr_count(t->rank, t->shape, &count)) return mr_own_error(&c->error, "an input is too large");
	for (size_t i = 0; i < count; i++) {
		size_t n = 0;
		char *buffer = NULL;
		if (end - p >= 4) n = p[0] | p[1] << 8 | p[2] << 16 | (size_t)p[3] << 24;
		if (end - p < 4 || n > (size_t)(end - p) - 4)
			return mr_own_error(&c->error, "the elements of a string input are cut short");
		p += 4;
		if (mr_failed(F(GetResizedStringTensorElementBuffer, Status *, (Value *, size_t, size_t, char **))(
			              v, i, n, &buffer), &c->error))
			return -1;
		memcpy(buffer, p, n);
		p += n;
	}
	if (p != end) return mr_own_error(&c->error, "a string input has more elements than its shape");
	return 0;
}

static Value *string_input(mr_call *c, const mr_tensor *t) {
	void *allocator = NULL;
	Value *v = NULL;
	if (mr_failed(F(GetAllocatorWithDefaultOptions, Status *, (void **))(&allocator), &c->error) ||
	    mr_failed(F(CreateTensorAsOrtValue, Status *, (void *, const int64_t *, size_t, int, Value **))(
		              allocator, t->shape, t->rank, ELEM_STRING, &v), &c->error))
		return NULL;
	if (!fill_strings(c, t, v)) return v;
	F(ReleaseValue, void, (Value *))(v);
	return NULL;
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
				          mr_memory_info, (void *)t->data, t->bytes, t->shape, t->rank, t->elem, &v), &c->error);
		}
		if (!v) return -1;
		c->names[*n] = c->input_names[i];
		c->values[(*n)++] = v;
	}
	return 0;
}

// Where a run goes on when the processor traps in it; NULL outside of runs.
static __thread sigjmp_buf *escape __attribute__((tls_model("initial-exec")));
static struct sigaction go_trap;

static void on_trap(int signal, siginfo_t *info, void *context) {
	if (escape) siglongjmp(*escape, 1);
	go_trap.sa_sigaction(signal, info, context);
}

// A model that divides integers divides what a client sends, perhaps the least
// one by -1, for which x86 traps: ONNX Runtime 1.32 would end the process.
int mr_catch_traps(mr_error *e) {
	struct sigaction ours = {.sa_sigaction = on_trap,
	                         .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
	sigemptyset(&ours.sa_mask);
	if (sigaction(SIGFPE, &ours, &go_trap)) return mr_own_error(e, strerror(errno));
	return 0;
}

// guarded_run is Run, but for a trap on this thread: what the run had taken is
// lost then, and the session goes on.
static int guarded_run(mr_call *c, size_t n) {
	sigjmp_buf here;
	if (sigsetjmp(here, 0)) {
		escape = NULL;
		return mr_own_error(&c->error, "the processor trapped: an integer was divided "
		                                "by zero, or the least one by -1");
	}
	escape = &here;
	Status *s = F(Run, Status *, (void *, const void *, const char *const *, const Value *const *,
	                              size_t, const char *const *, size_t, Value **))(
		c->session, c->options, c->names, (const Value *const *)c->values, n,
		(const char *const *)c->output_names, c->outputs, c->results);
	escape = NULL;
	return mr_failed(s, &c->error);
}

int mr_run(mr_call *c) {
	size_t n = 0;
	c->error.code = 0;
	release_outputs(c);
	// The flag of Terminate is sticky: one that came when a run was over, or
	// nearly, must not stop this one.
	Status *s = F(RunOptionsUnsetTerminate, Status *, (void *))(c->options);
	if (s) F(ReleaseStatus, void, (Status *))(s);
	int failed = make_inputs(c, &n);
	if (!failed) {
		memset(c->results, 0, c->outputs * sizeof *c->results);
		failed = guarded_run(c, n);
	}
	for (size_t i = 0; i < n; i++) F(ReleaseValue, void, (Value *))(c->values[i]);
	if (failed) return -1;
	for (size_t i = 0; i < c->outputs; i++) c->out[i].value = c->results[i];
	for (size_t i = 0; i < c->outputs; i++)
		if (mr_convert(c, &c->out[i])) return -1;
	return 0;
}
