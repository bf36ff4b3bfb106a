"""Calls endpoints with tritonclient.

Usage: test_tritonclient.py HTTP_ADDRESS GRPC_ADDRESS
"""

import contextlib
import queue
import sys

import grpc
import samples
import tritonclient.grpc as tg
import tritonclient.http as th
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

HTTP, GRPC = sys.argv[1], sys.argv[2]
RISK = {"x-team": "risk"}  # whom the rules of the endpoints send to the canary


def inputs(module, case):
    out = []
    for name, value in case.inputs.items():
        i = module.InferInput(name, list(value.shape), case.datatypes[name])
        i.set_data_from_numpy(value)
        out.append(i)
    return out


def names(module, case):
    return [module.InferRequestedOutput(name) for name in case.outputs]


def ask(client, module, endpoint, case, headers=None, **how):
    """Asks an endpoint, holds the answer against the case, and returns the version."""
    how["headers"] = headers and dict(headers)  # to which the client adds its own
    result = client.infer(endpoint, inputs(module, case), outputs=names(module, case), **how)
    case.hold({name: result.as_numpy(name) for name in case.outputs})
    answer = result.get_response()
    name, version = (answer["model_name"], answer["model_version"]) if module is th else (
        answer.model_name, answer.model_version)
    assert name == endpoint, f"the answer is from {name}, {endpoint} was asked"
    return version


def refused(call, word):
    try:
        call()
    except InferenceServerException as e:
        assert word in str(e), f"{word!r} is not in {e}"
        return
    raise AssertionError("was not refused")


def routes(client, module):
    for endpoint, model in [("iris", "iris"), ("flowers", "iris"), ("bills", "tips"),
                            ("sums", "simple")]:
        for case in samples.cases(model):
            assert ask(client, module, endpoint, case) == "1", endpoint
            assert ask(client, module, endpoint, case, headers=RISK) == "2", endpoint
            assert ask(client, module, endpoint, case, headers={"x-team": "sales"}) == "1"
    case = samples.cases("iris")[0]
    for version, want in [("1", "1"), ("2", "2"), ("@challenger", "2"), ("@champion", "1")]:
        assert ask(client, module, "flowers", case, model_version=version, headers=RISK) == want
    refused(lambda: ask(client, module, "flowers", case, model_version="3"), "3")
    refused(lambda: ask(client, module, "nobody", case), "nobody")
    refused(lambda: client.infer("bills", inputs(module, case)), "X")


def described(client):
    assert client.is_model_ready("flowers") and client.is_model_ready("flowers", "2")
    assert not client.is_model_ready("nobody") and not client.is_model_ready("flowers", "3")


def test_http():
    with th.InferenceServerClient(HTTP) as c:
        routes(c, th)
        described(c)
        meta = c.get_model_metadata("flowers")
        assert meta["name"] == "flowers" and meta["inputs"] == [
            {"name": "X", "datatype": "FP32", "shape": [-1, 4]}], meta
        assert set(meta["versions"]) >= {"1"}, meta
        assert c.get_model_config("sums")["max_batch_size"] == 8
        waiting = [c.async_infer("sums", inputs(th, case), headers=dict(RISK))
                   for case in samples.cases("simple") * 20]
        for w in waiting:
            assert w.get_result().get_response()["model_version"] == "2"
        wine = inputs(th, samples.cases("wine")[0])
        with contextlib.suppress(InferenceServerException):
            c.infer("closed", wine)
        refused(lambda: c.infer("closed", wine), "requests a second")


def counted(stats):
    return {s["name"] + "/" + s["version"]: int(s["inference_stats"]["success"]["count"])
            for s in stats["model_stats"]}


