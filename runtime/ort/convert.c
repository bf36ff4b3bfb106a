// Outputs as tensors: shapes read back, strings, maps and sequences unpacked.
#define MR_IMPLEMENTATION
#include "api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t elem_size(int elem) {
	// By ONNXTensorElementDataType, from undefined to bfloat16.
	static const size_t sizes[] = {0, 4, 1, 1, 2, 2, 4, 8, 0, 1, 2, 8, 4, 8, 0, 0, 2};
	return elem >= 0 && elem < (int)(sizeof sizes / sizeof sizes[0]) ? sizes[elem] : 0;
}

// reserve makes room for n bytes in a buffer that is kept, and for some more,
// so that a buffer which grows bit by bit is seldom moved.
static int reserve(char **buffer, size_t *size, size_t n, mr_error *e) {
	enum { MOST_MORE = 4 << 20 };
	if (n <= *size) return 0;
	size_t grown_size = n + (n < MOST_MORE ? n : MOST_MORE);
	char *grown = grown_size > n ? realloc(*buffer, grown_size) : NULL;
	if (!grown) return mr_own_error(e, "out of memory for an output");
	*buffer = grown;
	*size = grown_size;
	return 0;
}

static int read_shape(Value *v, int *elem, int *rank, int64_t *shape, mr_error *e) {
	void *info = NULL;
	size_t n = 0;
	if (mr_failed(F(GetTensorTypeAndShape, Status *, (const Value *, void **))(v, &info), e)) return -1;
	int failed = mr_failed(F(GetTensorElementType, Status *, (const void *, int *))(info, elem), e) ||
	             mr_failed(F(GetDimensionsCount, Status *, (const void *, size_t *))(info, &n), e);
	if (!failed && n > MR_MAX_RANK) failed = mr_own_error(e, "an output has more than 32 dimensions");
	if (!failed)
		failed = mr_failed(F(GetDimensions, Status *, (const void *, int64_t *, size_t))(info, shape, n), e);
	F(ReleaseTensorTypeAndShapeInfo, void, (void *))(info);
	*rank = n;
	return failed;
}

// mr_count multiplies the dimensions. It fails where one is negative or the
// product, at 16 bytes an element, is more than can be addressed.
int mr_count(int rank, const int64_t *shape, size_t *n) {
	size_t bytes = 16;
	int empty = 0;
	for (int d = 0; d < rank; d++) {
		if (shape[d] < 0) return -1;
		empty |= shape[d] == 0;
		if (shape[d] > 0 && __builtin_mul_overflow(bytes, (size_t)shape[d], &bytes)) return -1;
	}
	*n = empty ? 0 : bytes / 16;
	return 0;
}

static int count(int rank, const int64_t *shape, size_t *n, mr_error *e) {
	return mr_count(rank, shape, n) ? mr_own_error(e, "an output is too large") : 0;
}

// append_strings adds the elements of a string tensor, length-prefixed, to a buffer.
static int append_strings(mr_call *c, Value *v, size_t n, char **buffer, size_t *size, size_t *at) {
	size_t len = 0;
	if (n == 0) return 0;
	if (mr_failed(F(GetStringTensorDataLength, Status *, (const Value *, size_t *))(v, &len), &c->error))
		return -1;
	if (n > c->offsets_size) {
		size_t *grown = realloc(c->offsets, 2 * n * sizeof *grown);
		if (!grown) return mr_own_error(&c->error, "out of memory for an output");
		c->offsets = grown;
		c->offsets_size = 2 * n;
	}
	// The content goes behind the place where the prefixed form will stand,
	// which never overtakes it.
	if (reserve(buffer, size, *at + 4 * n + len, &c->error)) return -1;
	char *content = *buffer + *at + 4 * n;
	if (mr_failed(F(GetStringTensorContent, Status *, (const Value *, void *, size_t, size_t *, size_t))(
		              v, content, len, c->offsets, n), &c->error))
		return -1;
	char *dst = *buffer + *at;
	for (size_t i = 0; i < n; i++) {
		size_t from = c->offsets[i], bytes = (i + 1 < n ? c->offsets[i + 1] : len) - from;
		if (bytes > UINT32_MAX) return mr_own_error(&c->error, "a string of an output is over 4 GiB");
		char prefix[4] = {bytes, bytes >> 8, bytes >> 16, bytes >> 24};
		memmove(dst + 4, content + from, bytes);
		memcpy(dst, prefix, 4);
		dst += 4 + bytes;
	}
	*at = dst - *buffer;
	return 0;
}

