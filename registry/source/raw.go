package source

import "context"

// PullAny is Pull for versions of any kind, which are to be converted.
func (m *MLflow) PullAny(ctx context.Context, model, version string) (string, error) {
	return m.pull(ctx, into{m.store, true}, model, version)
}

// PullAny is Pull for versions of any kind, which are to be converted.
func (s *shelf) PullAny(ctx context.Context, model, version string) (string, error) {
	return s.pull(ctx, into{s.store, true}, model, version)
}