def test_statistics():
    with th.InferenceServerClient(HTTP) as c, tg.InferenceServerClient(GRPC) as g:
        before = counted(c.get_inference_statistics("counted"))
        for case in samples.cases("digits"):
            ask(c, th, "counted", case)
            ask(g, tg, "counted", case)
        got = counted(c.get_inference_statistics("counted"))
        assert got == counted(g.get_inference_statistics("counted", as_json=True)), got
        grown = {k: n - before.get(k, 0) for k, n in got.items()}
        assert list(grown.values()) == [2 * len(samples.cases("digits"))], grown


def test_grpc():
    with tg.InferenceServerClient(GRPC) as c:
        routes(c, tg)
        described(c)
        meta = c.get_model_metadata("flowers")
        assert meta.name == "flowers" and list(meta.inputs[0].shape) == [-1, 4], meta
        assert c.get_model_config("sums").config.max_batch_size == 8


def test_grpc_metadata():
    case = samples.cases("iris")[1]
    with grpc.insecure_channel(GRPC) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        x = case.inputs["X"]
        request = service_pb2.ModelInferRequest(
            model_name="iris", raw_input_contents=[x.tobytes()], inputs=[
                service_pb2.ModelInferRequest.InferInputTensor(
                    name="X", datatype="FP32", shape=x.shape)])

        def ask(*sent, version=""):
            request.model_version = version
            answer, call = stub.ModelInfer.with_call(request, metadata=sent)
            got = dict(call.initial_metadata()) | dict(call.trailing_metadata())
            assert got["x-millrace-version"] == answer.model_version, got
            return answer.model_version, got["x-millrace-route"], got["x-request-id"]

        version, route, made_up = ask()
        assert (version, route) == ("1", "stable") and len(made_up) >= 16
        assert ask(("x-team", "risk"), ("x-request-id", "mine")) == ("2", "canary", "mine")
        assert ask(("x-team", "risk"), version="1")[:2] == ("1", "pinned")
        assert ask(("x-millrace-version", "2"))[:2] == ("2", "pinned")


def test_stream():
    answers = queue.Queue()
    cases = samples.cases("simple")
    for headers, version in [(None, "1"), (RISK, "2")]:
        with tg.InferenceServerClient(GRPC) as c:
            c.start_stream(lambda result, error: answers.put((result, error)), headers=headers)
            for n in range(60):
                c.async_stream_infer("sums", inputs(tg, cases[n % len(cases)]), request_id=str(n))
            seen = set()
            for _ in range(60):
                result, error = answers.get(timeout=20)
                assert error is None, error
                answer = result.get_response()
                assert answer.model_version == version, answer.model_version
                case = cases[int(answer.id) % len(cases)]
                case.hold({name: result.as_numpy(name) for name in case.outputs})
                seen.add(answer.id)
            assert len(seen) == 60
            c.stop_stream()


def test_http_headers():
    body = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 4],
                        "data": samples.cases("iris")[0].inputs["X"].ravel().tolist()}]}

    def ask(path="/v2/models/iris/infer", **sent):
        status, headers, text = samples.post("http://" + HTTP + path, body, **sent)
        assert status == 200 and b"setosa" in text, text
        return headers["x-millrace-version"], headers["x-millrace-route"], headers["x-request-id"]

    version, route, made_up = ask()
    assert (version, route) == ("1", "stable") and len(made_up) >= 16
    assert ask(x_team="risk", x_request_id="mine") == ("2", "canary", "mine")
    assert ask(x_team="risk", x_millrace_version="1")[:2] == ("1", "pinned")
    for path in ["/v2/models/iris/versions/2/infer", "/v2/models/iris/versions/@challenger/infer"]:
        assert ask(path)[:2] == ("2", "pinned")
    assert ask("/v2/models/wide/infer")[1] in ("stable", "canary")


def test_compression():
    with th.InferenceServerClient(HTTP) as c:
        for algorithm in ("gzip", "deflate"):
            for case in samples.cases("simple"):
                how = {"request_compression_algorithm": algorithm,
                       "response_compression_algorithm": algorithm}
                assert ask(c, th, "sums", case, headers=RISK, **how) == "2"


samples.run(globals())
