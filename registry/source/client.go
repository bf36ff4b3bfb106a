package source

import "github.com/millrace-ml/millrace/registry/mlflow"

// Client returns the client of the registry's server, for what is no source: runs of
// experiments.
func (m *MLflow) Client() *mlflow.Client { return m.client }
