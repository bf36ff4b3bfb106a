"""Calls endpoints with the clients of kserve: V1 and V2 by REST, V2 by gRPC.

Usage: test_kserve.py HTTP_ADDRESS GRPC_ADDRESS
"""

import asyncio
import contextlib
import sys

import grpc
import httpx
import samples
from kserve import InferInput, InferRequest, InferenceGRPCClient, InferenceRESTClient
from kserve.inference_client import RESTConfig

BASE, GRPC = "http://" + sys.argv[1], sys.argv[2]
RISK = {"x-team": "risk"}  # whom the rules of the endpoints send to the canary


async def refused(call, status, *words):
    """Wants an error as the REST client tells it: with the text that the server sent."""
    try:
        await call
    except httpx.HTTPStatusError as e:
        assert e.response.status_code == status, e
        for word in words:
            assert word in str(e), f"{word!r} is not in {e}"
        return
    raise AssertionError("was not refused")


def rows(case):
    """Returns the rows as V1 has them: bare where there is one input only."""
    if len(case.inputs) == 1:
        return next(iter(case.inputs.values())).tolist()
    return [{name: value[i].tolist() for name, value in case.inputs.items()}
            for i in range(case.rows)]


def hold_rows(case, predictions):
    """Holds rows of V1 against the answer: bare where there is one output only."""
    if len(case.outputs) == 1:
        predictions = [{name: row for name in case.outputs} for row in predictions]
    case.hold_rows(predictions)


MODELS = {"iris": "iris", "flowers": "iris", "bills": "tips", "sums": "simple",
          "diabetes": "diabetes", "wine": "wine", "digits": "digits", "mlp": "mlp",
          "breast_cancer": "breast_cancer", "simple_string": "simple_string"}


async def v1():
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as c:
        for endpoint, model in MODELS.items():
            assert await c.is_model_ready(BASE, endpoint) is True
            for case in samples.cases(model):
                answer = await c.infer(BASE, {"instances": rows(case)}, endpoint)
                hold_rows(case, answer["predictions"])
                columns = {name: value.tolist() for name, value in case.inputs.items()}
                answer = await c.infer(BASE, {"inputs": columns}, endpoint)
                hold_rows(case, answer["predictions"])
        case = samples.cases("iris")[0]
        for sent, version, route in [({}, "1", "stable"), (RISK, "2", "canary"),
                                     ({"x-millrace-version": "2"}, "2", "pinned")]:
            got = {}
            await c.infer(BASE, {"instances": rows(case)}, "iris", sent, got)
            assert (got["x-millrace-version"], got["x-millrace-route"]) == (version, route), got
            assert got["content-type"] == "application/json", got
        good = {"instances": rows(case)}
        await refused(c.infer(BASE, good, "nobody"), 404, "nobody")
        await refused(c.is_model_ready(BASE, "nobody"), 404, "nobody")
        await refused(c.infer(BASE, good, "bills"), 400, "row", "total_bill")
        await refused(c.infer(BASE, {"instances": [["a", 1, 2, 3]]}, "iris"), 400, "'X'")
        await refused(c.infer(BASE, {"instances": [[1, 2, 3]]}, "iris"), 400, "4")
        await refused(c.infer(BASE, {"data": [[1, 2, 3, 4]]}, "iris"), 400, "instances")
        await refused(c.explain(BASE, "iris", good), 501, "explain")
        wine = {"instances": rows(samples.cases("wine")[0])}
        with contextlib.suppress(httpx.HTTPStatusError):
            await c.infer(BASE, wine, "closed")
        await refused(c.infer(BASE, wine, "closed"), 429, "requests a second")


async def v1_live():
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as c:
        assert await c.is_server_live(BASE) is True


def request(endpoint, case, binary=True, **how):
    inputs = []
    for name, value in case.inputs.items():
        i = InferInput(name, list(value.shape), case.datatypes[name])
        i.set_data_from_numpy(value, binary_data=binary)
        inputs.append(i)
    return InferRequest(endpoint, inputs, **how)


def hold(case, answer, endpoint):
    """Holds an answer of V2 against the case and returns the version, which REST leaves out."""
    assert answer.model_name == endpoint, answer.model_name
    case.hold({o.name: o.as_numpy() for o in answer.outputs})
    return answer.model_version


async def v2():
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as c:
        assert await c.is_server_ready(BASE) is True
        assert await c.is_server_live(BASE) is True
        assert not await c.is_model_ready(BASE, "nobody")
        for endpoint, model in MODELS.items():
            assert await c.is_model_ready(BASE, endpoint)
            for case in samples.cases(model):
                for binary in (True, False):
                    for parameters in (None, {"binary_data_output": True}):
                        r = request(endpoint, case, binary, request_id="7", parameters=parameters)
                        got = {}
                        answer = await c.infer(BASE, r, endpoint, response_headers=got)
                        hold(case, answer, endpoint)
                        assert answer.id == "7" and got["x-millrace-version"] == "1", got
        case = samples.cases("digits_fp16")[0]
        r = request("digits_fp16", case, parameters={"binary_data_output": True})
        hold(case, await c.infer(BASE, r, "digits_fp16"), "digits_fp16")
        case, got = samples.cases("iris")[0], {}
        answer = await c.infer(BASE, request("iris", case), "iris", dict(RISK), got)
        hold(case, answer, "iris")
        assert (got["x-millrace-version"], got["x-millrace-route"]) == ("2", "canary"), got
        await refused(c.infer(BASE, request("nobody", case), "nobody"), 404, "nobody")
        await refused(c.infer(BASE, request("bills", case), "bills"), 400, "X")
        await refused(c.infer(BASE, {"inputs": []}, "iris"), 400, "X")


async def v2_grpc():
    async with InferenceGRPCClient(GRPC) as c:
        assert await c.is_server_ready() and await c.is_server_live()
        for endpoint, model in MODELS.items():
            assert await c.is_model_ready(endpoint)
            for case in samples.cases(model):
                for binary in (True, False):
                    answer = await c.infer(request(endpoint, case, binary))
                    assert hold(case, answer, endpoint) == "1"
                answer = await c.infer(request(endpoint, case, model_version="1"))
                assert hold(case, answer, endpoint) == "1"
        case = samples.cases("iris")[0]
        answer = await c.infer(request("iris", case), headers=tuple(RISK.items()))
        assert hold(case, answer, "iris") == "2"

        async def refused(name, code):
            try:
                await c.infer(request(name, case))
            except grpc.RpcError as e:
                assert e.code() == code, e
                return
            raise AssertionError("was not refused")

        await refused("nobody", grpc.StatusCode.NOT_FOUND)
        await refused("bills", grpc.StatusCode.INVALID_ARGUMENT)
        assert not await c.is_model_ready("nobody")


def test_v1():
    asyncio.run(v1())


def test_v2():
    asyncio.run(v2())


def test_v2_grpc():
    asyncio.run(v2_grpc())


def test_v1_live():
    asyncio.run(v1_live())


samples.run(globals())
