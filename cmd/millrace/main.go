// Command millrace serves ONNX models and helps with everything around it.
//
// Each file here is one subcommand; config, client and values are what they
// share. The packages that do the work know nothing of flags or terminals:
// wiring them up happens here and nowhere else.
package main

//go:generate go run ./gendoc ../../docs/metrics.md

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the Makefile.
var version = "unknown"

func main() {
	ctx, end := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		// The first signal asks to end in order. From here on the next one kills:
		// nobody learns of the first before that holds.
		signal.Stop(signals)
		end()
	}()
	os.Exit(run(ctx, os.Args[1:]))
}

// run runs one command line and returns the exit status.
func run(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var status exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "millrace: stopped")
		return 130
	}
	fmt.Fprintln(os.Stderr, "millrace:", err)
	return 1
}

// exitStatus ends the program with this status; what there was to say is said.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "millrace",
		Short: "Serve ONNX models fast and right",
		Long: "millrace serves ONNX models over the Open Inference Protocol: " +
			"REST, binary REST and gRPC.\n\n" +
			"  millrace serve --models DIR        serve the models of a folder\n" +
			"  millrace infer MODEL --input x=1,2 ask a server\n" +
			"  millrace check DIR                 see what would be loaded, and what is wrong",
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath())
	})
	root.AddCommand(newServe(), newInfer(), newModels(), newCheck(), newProfile(), newBench(),
		newDoctor(), newVersion(), newTrial())
	root.AddCommand(newApply(), newGet(), newDescribe(), newDiff(), newEdit(), newDelete(),
		newPush(), newRollout(), newMonitor(), newTrigger(), newReference(), newSync(), newBackup(),
		newRestore(), newAudit())
	return root
}
