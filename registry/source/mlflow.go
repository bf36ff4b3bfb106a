// Package source brings versions of models from where people keep them into the
// store of artifacts.
package source

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/millrace-ml/millrace/registry/artifact"
	"github.com/millrace-ml/millrace/registry/mlflow"
)

// ErrNotONNX is wrapped by what Pull returns for a model that has to be converted first.
var ErrNotONNX = errors.New("the model is not in ONNX")

// MLflow is a registry of MLflow.
type MLflow struct {
	Client *mlflow.Client
	Store  *artifact.Store
}

// manifest is the file by which MLflow knows a model.
const manifest = "MLmodel"

// maxManifest bounds it, in bytes.
const maxManifest = 1 << 20

// Pull brings a version's files into the store and returns their digest, which is
// the same whenever the files are. A version that has no flavor onnx is not
// fetched: its error wraps ErrNotONNX and names the library. What MLflow, the
// network or the store say against it is wrapped, too.
func (m MLflow) Pull(ctx context.Context, ref mlflow.Ref) (digest string, err error) {
	name := ref.Name + " version " + ref.Version
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot pull %s from MLflow: %w", name, err)
		}
	}()
	uri, err := m.Client.DownloadURI(ctx, ref)
	if err != nil {
		return "", err
	}
	root, err := m.Client.Resolve(ctx, uri)
	if err != nil {
		return "", err
	}
	files, err := m.Client.List(ctx, root)
	if err != nil {
		return "", err
	}
	if err := m.checkFlavor(ctx, root); err != nil {
		return "", err
	}
	return m.Store.Ingest(ctx, name, func(w *artifact.Writer) error {
		for _, f := range files {
			if err := m.take(ctx, w, root, f); err != nil {
				return err
			}
		}
		return nil
	})
}

// checkFlavor wants a model that has the flavor onnx.
func (m MLflow) checkFlavor(ctx context.Context, root string) error {
	body, err := m.Client.Open(ctx, root, mlflow.File{Path: manifest, Size: -1}, 0)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	text, err := io.ReadAll(io.LimitReader(body, maxManifest))
	if err != nil {
		return err
	}
	flavors, err := mlflow.ParseFlavors(text)
	if err != nil {
		return err
	}
	if !flavors.ONNX() {
		return fmt.Errorf("%w: it is one of %s", ErrNotONNX, flavors.Library())
	}
	return nil
}

func (m MLflow) take(ctx context.Context, w *artifact.Writer, root string, f mlflow.File) error {
	body, err := m.Client.Open(ctx, root, f, 0)
	if err != nil {
		return err
	}
	return errors.Join(w.File(f.Path, f.Size, "", body), body.Close())
}
