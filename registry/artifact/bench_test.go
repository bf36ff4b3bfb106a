package artifact

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"testing"
)

// BenchmarkIngest takes in one new file, hashed and synced. MB/s is the figure.
func BenchmarkIngest(b *testing.B) {
	for _, size := range []int{64 << 10, 4 << 20, 64 << 20, 256 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			cfg := config(b)
			cfg.MaxBytes = 1 << 30
			s := open(b, cfg)
			content := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for n := uint64(0); b.Loop(); n++ {
				binary.LittleEndian.PutUint64(content, n)
				_, err := s.Ingest(b.Context(), "bench", func(w *Writer) error {
					return w.File("f", int64(size), "", bytes.NewReader(content))
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkHash is what the hashing alone takes.
func BenchmarkHash(b *testing.B) {
	content := make([]byte, 64<<20)
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		sha256.Sum256(content)
	}
}

// BenchmarkMany takes in, opens and materializes versions of ten small files.
func BenchmarkMany(b *testing.B) {
	s := open(b, config(b))
	n := uint64(0)
	ingest := func() string {
		n++
		digest, err := s.Ingest(b.Context(), "bench", func(w *Writer) error {
			for i := range uint64(10) {
				content := binary.LittleEndian.AppendUint64(nil, n*10+i)
				if err := w.File(fmt.Sprint(i), -1, "", bytes.NewReader(content)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		return digest
	}
	b.Run("ingest", func(b *testing.B) {
		for b.Loop() {
			ingest()
		}
	})
	digest := ingest()
	b.Run("materialize", func(b *testing.B) {
		dir, i := b.TempDir(), 0
		for b.Loop() {
			i++
			err := s.Materialize(b.Context(), digest, filepath.Join(dir, fmt.Sprint(i)))
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkOpen opens a store of 5,000 versions with two files each.
func BenchmarkOpen(b *testing.B) {
	cfg := config(b)
	s := open(b, cfg)
	for n := range uint64(5000) {
		var m Manifest
		for i := range uint64(2) {
			content := binary.LittleEndian.AppendUint64(nil, n*2+i)
			digest := sum(content)
			if err := s.root.MkdirAll(filepath.Dir(blobPath(digest)), dirMode); err != nil {
				b.Fatal(err)
			}
			if err := s.root.WriteFile(blobPath(digest), content, blobMode); err != nil {
				b.Fatal(err)
			}
			m = append(m, File{fmt.Sprint(i), 8, digest})
		}
		if err := s.root.WriteFile(manifestPath(m.Digest()), m.Encode(), fileMode); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s, err := Open(cfg)
		if err != nil || len(s.List()) != 5000 {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
