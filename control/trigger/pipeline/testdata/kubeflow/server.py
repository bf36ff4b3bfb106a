"""A contract server of Kubeflow Pipelines that is made of its real client, kfp-server-api.

The client's models read what comes and make the answers, and each call has to be the one
that the client would make itself. It is told the API, the token and the header that
names the user, tells its port, and ends when its input does. What the test wants of it lies
below /test/.
"""

import datetime
import http.server
import json
import sys
import threading
import types
import urllib.parse

import kfp_server_api as kfp

EPOCH = datetime.datetime.fromtimestamp(0, datetime.timezone.utc)


class Client(kfp.ApiClient):
    """The real client, which tells its calls in place of making them."""

    def call_api(self, path, method, path_params, query, header, **rest):
        header.update(self.default_headers)
        self.update_params_for_auth(header, query, rest["auth_settings"])
        return method, path.format(**path_params), dict(query), header

    def read(self, text, kind):
        """Reads JSON as a model, which has to know all that is in it."""
        data = json.loads(text)
        known(data, kind)
        model = self.deserialize(types.SimpleNamespace(data=text), kind)
        again = self.sanitize_for_serialization(model)
        if again != data:  # a value of another type
            raise ValueError(f"{data} is read as {again}")
        return model


def known(data, kind):
    """Wants keys and words that a model knows; the client passes over all others."""
    if kind.startswith("list["):
        for item in data:
            known(item, kind[len("list[") : -1])
        return
    model = getattr(kfp, kind, None)
    if model is None:
        return  # a plain value, or a map of them
    if hasattr(model, "allowable_values"):
        if data not in model.allowable_values:
            raise ValueError(f"{data!r} is no {kind}")
        return
    attributes = {key: name for name, key in model.attribute_map.items()}
    for key, value in data.items():
        if key not in attributes:
            raise ValueError(f"{kind} has no {key!r}")
        known(value, model.openapi_types[attributes[key]])


class V2beta1:
    """The API v2beta1."""

    def __init__(self, client):
        api = kfp.RunServiceApi(client)
        self.client, self.runs = client, []
        self.post, self.list = api.run_service_create_run, api.run_service_list_runs
        self.get, self.terminate = api.run_service_get_run, api.run_service_terminate_run
        self.states = kfp.V2beta1RuntimeState.allowable_values

    def create(self, text, number):
        run = self.client.read(text, "V2beta1Run")
        if not run.display_name or not run.pipeline_version_reference.pipeline_id:
            raise ValueError("a run needs a name and a pipeline")
        run.run_id, run.storage_state = number, "AVAILABLE"
        run.created_at = run.scheduled_at = datetime.datetime.now(datetime.timezone.utc)
        run.finished_at, run.run_details, run.state_history = EPOCH, kfp.V2beta1RunDetails(), []
        return run

    def named(self, text):
        (predicate,) = self.client.read(text, "V2beta1Filter").predicates
        if (predicate.operation, predicate.key) != ("EQUALS", "name"):
            raise ValueError(text)
        return [r for r in self.runs if r.display_name == predicate.string_value]

    def set(self, run, state):
        error = kfp.GoogleRpcStatus(code=13, message="no rows") if state == "FAILED" else None
        run.state, run.error = state, error
        now = datetime.datetime.now(datetime.timezone.utc)
        run.state_history.append(kfp.V2beta1RuntimeStatus(now, state, error))

    def id(self, run):
        return run.run_id

    def parameters(self, run):
        return run.runtime_config.parameters

    def answer(self, run):
        return run

    def answers(self, runs):
        return kfp.V2beta1ListRunsResponse(runs=runs or None, total_size=len(runs) or None)

    def error(self, code, text):
        return kfp.GoogleRpcStatus(code=code, message=text)

    begins, ending = "PENDING", "CANCELING"


