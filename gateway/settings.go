package gateway

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/millrace-ml/millrace/gateway/wire"
	"github.com/millrace-ml/millrace/runtime/model"
)

// Load loads a model, within a bounded time.
func (c *Core) Load(name string, o model.LoadOptions) error {
	ctx, cancel := context.WithTimeout(context.Background(), controlTimeout)
	defer cancel()
	return c.models.Load(ctx, name, o)
}

// Unload takes a model out of service.
func (c *Core) Unload(name string) error { return c.models.Unload(context.Background(), name) }

// LogSettings returns the settings of the logging extension.
func (c *Core) LogSettings() map[string]any {
	level := c.cfg.LogLevel.Level()
	verbose := 0
	if level < slog.LevelInfo {
		verbose = 1
	}
	return map[string]any{
		"log_file": "", "log_info": level <= slog.LevelInfo, "log_warning": level <= slog.LevelWarn,
		"log_error": true, "log_verbose_level": verbose, "log_format": "default",
	}
}

// SetLogSettings changes the log level as the logging extension says it. All
// settings are checked before one is changed.
func (c *Core) SetLogSettings(settings map[string]any) error {
	now := c.LogSettings()
	for key, value := range settings {
		old, ok := now[key]
		switch v := value.(type) {
		case bool:
			if _, is := old.(bool); ok && is {
				now[key] = v
				continue
			}
		case float64:
			if _, is := old.(int); ok && is && v >= 0 {
				now[key] = int(v)
				continue
			}
		case string:
			if ok && old == v {
				continue
			}
			if ok && (key == "log_file" || key == "log_format") {
				return fmt.Errorf("%w: %s cannot be changed while the server runs", ErrUnsupported,
					key)
			}
		}
		return fmt.Errorf("%w: log setting %.64q with value %.64v", wire.ErrBadRequest, key, value)
	}
	level := slog.LevelError
	switch {
	case now["log_verbose_level"].(int) > 0:
		level = slog.LevelDebug
	case now["log_info"].(bool):
		level = slog.LevelInfo
	case now["log_warning"].(bool):
		level = slog.LevelWarn
	}
	c.cfg.LogLevel.Set(level)
	return nil
}