static int convert_tensor(mr_call *c, mr_output *o) {
	if (read_shape(o->value, &o->elem, &o->rank, o->shape, &c->error)) return -1;
	size_t n = 0, at = 0;
	if (count(o->rank, o->shape, &n, &c->error)) return -1;
	if (o->elem == ELEM_STRING) {
		if (reserve(&o->own, &o->own_size, 1, &c->error) ||
		    append_strings(c, o->value, n, &o->own, &o->own_size, &at))
			return -1;
		o->data = o->own;
		o->bytes = at;
		return 0;
	}
	o->bytes = n * elem_size(o->elem);
	return mr_failed(F(GetTensorMutableData, Status *, (Value *, void **))(o->value, (void **)&o->data),
	                 &c->error);
}

// map_keys keeps the keys of an output's maps. They are read once: the one
// operator that makes maps, ZipMap, has them from the model, for all rows.
static int map_keys(mr_call *c, mr_output *o, Value *keys) {
	int elem, rank;
	int64_t shape[MR_MAX_RANK];
	size_t n = 0, at = 0;
	void *data = NULL;
	if (read_shape(keys, &elem, &rank, shape, &c->error) || count(rank, shape, &n, &c->error)) return -1;
	if (elem == ELEM_STRING) {
		if (append_strings(c, keys, n, &o->keys, &o->keys_size, &at)) return -1;
	} else if (elem == ELEM_INT64) {
		enum { LONGEST = 4 + sizeof "-9223372036854775808" };
		if (mr_failed(F(GetTensorMutableData, Status *, (Value *, void **))(keys, &data), &c->error) ||
		    reserve(&o->keys, &o->keys_size, n * LONGEST, &c->error))
			return -1;
		for (size_t i = 0; i < n; i++) {
			int len = snprintf(o->keys + at + 4, LONGEST - 4, "%lld", (long long)((int64_t *)data)[i]);
			char prefix[4] = {len, 0, 0, 0};
			memcpy(o->keys + at, prefix, 4);
			at += 4 + len;
		}
	} else {
		return mr_own_error(&c->error, "the keys of a map are neither strings nor 64-bit integers");
	}
	o->keys_len = at;
	return 0;
}

// map_values writes the values of a map as float32 into row i of the output.
// All maps of one output must have equally many.
static int map_values(mr_call *c, mr_output *o, Value *values, size_t i) {
	int elem, rank;
	int64_t shape[MR_MAX_RANK];
	size_t n = 0;
	void *data = NULL;
	if (read_shape(values, &elem, &rank, shape, &c->error) || count(rank, shape, &n, &c->error)) return -1;
	if (i == 0) o->shape[1] = n;
	if ((int64_t)n != o->shape[1])
		return mr_own_error(&c->error, "the maps of an output have unequal numbers of keys");
	if (mr_failed(F(GetTensorMutableData, Status *, (Value *, void **))(values, &data), &c->error) ||
	    reserve(&o->own, &o->own_size, (i + 1) * n * 4, &c->error))
		return -1;
	if (n == 0) return 0;
	float *dst = (float *)o->own + i * n;
	if (elem == ELEM_FLOAT) {
		memcpy(dst, data, n * 4);
	} else if (elem == ELEM_DOUBLE) {
		for (size_t k = 0; k < n; k++) dst[k] = ((double *)data)[k];
	} else if (elem == ELEM_INT64) {
		for (size_t k = 0; k < n; k++) dst[k] = ((int64_t *)data)[k];
	} else {
		return mr_own_error(&c->error, "an output is a map of values that are not numbers");
	}
	return 0;
}

// map_row adds element i of a sequence of maps.
static int map_row(mr_call *c, mr_output *o, Value *map, size_t i) {
	void *allocator = NULL;
	Value *keys = NULL, *values = NULL;
	int failed =
		mr_failed(F(GetAllocatorWithDefaultOptions, Status *, (void **))(&allocator), &c->error) ||
		mr_failed(F(GetValue, Status *, (const Value *, int, void *, Value **))(map, 1, allocator, &values),
	              &c->error) ||
		map_values(c, o, values, i);
	if (!failed && !o->keys_len) {
		failed = mr_failed(F(GetValue, Status *, (const Value *, int, void *, Value **))(
							   map, 0, allocator, &keys), &c->error) ||
		         map_keys(c, o, keys);
	}
	if (keys) F(ReleaseValue, void, (Value *))(keys);
	if (values) F(ReleaseValue, void, (Value *))(values);
	return failed;
}

