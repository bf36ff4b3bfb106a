package main

import (
	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/runtime/model"
	"github.com/millrace-ml/millrace/runtime/ort"
)

// modelSettings is the part of the settings that is of single models.
func modelSettings(list []config.Model) map[string]model.Settings {
	all := make(map[string]model.Settings)
	for i := range list {
		m := &list[i]
		b := &m.Batching
		s := model.Settings{
			MaxBatchSize: b.MaxBatchSize, MaxQueueDelay: b.MaxQueueDelay,
			PreferredSizes: b.PreferredBatchSize, PriorityLevels: b.PriorityLevels,
			QueueSize: b.Queue.Size, QueueBytes: (*int64)(b.Queue.Bytes),
			LatencyTarget: b.LatencyTarget,
			Latest:        m.Version.Latest, All: m.Version.All, Specific: m.Version.Specific,
			Providers: providers(m.Providers), Fallback: m.Fallback,
			IntraOpThreads: m.IntraOpThreads, Instances: m.Instances,
		}
		if m.Source != "" { // which versions come is decided there
			every := true
			s.Synced, s.All, s.Latest, s.Specific = true, &every, nil, nil
		}
		all[m.Name] = s
	}
	return all
}

func providers(list []config.Provider) []ort.Provider {
	var out []ort.Provider
	for _, p := range list {
		out = append(out, ort.Provider{Name: p.Name, Options: p.Options})
	}
	return out
}
