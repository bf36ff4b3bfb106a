package grpc

import (
	"context"
	"fmt"
	"strings"

	"github.com/millrace-ml/millrace/gateway"
	"github.com/millrace-ml/millrace/gateway/grpc/pb"
	"github.com/millrace-ml/millrace/gateway/wire"
	"github.com/millrace-ml/millrace/runtime/batch"
	"github.com/millrace-ml/millrace/runtime/model"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// service answers the calls that are generated messages. Those that it lacks
// answer UNIMPLEMENTED.
type service struct {
	pb.UnimplementedGRPCInferenceServiceServer
	*Server
}

func (s *service) ServerLive(context.Context,
	*pb.ServerLiveRequest) (*pb.ServerLiveResponse, error) {
	return &pb.ServerLiveResponse{Live: true}, nil
}

func (s *service) ServerReady(context.Context,
	*pb.ServerReadyRequest) (*pb.ServerReadyResponse, error) {
	return &pb.ServerReadyResponse{Ready: s.core.Ready()}, nil
}

func (s *service) ModelReady(_ context.Context,
	r *pb.ModelReadyRequest) (*pb.ModelReadyResponse, error) {
	v, err := s.core.Served([]byte(r.Name), []byte(r.Version))
	if err != nil {
		return &pb.ModelReadyResponse{}, nil
	}
	v.Release()
	return &pb.ModelReadyResponse{Ready: true}, nil
}

func (s *service) ServerMetadata(context.Context,
	*pb.ServerMetadataRequest) (*pb.ServerMetadataResponse, error) {
	return &pb.ServerMetadataResponse{
		Name: s.core.ServerName(), Version: s.core.ServerVersion(), Extensions: s.core.Extensions(),
	}, nil
}

func (s *service) ModelMetadata(_ context.Context,
	r *pb.ModelMetadataRequest) (*pb.ModelMetadataResponse, error) {
	v, err := s.core.Served([]byte(r.Name), []byte(r.Version))
	if err != nil {
		return nil, s.failure(err)
	}
	defer v.Release()
	return &pb.ModelMetadataResponse{
		Name: r.Name, Versions: s.core.Models().Versions(v.Name()), Platform: v.Platform(),
		Inputs: tensors(v.Signature().Inputs), Outputs: tensors(v.Signature().Outputs),
	}, nil
}

func tensors(specs []tensor.Spec) []*pb.ModelMetadataResponse_TensorMetadata {
	list := make([]*pb.ModelMetadataResponse_TensorMetadata, len(specs))
	for i := range specs {
		list[i] = &pb.ModelMetadataResponse_TensorMetadata{
			Name: specs[i].Name, Datatype: specs[i].Datatype.String(), Shape: specs[i].Shape,
		}
	}
	return list
}

func (s *service) ModelConfig(_ context.Context,
	r *pb.ModelConfigRequest) (*pb.ModelConfigResponse, error) {
	v, err := s.core.Served([]byte(r.Name), []byte(r.Version))
	if err != nil {
		return nil, s.failure(err)
	}
	defer v.Release()
	return &pb.ModelConfigResponse{Config: v.Config()}, nil
}

func (s *service) ModelStatistics(_ context.Context,
	r *pb.ModelStatisticsRequest) (*pb.ModelStatisticsResponse, error) {
	answer := new(pb.ModelStatisticsResponse)
	if r.Name == "" {
		s.core.Models().Each(func(v *model.Version) {
			answer.ModelStats = append(answer.ModelStats, statistics(v, s.core.Statistics(v)))
		})
		return answer, nil
	}
	v, err := s.core.Served([]byte(r.Name), []byte(r.Version))
	if err != nil {
		return nil, s.failure(err)
	}
	defer v.Release()
	answer.ModelStats = append(answer.ModelStats, statistics(v, s.core.Statistics(v)))
	return answer, nil
}

func duration(d batch.Duration) *pb.StatisticDuration {
	return &pb.StatisticDuration{Count: d.Count, Ns: d.NS}
}

func statistics(v *model.Version, s gateway.Statistics) *pb.ModelStatistics {
	m := &pb.ModelStatistics{
		Name: v.Name(), Version: v.Version(),
		InferenceCount: s.Inferences, ExecutionCount: s.Executions,
		InferenceStats: &pb.InferStatistics{
			Success: duration(s.Success), Fail: duration(s.Fail), Queue: duration(s.Queue),
			ComputeInput: duration(s.ComputeInput), ComputeInfer: duration(s.ComputeInfer),
			ComputeOutput: duration(s.ComputeOutput),
			CacheHit:      duration(s.CacheHit), CacheMiss: duration(s.CacheMiss),
		},
		MemoryUsage: []*pb.MemoryUsage{{Type: "CPU", ByteSize: uint64(v.FileBytes())}},
	}
	if !s.LastRun.IsZero() {
		m.LastInference = uint64(s.LastRun.UnixMilli())
	}
	for _, b := range s.Sizes {
		m.BatchStats = append(m.BatchStats, &pb.InferBatchStatistics{
			BatchSize: uint64(b.Rows), ComputeInput: duration(b.ComputeInput),
			ComputeInfer: duration(b.ComputeInfer), ComputeOutput: duration(b.ComputeOutput),
		})
	}
	return m
}

func (s *service) RepositoryIndex(_ context.Context,
	r *pb.RepositoryIndexRequest) (*pb.RepositoryIndexResponse, error) {
	answer := new(pb.RepositoryIndexResponse)
	for _, e := range s.core.Models().Index(r.Ready) {
		answer.Models = append(answer.Models, &pb.RepositoryIndexResponse_ModelIndex{
			Name: e.Name, Version: e.Version, State: string(e.State), Reason: e.Reason,
		})
	}
	return answer, nil
}

func (s *service) RepositoryModelLoad(_ context.Context,
	r *pb.RepositoryModelLoadRequest) (*pb.RepositoryModelLoadResponse, error) {
	o := model.LoadOptions{Files: make(map[string][]byte)}
	for key, p := range r.Parameters {
		path, file := strings.CutPrefix(key, "file:")
		data, bytes := p.GetParameterChoice().(*pb.ModelRepositoryParameter_BytesParam)
		switch {
		case file && bytes:
			o.Files[path] = data.BytesParam
		case key == "config":
			o.Config = []byte(p.GetStringParam())
		default:
			return nil, s.failure(fmt.Errorf("%w: load takes the parameters \"config\", a string, "+
				"and \"file:<version>/<path>\", bytes; got %.64q", wire.ErrBadRequest, key))
		}
	}
	if err := s.core.Load(r.ModelName, o); err != nil {
		return nil, s.failure(err)
	}
	return &pb.RepositoryModelLoadResponse{}, nil
}

func (s *service) RepositoryModelUnload(_ context.Context,
	r *pb.RepositoryModelUnloadRequest) (*pb.RepositoryModelUnloadResponse, error) {
	if err := s.core.Unload(r.ModelName); err != nil {
		return nil, s.failure(err)
	}
	return &pb.RepositoryModelUnloadResponse{}, nil
}

func (s *service) LogSettings(_ context.Context,
	r *pb.LogSettingsRequest) (*pb.LogSettingsResponse, error) {
	settings := make(map[string]any)
	for key, v := range r.Settings {
		switch p := v.ParameterChoice.(type) {
		case *pb.LogSettingsRequest_SettingValue_BoolParam:
			settings[key] = p.BoolParam
		case *pb.LogSettingsRequest_SettingValue_Uint32Param:
			settings[key] = float64(p.Uint32Param)
		case *pb.LogSettingsRequest_SettingValue_StringParam:
			settings[key] = p.StringParam
		}
	}
	if err := s.core.SetLogSettings(settings); err != nil {
		return nil, s.failure(err)
	}
	answer := &pb.LogSettingsResponse{Settings: make(
		map[string]*pb.LogSettingsResponse_SettingValue)}
	for key, v := range s.core.LogSettings() {
		value := new(pb.LogSettingsResponse_SettingValue)
		switch v := v.(type) {
		case bool:
			value.ParameterChoice = &pb.LogSettingsResponse_SettingValue_BoolParam{BoolParam: v}
		case int:
			value.ParameterChoice = &pb.LogSettingsResponse_SettingValue_Uint32Param{
				Uint32Param: uint32(v)}
		case string:
			value.ParameterChoice = &pb.LogSettingsResponse_SettingValue_StringParam{StringParam: v}
		}
		answer.Settings[key] = value
	}
	return answer, nil
}

func (s *service) unsupported(what string) error {
	return s.failure(fmt.Errorf("%w: %s", gateway.ErrUnsupported, what))
}

func (s *service) SystemSharedMemoryStatus(context.Context,
	*pb.SystemSharedMemoryStatusRequest) (*pb.SystemSharedMemoryStatusResponse, error) {
	return nil, s.unsupported("shared memory; send tensors in the message")
}

func (s *service) SystemSharedMemoryRegister(context.Context,
	*pb.SystemSharedMemoryRegisterRequest) (*pb.SystemSharedMemoryRegisterResponse, error) {
	return nil, s.unsupported("shared memory; send tensors in the message")
}

func (s *service) SystemSharedMemoryUnregister(context.Context,
	*pb.SystemSharedMemoryUnregisterRequest) (*pb.SystemSharedMemoryUnregisterResponse, error) {
	return nil, s.unsupported("shared memory; send tensors in the message")
}

func (s *service) CudaSharedMemoryStatus(context.Context,
	*pb.CudaSharedMemoryStatusRequest) (*pb.CudaSharedMemoryStatusResponse, error) {
	return nil, s.unsupported("CUDA shared memory; send tensors in the message")
}

func (s *service) CudaSharedMemoryRegister(context.Context,
	*pb.CudaSharedMemoryRegisterRequest) (*pb.CudaSharedMemoryRegisterResponse, error) {
	return nil, s.unsupported("CUDA shared memory; send tensors in the message")
}

func (s *service) CudaSharedMemoryUnregister(context.Context,
	*pb.CudaSharedMemoryUnregisterRequest) (*pb.CudaSharedMemoryUnregisterResponse, error) {
	return nil, s.unsupported("CUDA shared memory; send tensors in the message")
}

func (s *service) TraceSetting(context.Context,
	*pb.TraceSettingRequest) (*pb.TraceSettingResponse, error) {
	return nil, s.unsupported("trace settings; watch the metrics")
}
