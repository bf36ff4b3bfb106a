module github.com/millrace-ml/millrace

go 1.26
