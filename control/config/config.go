// Package config is the server's settings: one YAML file, read strictly.
//
// [Default] gives the values, [Load] reads a file over them, [Config.Validate]
// holds the values against the bounds that the fields' tags and a few rules
// between them set. All faults come back at once, as an [Error] that names
// file, line, key and what is allowed. docs/config.md is made from the types
// of this file and their comments.
//
// The package reads and checks; it starts nothing.
package config

import "time"

//go:generate go run ./gendoc ../../docs/config.md

// Config is everything that a settings file says.
type Config struct {
	Server     Server     `yaml:"server"`
	Runtime    Runtime    `yaml:"runtime"`
	Repository Repository `yaml:"repository"`
	// Where versions of models come from, beside the folders of repository.
	Sources []Source `yaml:"sources"`
	// Settings of single models, by their names. They stand above the model's
	// own config.pbtxt.
	Models []Model `yaml:"models"`
	// What clients call: each sends its requests to versions of a model.
	Endpoints []Endpoint `yaml:"endpoints"`
	// Who watches the endpoints for drift.
	Monitors []Monitor `yaml:"monitors"`
	// Where samples of the endpoints' traffic go.
	Taps []Tap `yaml:"taps"`
	// What starts pipelines elsewhere, such as a training, when something happens.
	Triggers []Trigger `yaml:"triggers"`
}

// Server is where the server listens and what it takes in.
type Server struct {
	// Address of the REST protocols, `host:port` or `unix:/path`. Empty switches them off.
	HTTP string `yaml:"http" check:"address"`
	// Address of gRPC, `host:port` or `unix:/path`. Empty switches it off.
	GRPC string `yaml:"grpc" check:"address"`
	// Address of /metrics and health, `host:port` or `unix:/path`. Empty switches it off.
	Admin string `yaml:"admin" check:"address"`
	// Folder of what the server itself keeps: the endpoints last in force, rewards. A
	// relative path starts at the settings file. It is made when there is something to keep.
	Data string `yaml:"data" check:"filled"`
	// Name in the server's metadata. Some clients ask for `triton`.
	Name string `yaml:"name" check:"filled"`
	// How long requests under way may take to end after SIGTERM.
	Grace time.Duration `yaml:"grace" min:"0s" max:"1h"`
	// Threads that run Go code at once. 0 is two more than there are cores: those in runs of
	// models and those that wait for requests count too.
	Threads   int       `yaml:"threads" min:"0" max:"1024"`
	Limits    Limits    `yaml:"limits"`
	Feedback  Feedback  `yaml:"feedback"`
	Pipelines Pipelines `yaml:"pipelines"`
	JSON      JSON      `yaml:"json"`
	Log       Log       `yaml:"log"`
}

// Limits bound what is taken in before anything is known about a request.
type Limits struct {
	// One request's body, after decompression too.
	BodyBytes Size `yaml:"body_bytes" min:"1KiB" max:"16GiB"`
	// One request's header.
	HeaderBytes Size `yaml:"header_bytes" min:"1KiB" max:"1MiB"`
	// Open connections, of HTTP and of gRPC each.
	Connections int `yaml:"connections" min:"1" max:"1000000"`
	// All request bodies together.
	BytesInFlight Size `yaml:"bytes_in_flight" min:"1MiB" max:"1TiB"`
	// Requests that are not yet answered.
	RequestsInFlight int `yaml:"requests_in_flight" min:"1" max:"1000000"`
	// Time for a request's header and body to come in.
	ReadTimeout time.Duration `yaml:"read_timeout" min:"1s" max:"1h"`
	// Time that a connection may rest between requests.
	IdleTimeout time.Duration `yaml:"idle_timeout" min:"1s" max:"24h"`
	// Time for the answer to a request that brings no timeout of its own. 0 is none.
	RequestTimeout time.Duration `yaml:"request_timeout" min:"0s" max:"24h"`
	// HTTP status of requests that are refused under overload.
	RetryStatus int `yaml:"retry_status" enum:"429,503"`
}

// Feedback is how long rewards and labels may come for an answer.
type Feedback struct {
	// Time after the answer.
	Window time.Duration `yaml:"window" min:"1m" max:"2160h"`
	// Requests that are remembered, the newest; 24 bytes each, and up to 80 more where
	// feedback comes. A crash forgets those for which nothing came.
	Requests int `yaml:"requests" min:"1000" max:"16777216"`
}