// stack adds element i of a sequence of tensors, which must be of equal shape.
static int stack(mr_call *c, mr_output *o, Value *element, size_t i, size_t *at) {
	int elem, rank;
	int64_t shape[MR_MAX_RANK];
	if (read_shape(element, &elem, &rank, shape, &c->error)) return -1;
	if (rank + 1 > MR_MAX_RANK) return mr_own_error(&c->error, "an output has more than 32 dimensions");
	if (i == 0) {
		o->elem = elem;
		o->rank = rank + 1;
		memcpy(o->shape + 1, shape, rank * sizeof shape[0]);
	} else if (elem != o->elem || rank + 1 != o->rank || memcmp(o->shape + 1, shape, rank * sizeof shape[0])) {
		return mr_own_error(&c->error, "an output is a sequence of tensors of unequal shapes, "
		                               "which cannot be served as one tensor");
	}
	size_t n = 0;
	void *data = NULL;
	if (count(rank, shape, &n, &c->error)) return -1;
	if (elem == ELEM_STRING) return append_strings(c, element, n, &o->own, &o->own_size, at);
	n *= elem_size(elem);
	if (mr_failed(F(GetTensorMutableData, Status *, (Value *, void **))(element, &data), &c->error) ||
	    reserve(&o->own, &o->own_size, *at + n + 1, &c->error))
		return -1;
	memcpy(o->own + *at, data, n);
	*at += n;
	return 0;
}

static int convert_sequence(mr_call *c, mr_output *o) {
	void *allocator = NULL;
	size_t n = 0, at = 0;
	if (mr_failed(F(GetValueCount, Status *, (const Value *, size_t *))(o->value, &n), &c->error) ||
	    mr_failed(F(GetAllocatorWithDefaultOptions, Status *, (void **))(&allocator), &c->error) ||
	    reserve(&o->own, &o->own_size, 1, &c->error))
		return -1;
	// Of an empty sequence nothing is known but what the model declares.
	o->elem = o->declared_elem;
	o->rank = o->declared_rank;
	for (int d = 0; d < o->rank; d++) o->shape[d] = o->declared_shape[d] > 0 ? o->declared_shape[d] : 0;
	for (size_t i = 0; i < n; i++) {
		Value *element = NULL;
		int kind = 0;
		if (mr_failed(F(GetValue, Status *, (const Value *, int, void *, Value **))(o->value, i, allocator,
		                                                                            &element), &c->error))
			return -1;
		int failed = mr_failed(F(GetValueType, Status *, (const Value *, int *))(element, &kind), &c->error);
		if (!failed && kind == KIND_MAP) {
			o->is_map = 1;
			failed = map_row(c, o, element, i);
			at = failed ? 0 : (i + 1) * o->shape[1] * 4;
		} else if (!failed && kind == KIND_TENSOR) {
			failed = stack(c, o, element, i, &at);
		} else if (!failed) {
			failed = mr_own_error(&c->error, "an output is a sequence of sequences");
		}
		F(ReleaseValue, void, (Value *))(element);
		if (failed) return -1;
	}
	o->shape[0] = n;
	o->data = o->own;
	o->bytes = at;
	return 0;
}

int mr_convert(mr_call *c, mr_output *o) {
	int kind = 0, has = 1;
	o->is_map = 0;
	o->elem = 0;
	if (!o->value) return 0;
	if (mr_failed(F(HasValue, Status *, (const Value *, int *))(o->value, &has), &c->error)) return -1;
	if (!has) return 0;
	if (mr_failed(F(GetValueType, Status *, (const Value *, int *))(o->value, &kind), &c->error)) return -1;
	if (kind == KIND_TENSOR) return convert_tensor(c, o);
	if (kind == KIND_SEQUENCE) return convert_sequence(c, o);
	return mr_own_error(&c->error, "an output is neither a tensor nor a sequence");
}
