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

// reserve makes room for n bytes in a buffer that is kept.
static int reserve(char **buffer, size_t *size, size_t n, mr_error *e) {
	if (n <= *size) return 0;
	char *grown = realloc(*buffer, n * 2);
	if (!grown) return mr_own_error(e, "out of memory for an output");
	*buffer = grown;
	*size = n * 2;
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

static size_t count(int rank, const int64_t *shape) {
	size_t n = 1;
	for (int d = 0; d < rank; d++) n *= shape[d];
	return n;
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
	size_t n = count(o->rank, o->shape);
	if (o->elem == ELEM_STRING) {
		size_t at = 0;
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

// map_row writes the values of a map as float32 from dst on, and its keys when
// it is the first. All maps of one output must have equally many.
static int map_row(mr_call *c, mr_output *o, Value *map, size_t row) {
	void *allocator = NULL;
	Value *keys = NULL, *values = NULL;
	int elem, rank, failed = -1;
	int64_t shape[MR_MAX_RANK];
	if (mr_failed(F(GetAllocatorWithDefaultOptions, Status *, (void **))(&allocator), &c->error) ||
	    mr_failed(F(GetValue, Status *, (const Value *, int, void *, Value **))(map, 1, allocator, &values),
	              &c->error) ||
	    read_shape(values, &elem, &rank, shape, &c->error))
		goto done;
	size_t n = count(rank, shape);
	if (row > 0 && (int64_t)n != o->shape[o->rank - 1]) {
		mr_own_error(&c->error, "the maps of an output have unequal numbers of keys");
		goto done;
	}
	o->shape[o->rank - 1] = n;
	void *data = NULL;
	if (mr_failed(F(GetTensorMutableData, Status *, (Value *, void **))(values, &data), &c->error) ||
	    reserve(&o->own, &o->own_size, (row + 1) * n * 4 + 1, &c->error))
		goto done;
	float *dst = (float *)o->own + row * n;
	if (elem == ELEM_FLOAT) {
		memcpy(dst, data, n * 4);
	} else if (elem == ELEM_DOUBLE) {
		for (size_t i = 0; i < n; i++) dst[i] = ((double *)data)[i];
	} else if (elem == ELEM_INT64) {
		for (size_t i = 0; i < n; i++) dst[i] = ((int64_t *)data)[i];
	} else {
		mr_own_error(&c->error, "an output is a map of values that are not numbers");
		goto done;
	}
	if (row == 0) {
		if (mr_failed(F(GetValue, Status *, (const Value *, int, void *, Value **))(map, 0, allocator, &keys),
		              &c->error) ||
		    read_shape(keys, &elem, &rank, shape, &c->error))
			goto done;
		size_t at = 0;
		if (elem == ELEM_STRING) {
			if (append_strings(c, keys, n, &o->keys, &o->keys_size, &at)) goto done;
		} else {
			if (mr_failed(F(GetTensorMutableData, Status *, (Value *, void **))(keys, &data), &c->error) ||
			    reserve(&o->keys, &o->keys_size, n * 32 + 1, &c->error))
				goto done;
			for (size_t i = 0; i < n; i++) {
				int len = snprintf(o->keys + at + 4, 28, "%lld", (long long)((int64_t *)data)[i]);
				char prefix[4] = {len, 0, 0, 0};
				memcpy(o->keys + at, prefix, 4);
				at += 4 + len;
			}
		}
		o->keys_len = at;
		uint64_t sum = 14695981039346656037u; // FNV-1a
		for (size_t i = 0; i < at; i++) sum = (sum ^ (unsigned char)o->keys[i]) * 1099511628211u;
		o->keys_sum = sum;
	}
	failed = 0;
done:
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
	size_t n = count(rank, shape);
	if (elem == ELEM_STRING) return append_strings(c, element, n, &o->own, &o->own_size, at);
	void *data = NULL;
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
	o->elem = ELEM_FLOAT;
	o->rank = 2;
	o->shape[0] = o->shape[1] = 0;
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
			at = (i + 1) * o->shape[1] * 4;
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
	if (kind == KIND_MAP) {
		o->is_map = 1;
		o->elem = ELEM_FLOAT;
		o->rank = 1;
		if (map_row(c, o, o->value, 0)) return -1;
		o->data = o->own;
		o->bytes = o->shape[0] * 4;
		return 0;
	}
	return mr_own_error(&c->error, "an output is neither a tensor nor a sequence or map of numbers");
}
