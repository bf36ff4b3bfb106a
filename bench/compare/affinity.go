package compare

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// pinned runs f while this process may use only the last of its cores; other
// processes are not touched. A lone client that shares a core with the server
// from time to time is woken in a fifth of the time then, and no two rounds
// are alike.
func pinned(f func() error) error {
	var all, last unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return fmt.Errorf("cannot read the cores: %w", err)
	}
	for core, left := 0, all.Count(); left > 0; core++ {
		if !all.IsSet(core) {
			continue
		}
		if left--; left == 0 {
			last.Set(core)
		}
	}
	if err := affinity(&last); err != nil {
		return err
	}
	err := f()
	if back := affinity(&all); err == nil {
		err = back
	}
	return err
}

// affinity sets the cores of all threads; new threads inherit them.
func affinity(set *unix.CPUSet) error {
	tasks, err := filepath.Glob("/proc/self/task/*")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		id, err := strconv.Atoi(filepath.Base(task))
		if err != nil {
			return err
		}
		err = unix.SchedSetaffinity(id, set)
		if _, gone := os.Stat(task); err != nil && gone == nil {
			return fmt.Errorf("cannot choose the core: %w", err)
		}
	}
	return nil
}
