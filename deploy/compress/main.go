// Command compress packs a file with zstd, for the release binary:
//
//	go run ./deploy/compress FROM TO
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: compress FROM TO")
		os.Exit(2)
	}
	if err := compress(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "cannot compress:", err)
		os.Exit(1)
	}
}

// compress writes the packed file under its name only when it is complete.
func compress(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(to + ".part")
	if err != nil {
		return err
	}
	defer os.Remove(to + ".part")
	defer dst.Close()
	buffered := bufio.NewWriter(dst)
	packed, err := zstd.NewWriter(buffered, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		return err
	}
	if _, err := io.Copy(packed, src); err != nil {
		return err
	}
	if err := packed.Close(); err != nil {
		return err
	}
	if err := buffered.Flush(); err != nil {
		return err
	}
	if err := dst.Close(); err != nil {
		return err
	}
	return os.Rename(to+".part", to)
}
