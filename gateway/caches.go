package gateway

import (
	"sync/atomic"

	"github.com/millrace-ml/millrace/gateway/cache"
	"github.com/millrace-ml/millrace/runtime/model"
)

// caches are the response caches, by model. A model has one only where it is asked for.
type caches struct {
	byModel atomic.Pointer[map[string]*cache.Cache]
}

// of returns the cache for the answers of a version, nil for none.
func (c *caches) of(v *model.Version) *cache.Cache {
	all := c.byModel.Load()
	if all == nil {
		return nil
	}
	return (*all)[v.Name()]
}

// SetCaches takes over which models' answers are kept. A model whose cache has
// the same configuration as before goes on with it.
func (c *Core) SetCaches(configs map[string]cache.Config) error {
	c.routingMu.Lock()
	defer c.routingMu.Unlock()
	before := c.caches.byModel.Load()
	next := make(map[string]*cache.Cache)
	for name, cfg := range configs {
		if before != nil && (*before)[name] != nil && (*before)[name].Config() == cfg {
			next[name] = (*before)[name]
			continue
		}
		made, err := cache.New(cfg)
		if err != nil {
			return err
		}
		next[name] = made
	}
	if len(next) == 0 {
		c.caches.byModel.Store(nil)
		return nil
	}
	c.caches.byModel.Store(&next)
	return nil
}

// purge drops the answers of versions that serve no more.
func (c *caches) purge(models *model.Repository) {
	all := c.byModel.Load()
	if all == nil {
		return
	}
	serving := make(map[string]map[string]bool)
	models.Each(func(v *model.Version) {
		if serving[v.Name()] == nil {
			serving[v.Name()] = make(map[string]bool)
		}
		serving[v.Name()][v.Digest()] = true
	})
	for name, kept := range *all {
		for _, digest := range kept.Versions() {
			if !serving[name][digest] {
				kept.Purge(digest)
			}
		}
	}
}
