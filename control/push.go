package control

import (
	"io"

	"github.com/millrace-ml/millrace/control/store"
)

// Push is a version of a model that somebody uploads.
type Push struct {
	Model   string
	Version string // "" for the next free one
	Aliases []string
	Files   []PushFile
	By      store.Author
}

// PushFile is a file of a Push, whose content was held against its SHA256.
type PushFile struct {
	Path   string // relative, with slashes; artifact.CheckPath holds
	Size   int64  // bytes
	SHA256 string // in lower-case hexadecimal
	Open   func() (io.ReadCloser, error)
}
