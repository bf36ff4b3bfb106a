package main

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/runtime/model"
)

// reload takes over what can change while the server runs and says what cannot.
func (s *server) reload(ctx context.Context, next config.Config) {
	before := s.cfg
	s.level.Set(levelOf(next.Server.Log.Level))
	if next.Repository.Mode == before.Repository.Mode &&
		next.Repository.Mode == string(model.ModeExplicit) {
		s.reloadModels(ctx, before.Repository.Load, next.Repository.Load)
		s.cfg.Repository.Load = next.Repository.Load
	}
	s.reloadResources(ctx, &next)
	s.cfg.Server.Log.Level = next.Server.Log.Level
	s.cfg.Server.Grace = next.Server.Grace
	if keys := changed(reflect.ValueOf(s.cfg), reflect.ValueOf(next), ""); len(keys) > 0 {
		s.log.Warn("these settings take effect at the next start", "keys", strings.Join(keys, " "))
	}
	s.log.Info("settings taken over", "log_level", next.Server.Log.Level, "grace",
		next.Server.Grace)
}

// reloadResources takes over the sources, models and endpoints.
func (s *server) reloadResources(ctx context.Context, next *config.Config) {
	if err := s.plane.Reload(ctx, next); err != nil {
		s.log.Error("sources, models and endpoints are not taken over; those in force stay",
			"error", err)
		return
	}
	s.cfg.Sources, s.cfg.Models, s.cfg.Endpoints = next.Sources, next.Models, next.Endpoints
	s.cfg.Monitors = next.Monitors
	s.cfg.Triggers, s.cfg.Server.Pipelines = next.Triggers, next.Server.Pipelines
}

// reloadModels loads what was added to the list of models and unloads what was
// taken out.
func (s *server) reloadModels(ctx context.Context, before, next []string) {
	for _, name := range next {
		if slices.Contains(before, name) {
			continue
		}
		if err := s.models.Load(ctx, name, model.LoadOptions{}); err != nil {
			s.log.Error("model not loaded", "model", name, "error", err)
		}
	}
	for _, name := range before {
		if slices.Contains(next, name) {
			continue
		}
		if err := s.models.Unload(ctx, name); err != nil && !errors.Is(err, model.ErrUnknownModel) {
			s.log.Error("model not unloaded", "model", name, "error", err)
		}
	}
}

// changed lists the keys whose values differ.
func changed(a, b reflect.Value, key string) []string {
	if a.Kind() != reflect.Struct {
		if reflect.DeepEqual(a.Interface(), b.Interface()) {
			return nil
		}
		return []string{key}
	}
	var keys []string
	for i := range a.NumField() {
		name := a.Type().Field(i).Tag.Get("yaml")
		if key != "" {
			name = key + "." + name
		}
		keys = append(keys, changed(a.Field(i), b.Field(i), name)...)
	}
	return keys
}
