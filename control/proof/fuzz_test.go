package proof

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzCheck wants an answer to whatever files there are.
func FuzzCheck(f *testing.F) {
	for _, name := range []string{"iris", "tips", "simple_string"} {
		body, err := os.ReadFile(filepath.Join(samplesDir, name, expectedFile))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Add([]byte(`{"inputs": [[5.1, 3.5, 1.4, 0.2]], "expected": {"output_label": ["setosa"]}}`))
	f.Add([]byte(`{"inputs": {"columns": ["a"], "data": [["x"]]}, "params": {}}`))
	f.Add([]byte("sepal length (cm),sepal width (cm),output_label,petal length (cm),petal width " +
		"(cm)\n5.1,3.5,setosa,1.4,0.2\n,,,,"))
	f.Add([]byte("output_probability,a,b,c,d\n1,5.1,3.5,1.4,0.2\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		text := string(body)
		sets := folder(t, "set.json", text, "set.csv", text)
		for _, name := range []string{"iris", "tips", "simple_string", "mean"} {
			v := version(t, name)
			for _, file := range []string{expectedFile, servingFile, exampleFile} {
				outcome(v, folder(t, file, text), DefaultConfig())
			}
			for _, m := range []Metric{Accuracy, ROCAUC, MAE} {
				cfg := DefaultConfig()
				cfg.Metric, cfg.Golden = m, filepath.Join(sets, "set.json")
				outcome(v, sets, cfg)
				cfg.Golden = filepath.Join(sets, "set.csv")
				outcome(v, sets, cfg)
			}
		}
	})
}
