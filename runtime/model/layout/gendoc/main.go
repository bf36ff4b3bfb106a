// Command gendoc writes docs/config-pbtxt.md from the keys of a model's
// configuration that package layout knows.
//
//	go run ./gendoc FILE
package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"github.com/millrace-ml/millrace/runtime/model/layout"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gendoc FILE")
		os.Exit(2)
	}
	if err := os.WriteFile(os.Args[1], page(), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "cannot write the page of config.pbtxt:", err)
		os.Exit(1)
	}
}

const intro = `# config.pbtxt

<!-- Made from runtime/model/layout by "make docs". -->

A model needs no configuration: types and shapes come from the model, and whether its first axis
is a batch axis is found out by running it. A ` + "`config.pbtxt`" + ` in the model's folder says
otherwise, in Triton's text format. The server's settings for a model (` + "`models`" + ` in
[config.md](config.md)) stand above it; ` + "`GET /v2/models/NAME/config`" + ` shows what came out.

A key that is not in the table is an error. A key that is refused is one too: without it the
model would give other answers than its author meant. A key that is ignored is logged when
the model is loaded; answers do not depend on it.

## Keys

| key | what becomes of it | |
|---|---|---|
`

const parametersIntro = `
## Parameters

Keys of ` + "`parameters`" + `, each with a ` + "`string_value`" + `.

| key | value | meaning |
|---|---|---|
`

var warmup = strings.ReplaceAll(`
## Warm-up

Each request of 'model_warmup' runs in the trial of its model and once more before the version is
READY; one that fails keeps the version from it, with the reason in the index. An input has
'data_type', 'dims' (without the batch axis) and one of 'zero_data', 'random_data' and
'input_data_file', a file in the folder 'warmup' beside the versions, in the layout of the binary
tensor data extension.

    model_warmup [ {
      name: "one row"
      batch_size: 1
      count: 3
      inputs { key: "x" value: { data_type: TYPE_FP32 dims: [ 64 ] random_data: true } }
    } ]
`, "'", "`")

// treatments are the words for what becomes of a key.
var treatments = map[layout.Treatment]string{
	layout.Used: "used", layout.Ignored: "ignored", layout.Refused: "refused",
}

// page returns the whole page.
func page() []byte {
	var b bytes.Buffer
	b.WriteString(intro)
	for _, k := range layout.Keys() {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", k.Name, treatments[k.Treatment], k.Reason)
	}
	b.WriteString(parametersIntro)
	for _, p := range layout.Parameters() {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", p.Name, p.Values, p.Meaning)
	}
	b.WriteString(warmup)
	return b.Bytes()
}