// Pipelines is what all triggers share.
type Pipelines struct {
	// Runs of all triggers at once; more wait.
	MaxRuns int `yaml:"max_runs" min:"1" max:"10000"`
	// Environment variable with the bearer token that Alertmanager's webhooks must have. Without
	// a token all are taken that reach the admin address.
	AlertTokenEnv string `yaml:"alert_token_env"`
	// File with that token.
	AlertTokenFile string `yaml:"alert_token_file"`
}

// JSON is how JSON answers are written.
type JSON struct {
	// NaN and the infinities: `bare` writes NaN, Infinity, -Infinity, which
	// most clients read and the JSON standard has not; `null` writes null.
	NaN string `yaml:"nan" enum:"bare,null"`
}

// Log is what is logged to standard error, and how.
type Log struct {
	// The least level that is logged.
	Level string `yaml:"level" enum:"debug,info,warn,error"`
	// One line of text or one JSON object each.
	Format string `yaml:"format" enum:"text,json"`
}

// Runtime is ONNX Runtime and how it runs models. The server has to be started
// anew for changes here.
type Runtime struct {
	// Path of libonnxruntime.so. Empty looks at the environment variable
	// MILLRACE_ONNXRUNTIME, beside the binary, inside it, and in the cache.
	Library string `yaml:"library"`
	// Execution providers in the order of preference; none means the CPU.
	Providers []Provider `yaml:"providers"`
	// Leave out a provider that the library lacks instead of refusing the model.
	Fallback bool `yaml:"fallback"`
	// Threads within one run. 1 gives the best throughput; more shorten a
	// single run of a large model. 0 is one a core.
	IntraOpThreads int `yaml:"intra_op_threads" min:"0" max:"1024"`
	// Threads over independent parts of a model; above 1 only for models that
	// have many.
	InterOpThreads int `yaml:"inter_op_threads" min:"0" max:"1024"`
	// Optimisations of the graph when a model is loaded.
	GraphLevel string `yaml:"graph_level" enum:"disable,basic,extended,all"`
	// Keep the memory of finished runs for the next ones.
	Arena bool `yaml:"arena"`
	// Threads that wait for work burn a core meanwhile.
	Spinning bool `yaml:"spinning"`
	// Further session settings by ONNX Runtime's own keys.
	Entries map[string]string `yaml:"entries"`
}

// Provider is an execution provider.
type Provider struct {
	// cpu, cuda, tensorrt, openvino, or ONNX Runtime's own name.
	Name string `yaml:"name" check:"filled"`
	// By ONNX Runtime's keys, such as device_id and gpu_mem_limit.
	Options map[string]string `yaml:"options"`
}

// Repository is where models come from. The server has to be started anew for
// changes of mode and paths.
type Repository struct {
	// Folders with models. A relative path starts at the settings file.
	Paths []string `yaml:"paths"`
	// `none` loads all models once, `poll` follows changes in the folders,
	// `explicit` loads what `load` and the load API say.
	Mode string `yaml:"mode" enum:"none,poll,explicit"`
	// Models to load at start in mode explicit. `*` means all.
	Load []string `yaml:"load"`
	// How often the folders are looked at in mode poll, besides notifications.
	PollInterval time.Duration `yaml:"poll_interval" min:"10ms" max:"24h"`
	Trial        Trial         `yaml:"trial"`
}

// Trial is how a model is tried in a process of its own before it is loaded.
type Trial struct {
	// Memory that the trial of one model may take.
	Memory Size `yaml:"memory" min:"64MiB" max:"16TiB"`
	// Time for loading a model and its first runs.
	Timeout time.Duration `yaml:"timeout" min:"1s" max:"24h"`
	// Folder that remembers which models have passed. Empty is the folder
	// `millrace/trials` of the user's cache.
	Cache string `yaml:"cache"`
}

// Model is the settings of one model. What is left out is as in its config.pbtxt.
type Model struct {
	// The model's folder name.
	Name string `yaml:"name" check:"filled"`
	// Name of the source that its versions come from. Empty is a folder of repository.
	Source string `yaml:"source"`
	// The model's name at its source. Empty is its own.
	Registered string   `yaml:"registered"`
	Batching   Batching `yaml:"batching"`
	Version    Versions `yaml:"version_policy"`
	// Execution providers in the order of preference, in place of the runtime's.
	Providers []Provider `yaml:"providers"`
	// Leave out a provider that the library lacks instead of refusing the model.
	Fallback *bool `yaml:"fallback"`
	// Threads within one run, in place of the runtime's.
	IntraOpThreads *int `yaml:"intra_op_threads" min:"0" max:"1024"`
	// Runs at once. 0 is learned, and one on a GPU.
	Instances *int `yaml:"instances" min:"0" max:"256"`
	// Names of versions, such as `champion: 3`. Endpoints and requests say `@champion`.
	Aliases map[string]string `yaml:"aliases"`
	Cache   *Cache            `yaml:"cache"`
	Golden  *Golden           `yaml:"golden"`
}

