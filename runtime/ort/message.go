package ort

import (
	"regexp"
	"strings"
)

// clutter matches what people have no use for: the code, which [Error] has, and
// places in ONNX Runtime's own source, which are a file and line and the name
// of a C++ function or all of its declaration.
var clutter = regexp.MustCompile(`\[ONNXRuntimeError\] : \d+ : \w+ : |` +
	`\S*\.(?:h|cc|cpp):\d+ (?:[^()]*::[^()]*\(.*?\)(?: const)?(?: \[with .*?\])? |\w+ )?`)

// message makes what ONNX Runtime says one line of text for people.
func message(text string) string {
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "?")), " ")
	if _, after, ok := strings.Cut(text, "Status Message: "); ok {
		text = after
	}
	return clutter.ReplaceAllString(text, "")
}