class V1beta1:
    """The API v1beta1."""

    def __init__(self, client):
        api = kfp.RunServiceApi(client)
        self.client, self.runs = client, []
        self.post, self.list = api.create_run, api.list_runs
        self.get, self.terminate = api.get_run, api.terminate_run
        self.states = []  # any text, to the client

    def create(self, text, number):
        run = self.client.read(text, "ApiRun")
        owners = {r.relationship: r.key.type for r in run.resource_references}
        if not run.name or owners != {"OWNER": "EXPERIMENT", "CREATOR": "PIPELINE_VERSION"}:
            raise ValueError("a run needs a name, an experiment and a version")
        run.id, run.storage_state = number, "STORAGESTATE_AVAILABLE"
        run.created_at = run.scheduled_at = datetime.datetime.now(datetime.timezone.utc)
        run.finished_at = EPOCH
        return run

    def named(self, text):
        (predicate,) = json.loads(text)["predicates"]  # the client has no model of it
        name = predicate.pop("string_value")
        if predicate != {"op": "EQUALS", "key": "name"}:
            raise ValueError(text)
        return [r for r in self.runs if r.name == name]

    def set(self, run, state):
        run.status, run.error = state, "no rows" if state == "Failed" else None

    def id(self, run):
        return run.id

    def parameters(self, run):
        return {p.name: p.value for p in run.pipeline_spec.parameters}

    def answer(self, run):
        return kfp.ApiRunDetail(run=run, pipeline_runtime=kfp.ApiPipelineRuntime())

    def answers(self, runs):
        return kfp.ApiListRunsResponse(runs=runs or None, total_size=len(runs) or None)

    def error(self, code, text):
        return kfp.ApiStatus(code=code, error=text)

    begins, ending = None, "Terminating"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one call after the other."""

    api = None

    def log_message(self, *_):
        pass

    def say(self, status, model):
        data = self.api.client.sanitize_for_serialization(model)
        known(data, type(model).__name__)
        text = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        self.do("")

    def do_POST(self):
        self.do(self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode())

    def do(self, body):
        url = urllib.parse.urlsplit(self.path)
        try:
            if url.path.startswith("/test/"):
                self.say(200, self.test(*url.path.split("/")[2:]))
            else:
                self.call(url, body)
        except Exception as e:  # the text goes to the test
            self.say(400, self.api.error(3, f"{type(e).__name__}: {e}"))

    def test(self, what, word=""):
        """Tells the states, or each run's parameters, or sets the state of all runs."""
        if what == "states":
            return self.api.states
        for run in self.api.runs if what == "set" else []:
            self.api.set(run, word)
        return [self.api.parameters(run) for run in self.api.runs]

    def same(self, url, wanted):
        """Wants the call to be the client's."""
        method, path, query, header = wanted
        ours = dict(urllib.parse.parse_qsl(url.query, strict_parsing=bool(url.query)))
        if (self.command, url.path, ours) != (method, path, query):
            raise ValueError(f"the client calls {method} {path} with {query}")
        for key in header.keys() - {"Accept", "User-Agent"}:
            if self.headers.get(key) != header[key]:
                raise ValueError(f"the client's {key} is not {self.headers.get(key)!r}")

    def call(self, url, body):
        api, rest = self.api, url.path.partition("/runs")[2]
        if not rest and self.command == "POST":
            self.same(url, api.post(json.loads(body)))
            run = api.create(body, f"run-{len(api.runs)}")
            api.runs.append(run)
            if api.begins:
                api.set(run, api.begins)
            return self.say(200, api.answer(run))
        if not rest:
            query = dict(urllib.parse.parse_qsl(url.query))
            self.same(url, api.list(**{k.replace(".", "_"): v for k, v in query.items()}))
            return self.say(200, api.answers(api.named(query["filter"])))
        number = rest[1:].replace(":", "/").split("/")[0]
        self.same(url, (api.get if self.command == "GET" else api.terminate)(number))
        for run in api.runs:
            if api.id(run) == number and self.command == "GET":
                return self.say(200, api.answer(run))
            if api.id(run) == number:
                api.set(run, api.ending)
                return self.say(200, {})
        self.say(404, api.error(5, f"Run {number} not found"))


def main(name, token, header, user):
    configuration = kfp.Configuration(
        api_key={"authorization": token}, api_key_prefix={"authorization": "Bearer"}
    )
    client = Client(configuration, header or None, user)
    Handler.api = V2beta1(client) if name == "v2beta1" else V1beta1(client)
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