// Golden is a set of inputs whose answers are known. A version from a source needs a score on it
// before it may serve.
type Golden struct {
	// JSON or CSV, by the ending of its name. A relative path starts at the settings file.
	File string `yaml:"file" check:"filled"`
	// How answers are scored, by scikit-learn's names. Empty is accuracy.
	Metric string `yaml:"metric" enum:",accuracy,balanced_accuracy,roc_auc,r2,mae,rmse"`
	// The least score that will do; not for mae and rmse.
	MinScore *float64 `yaml:"min_score" min:"-1e300" max:"1e300"`
	// The largest error that will do, for mae and rmse.
	MaxError *float64 `yaml:"max_error" min:"0" max:"1e300"`
	// Time for all that a new version has to show. 0 is 1m.
	Timeout time.Duration `yaml:"timeout" min:"0s" max:"1h"`
}

// Cache says how answers are kept for equal requests. Without it none are.
type Cache struct {
	// Inputs and outputs of all answers that are kept for the model.
	MaxBytes Size `yaml:"max_bytes" min:"64KiB" max:"1TiB"`
	// How long an answer is good for. 0 is for as long as its version serves.
	TTL time.Duration `yaml:"ttl" min:"0s" max:"8760h"`
}

// Batching is how requests for one model are put together.
type Batching struct {
	// Rows of one run at most; 1 runs each request alone.
	MaxBatchSize *int `yaml:"max_batch_size" min:"1" max:"65536"`
	// How long a request may wait for company. 0 sends at once.
	MaxQueueDelay *time.Duration `yaml:"max_queue_delay" min:"0s" max:"1m"`
	// Batch sizes that end the wait.
	PreferredBatchSize []int `yaml:"preferred_batch_size" min:"1" max:"65536"`
	// Number of priorities, 1 the highest. 0 makes all requests alike.
	PriorityLevels *int  `yaml:"priority_levels" min:"0" max:"64"`
	Queue          Queue `yaml:"queue"`
	// Batches are kept so small that waiting and running take no longer. 0 is none.
	LatencyTarget *time.Duration `yaml:"latency_target" min:"0s" max:"1h"`
}

// Queue bounds the requests that wait for one model.
type Queue struct {
	// Requests.
	Size *int `yaml:"size" min:"1" max:"1000000"`
	// Their tensors' bytes.
	Bytes *Size `yaml:"bytes" min:"1KiB" max:"1TiB"`
}

// Versions says which versions of a model are loaded. One key at most may be set.
type Versions struct {
	// The n highest.
	Latest *int `yaml:"latest" min:"1" max:"10000"`
	// All there are.
	All *bool `yaml:"all"`
	// Just these.
	Specific []string `yaml:"specific"`
}

// Default returns the values that hold where a file says nothing.
func Default() Config {
	return Config{
		Server: Server{
			HTTP: "127.0.0.1:8000", GRPC: "127.0.0.1:8001", Admin: "127.0.0.1:8002",
			Data: "data", Name: "millrace", Grace: 30 * time.Second,
			Limits: Limits{
				BodyBytes: 64 << 20, HeaderBytes: 16 << 10, Connections: 16 << 10,
				BytesInFlight: 1 << 30, RequestsInFlight: 64 << 10,
				ReadTimeout: time.Minute, IdleTimeout: 5 * time.Minute, RetryStatus: 429,
			},
			Feedback:  Feedback{Window: time.Hour, Requests: 1 << 17},
			Pipelines: Pipelines{MaxRuns: 16},
			JSON:      JSON{NaN: "bare"},
			Log:       Log{Level: "info", Format: "text"},
		},
		Runtime: Runtime{
			IntraOpThreads: 1, InterOpThreads: 1, GraphLevel: "all", Arena: true,
		},
		Repository: Repository{
			Mode: "none", PollInterval: 15 * time.Second,
			Trial: Trial{Memory: 8 << 30, Timeout: time.Minute},
		},
	}
}
