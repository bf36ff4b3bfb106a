package route

import "github.com/millrace-ml/millrace/runtime/tensor"

// Scorer tells how unusual the rows of requests are that one version of a model has
// answered. It may be used concurrently.
type Scorer struct {
	Model, Version string // whose answers it is for
	// Score returns the greatest score of the rows, and whether that makes an outlier; ok
	// is false where there is none. The tensors are in the order of the signature, and
	// nothing of them is kept.
	Score func(inputs, outputs []tensor.Tensor) (score float64, outlier, ok bool)
}
