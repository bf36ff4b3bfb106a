"""Drives a running server with the tritonclient of the Python index.

Usage: test_tritonclient.py HTTP_ADDRESS GRPC_ADDRESS. The server serves the
sample models of configs/models in mode explicit, all loaded.
"""

import asyncio
import queue
import sys

import numpy as np
import tritonclient.grpc as tg
import tritonclient.grpc.aio as tga
import tritonclient.http as th
import tritonclient.http.aio as tha
from tritonclient.utils import InferenceServerException

HTTP, GRPC = sys.argv[1], sys.argv[2]
A = np.arange(16, dtype=np.int32).reshape(1, 16)
B = np.ones((1, 16), dtype=np.int32)


def inputs(module, a=A, b=B, datatype="INT32", **how):
    out = []
    for name, value in (("INPUT0", a), ("INPUT1", b)):
        i = module.InferInput(name, list(value.shape), datatype)
        i.set_data_from_numpy(value, **how)
        out.append(i)
    return out


def check(result, a=A, b=B):
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), a + b)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), a - b)


def refused(call, *words):
    try:
        call()
    except InferenceServerException as e:
        for word in words:
            assert word in str(e), f"{word!r} is not in {e}"
        return
    raise AssertionError("was not refused")


def common(c, module):
    assert c.is_server_live() and c.is_server_ready()
    assert c.is_model_ready("simple") and not c.is_model_ready("nope")
    check(c.infer("simple", inputs(module)))
    check(c.infer("simple", inputs(module), model_version="1", request_id="7", priority=1, timeout=10_000_000))
    eight = np.repeat(A, 8, 0), np.repeat(B, 8, 0)
    check(c.infer("simple", inputs(module, *eight)), *eight)
    nine = np.repeat(A, 9, 0), np.repeat(B, 9, 0)
    refused(lambda: c.infer("simple", inputs(module, *nine)), "batch-size must be <= 8")
    refused(lambda: c.infer("nope", inputs(module)), "Request for unknown model: 'nope'")
    refused(lambda: c.infer("simple", inputs(module)[:1]), "missing required input")
    refused(lambda: c.infer("simple", inputs(module, A[:, :15], B)), "unexpected shape", "[-1,16]", "[1,15]")
    text = np.array([[str(n) for n in range(16)]], dtype=object)
    ones = np.array([["1"] * 16], dtype=object)
    r = c.infer("simple_string", inputs(module, text, ones, "BYTES"))
    assert [int(v) for v in r.as_numpy("OUTPUT0")[0]] == [n + 1 for n in range(16)]
    odd = np.array([["", "a\x00b", "ü", "x" * 5000] * 4], dtype=object)
    i = module.InferInput("INPUT0", [1, 16], "BYTES")
    i.set_data_from_numpy(odd)
    r = c.infer("simple_identity", [i])
    assert [v.decode() for v in r.as_numpy("OUTPUT0")[0]] == list(odd[0])
    wanted = module.InferRequestedOutput("OUTPUT0", class_count=3)
    top = c.infer("simple", inputs(module), outputs=[wanted]).as_numpy("OUTPUT0")
    assert [v.decode().split(":")[1] for v in np.asarray(top).flatten()] == ["15", "14", "13"], top


