package wire

import (
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// AppendProto appends the ModelInferResponse of an answer, with raw contents.
func AppendProto(dst []byte, r *Request, a *Answer) ([]byte, error) {
	dst = protowire.AppendTag(dst, respModel, protowire.BytesType)
	dst = protowire.AppendString(dst, a.Model)
	dst = protowire.AppendTag(dst, respVersion, protowire.BytesType)
	dst = protowire.AppendString(dst, a.Version)
	if len(r.ID) > 0 {
		dst = protowire.AppendTag(dst, respID, protowire.BytesType)
		dst = protowire.AppendBytes(dst, r.ID)
	}
	if a.Scored {
		dst = appendScore(dst, a)
	}
	e := encoder{r: r, a: a}
	var err error
	e.each(func(o Output) {
		t := &a.Outputs[o.Index]
		if err != nil || t.Datatype == tensor.Invalid {
			return
		}
		if o.Classes > 0 {
			var c tensor.Tensor
			if c, err = Classify(t, o.Classes, a.Sig, o.Index); err != nil {
				return
			}
			e.classes = append(e.classes, c)
			t = &e.classes[len(e.classes)-1]
		}
		dst = appendOutput(dst, t)
	})
	if err != nil {
		return dst, err
	}
	classes := e.classes
	e.each(func(o Output) {
		t := &a.Outputs[o.Index]
		if t.Datatype == tensor.Invalid {
			return
		}
		if o.Classes > 0 {
			t, classes = &classes[0], classes[1:]
		}
		dst = protowire.AppendTag(dst, respRaw, protowire.BytesType)
		dst = protowire.AppendBytes(dst, t.Data)
	})
	return dst, nil
}

// appendScore appends the parameters of an answer that is scored.
func appendScore(dst []byte, a *Answer) []byte {
	// Numbers and truth values have a tag of one byte before theirs.
	dst = appendEntry(dst, paramScore, 1+protowire.SizeFixed64())
	dst = protowire.AppendTag(dst, paramDouble, protowire.Fixed64Type)
	dst = protowire.AppendFixed64(dst, math.Float64bits(a.Score))
	return appendBool(dst, paramOutlier, a.Outlier)
}

// AppendFinal appends to the ModelInferResponse of a stream that no other answers the same request.
// Clients that are made for models with several answers wait for that, as Triton says it.
func AppendFinal(dst []byte) []byte { return appendBool(dst, "triton_final_response", true) }

// appendBool appends a parameter of the answer.
func appendBool(dst []byte, key string, v bool) []byte {
	dst = appendEntry(dst, key, 2)
	dst = protowire.AppendTag(dst, paramBool, protowire.VarintType)
	return protowire.AppendVarint(dst, protowire.EncodeBool(v))
}

// appendEntry appends a parameter of the answer up to its value, an InferParameter of a size.
func appendEntry(dst []byte, key string, size int) []byte {
	dst = protowire.AppendTag(dst, respParameters, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(2+protowire.SizeBytes(len(key))+
		protowire.SizeBytes(size)))
	dst = protowire.AppendTag(dst, 1, protowire.BytesType)
	dst = protowire.AppendString(dst, key)
	dst = protowire.AppendTag(dst, 2, protowire.BytesType)
	return protowire.AppendVarint(dst, uint64(size))
}

// appendOutput appends an InferOutputTensor.
func appendOutput(dst []byte, t *tensor.Tensor) []byte {
	datatype := t.Datatype.String()
	dims := 0
	for _, d := range t.Shape {
		dims += protowire.SizeVarint(uint64(d))
	}
	classNames := ""
	size := 3 + protowire.SizeBytes(len(t.Name)) + protowire.SizeBytes(len(datatype)) +
		protowire.SizeBytes(dims)
	if t.ClassNames != nil {
		classNames = ClassNames(t.ClassNames)
		size += 1 + protowire.SizeBytes(parameterSize(classNames))
	}
	dst = protowire.AppendTag(dst, respOutputs, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(size))
	dst = protowire.AppendTag(dst, outName, protowire.BytesType)
	dst = protowire.AppendString(dst, t.Name)
	dst = protowire.AppendTag(dst, outDatatype, protowire.BytesType)
	dst = protowire.AppendString(dst, datatype)
	dst = protowire.AppendTag(dst, outShape, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(dims))
	for _, d := range t.Shape {
		dst = protowire.AppendVarint(dst, uint64(d))
	}
	if t.ClassNames == nil {
		return dst
	}
	dst = protowire.AppendTag(dst, outParameter, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(parameterSize(classNames)))
	dst = protowire.AppendTag(dst, 1, protowire.BytesType)
	dst = protowire.AppendString(dst, classNamesKey)
	dst = protowire.AppendTag(dst, 2, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(1+protowire.SizeBytes(len(classNames))))
	dst = protowire.AppendTag(dst, paramString, protowire.BytesType)
	return protowire.AppendString(dst, classNames)
}

const classNamesKey = "class_names"

// parameterSize returns the bytes of the map entry that carries class names.
func parameterSize(names string) int {
	inner := 1 + protowire.SizeBytes(len(names))
	return 1 + protowire.SizeBytes(len(classNamesKey)) + 1 + protowire.SizeBytes(inner)
}
