package layout

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of ONNX's messages (onnx.proto).
const (
	modelGraph        = 7
	modelFunctions    = 25
	graphNode         = 1
	graphInitializer  = 5
	graphSparse       = 15
	nodeAttribute     = 5
	attributeTensor   = 5
	attributeGraph    = 6
	attributeTensors  = 10
	attributeGraphs   = 11
	attributeSparse   = 22
	attributeSparses  = 23
	functionNode      = 7
	functionAttribute = 11
	sparseValues      = 1
	sparseIndices     = 2
	tensorExternal    = 13
	entryKey          = 1
	entryValue        = 2
)

// maxNesting bounds how deep graphs lie in graphs: ONNX Runtime recurses.
const maxNesting = 64

// CheckModel walks over the model file without loading it: it must be a whole
// protobuf message, and weights in other files must lie inside the version's
// folder, in files that are long enough.
func CheckModel(v VersionDir) (err error) {
	// A file that is cut while it is mapped faults on reading.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			if _, fault := r.(interface{ Addr() uintptr }); !fault {
				panic(r)
			}
			err = fmt.Errorf("%w: %s changed while it was read", ErrLayout, filepath.Base(v.File))
		}
	}()
	text, err := mapFile(v.File)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", filepath.Base(v.File), plain(err))
	}
	defer func() { _ = unix.Munmap(text) }()
	c := checker{dir: filepath.Dir(v.File), root: v.Dir}
	graph := false
	err = fields(text, func(n protowire.Number, value []byte) error {
		switch n {
		case modelGraph:
			graph = true
			return c.graph(value, 0)
		case modelFunctions:
			return c.function(value)
		}
		return nil
	})
	if err == nil && !graph {
		err = errors.New("it has no graph")
	}
	if err != nil {
		return fmt.Errorf("%w: %s is not a complete ONNX model: %s", ErrLayout,
			filepath.Base(v.File), protoText(err))
	}
	return nil
}

func mapFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() == 0 {
		return nil, errors.New("it is empty")
	}
	return unix.Mmap(int(file.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
}

// fields calls f with every length-delimited field of a message.
func fields(text []byte, f func(n protowire.Number, value []byte) error) error {
	for len(text) > 0 {
		n, kind, size := protowire.ConsumeTag(text)
		if size < 0 {
			return protowire.ParseError(size)
		}
		text = text[size:]
		if kind == protowire.BytesType {
			value, size := protowire.ConsumeBytes(text)
			if size < 0 {
				return protowire.ParseError(size)
			}
			if err := f(n, value); err != nil {
				return err
			}
			text = text[size:]
			continue
		}
		if size = protowire.ConsumeFieldValue(n, kind, text); size < 0 {
			return protowire.ParseError(size)
		}
		text = text[size:]
	}
	return nil
}

// checker looks for weights in other files.
type checker struct{ dir, root string }

func (c *checker) graph(text []byte, depth int) error {
	if depth > maxNesting {
		return fmt.Errorf("its graphs are nested deeper than %d", maxNesting)
	}
	return fields(text, func(n protowire.Number, value []byte) error {
		switch n {
		case graphNode:
			return c.node(value, depth)
		case graphInitializer:
			return c.tensor(value)
		case graphSparse:
			return c.sparse(value)
		}
		return nil
	})
}

func (c *checker) function(text []byte) error {
	return fields(text, func(n protowire.Number, value []byte) error {
		switch n {
		case functionNode:
			return c.node(value, 0)
		case functionAttribute:
			return c.attribute(value, 0)
		}
		return nil
	})
}

func (c *checker) node(text []byte, depth int) error {
	return fields(text, func(n protowire.Number, value []byte) error {
		if n != nodeAttribute {
			return nil
		}
		return c.attribute(value, depth)
	})
}

func (c *checker) attribute(text []byte, depth int) error {
	return fields(text, func(n protowire.Number, value []byte) error {
		switch n {
		case attributeTensor, attributeTensors:
			return c.tensor(value)
		case attributeSparse, attributeSparses:
			return c.sparse(value)
		case attributeGraph, attributeGraphs:
			return c.graph(value, depth+1)
		}
		return nil
	})
}

func (c *checker) sparse(text []byte) error {
	return fields(text, func(n protowire.Number, value []byte) error {
		if n == sparseValues || n == sparseIndices {
			return c.tensor(value)
		}
		return nil
	})
}

func (c *checker) tensor(text []byte) error {
	return fields(text, func(n protowire.Number, value []byte) error {
		if n != tensorExternal {
			return nil
		}
		var key, location string
		err := fields(value, func(n protowire.Number, value []byte) error {
			switch n {
			case entryKey:
				key = string(value)
			case entryValue:
				location = string(value)
			}
			return nil
		})
		if err != nil || key != "location" {
			return err
		}
		return c.external(location)
	})
}

func (c *checker) external(location string) error {
	if !filepath.IsLocal(location) {
		return errors.New("weights lie outside the version's folder")
	}
	path := filepath.Join(c.dir, location)
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("the file %q with weights is missing", location)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%q is not a file", location)
	}
	if inside(c.root, path) != nil {
		return errors.New("weights lie outside the version's folder")
	}
	return nil
}