def http():
    with th.InferenceServerClient(HTTP, concurrency=8) as c:
        common(c, th)
        for binary_in in (True, False):
            for binary_out in (True, False):
                outs = [th.InferRequestedOutput(n, binary_data=binary_out) for n in ("OUTPUT0", "OUTPUT1")]
                check(c.infer("simple", inputs(th, binary_data=binary_in), outputs=outs))
        for algorithm in ("gzip", "deflate"):
            check(c.infer("simple", inputs(th), request_compression_algorithm=algorithm,
                          response_compression_algorithm=algorithm))
        waiting = [c.async_infer("simple", inputs(th)) for _ in range(50)]
        for w in waiting:
            check(w.get_result())
        meta = c.get_server_metadata()
        assert "binary_tensor_data" in meta["extensions"], meta
        meta = c.get_model_metadata("simple")
        assert meta["inputs"][0] == {"name": "INPUT0", "datatype": "INT32", "shape": [-1, 16]}, meta
        assert c.get_model_config("simple")["max_batch_size"] == 8
        s = c.get_inference_statistics("simple")["model_stats"][0]
        assert s["inference_count"] >= s["execution_count"] > 0
        assert s["inference_stats"]["success"]["count"] > 50, s
        names = {m["name"]: m for m in c.get_model_repository_index()}
        assert names["simple"]["state"] == "READY", names
        c.unload_model("wine")
        assert not c.is_model_ready("wine")
        c.load_model("wine")
        assert c.is_model_ready("wine")
        refused(lambda: c.load_model("nope"), "failed to load 'nope'")
        c.load_model("simple", config='{"max_batch_size": 8, "dynamic_batching": {}}')
        check(c.infer("simple", inputs(th)))
        assert c.get_log_settings()["log_error"] is True
        c.update_log_settings({"log_verbose_level": 1})
        assert c.get_log_settings()["log_verbose_level"] == 1
        c.update_log_settings({"log_verbose_level": 0})
        half = np.random.default_rng(1).random((1, 64)).astype(np.float16)
        spec = c.get_model_metadata("digits_fp16")["inputs"][0]
        shape = [1] + [d for d in spec["shape"][1:]]
        i = th.InferInput(spec["name"], shape, "FP16")
        i.set_data_from_numpy(half.reshape(shape))
        out = c.infer("digits_fp16", [i]).get_response()["outputs"][0]
        assert out["datatype"] == "FP16", out
        refused(lambda: c.get_system_shared_memory_status(), "not supported")


def grpc():
    with tg.InferenceServerClient(GRPC) as c:
        common(c, tg)
        check(c.infer("simple", inputs(tg), compression_algorithm="gzip"))
        meta = c.get_model_metadata("simple")
        assert list(meta.inputs[0].shape) == [-1, 16], meta
        assert c.get_model_config("simple").config.max_batch_size == 8
        assert c.get_inference_statistics("simple").model_stats[0].inference_stats.success.count > 3
        assert {m.name for m in c.get_model_repository_index().models} >= {"simple", "digits"}
        c.unload_model("wine")
        assert not c.is_model_ready("wine")
        c.load_model("wine")
        assert c.is_model_ready("wine")
        assert c.get_log_settings().settings["log_error"].bool_param
        check(c.infer("simple", inputs(tg), client_timeout=10.0))
        refused(lambda: c.get_cuda_shared_memory_status(), "not supported")
        answers = queue.Queue()
        c.start_stream(lambda result, error: answers.put((result, error)))
        for n in range(200):
            c.async_stream_infer("simple", inputs(tg, A + n, B), request_id=str(n),
                                 enable_empty_final_response=n % 2 == 0)
        c.async_stream_infer("nope", inputs(tg), request_id="bad")
        got, errors = set(), 0
        for _ in range(201):
            result, error = answers.get(timeout=20)
            if error is not None:
                assert "Request for unknown model" in str(error), error
                errors += 1
                continue
            n = int(result.get_response().id)
            check(result, A + n, B)
            assert result.get_response().parameters["triton_final_response"].bool_param
            got.add(n)
        c.stop_stream()
        assert got == set(range(200)) and errors == 1


async def aio():
    async with tha.InferenceServerClient(HTTP) as c:
        assert await c.is_server_ready()
        for r in await asyncio.gather(*(c.infer("simple", inputs(th)) for _ in range(20))):
            check(r)
    async with tga.InferenceServerClient(GRPC) as c:
        assert await c.is_server_ready()
        for r in await asyncio.gather(*(c.infer("simple", inputs(tg)) for _ in range(20))):
            check(r)


http()
grpc()
asyncio.run(aio())
print("tritonclient: all checks passed")
