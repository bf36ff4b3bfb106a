"""Tells of what millrace does, from the records of its control plane."""

import time

from servers import Failure, ask

QUIET = 30  # seconds without a new alarm after which the loop is closed


class Follower:
    """Looks at the records of the endpoint and says what is new in them."""

    def __init__(self, api, say):
        self._api = api
        self._say = say
        self._told = set()
        self._healed = None  # when the alarm was seen to be over
        self.alarms = []

    def look(self):
        """Reads all records anew. Raises Failure when the loop cannot close any more."""
        self._monitor(self._read("monitors/diamonds"))
        self.alarms = [a["status"] for a in self._read("alarms")["items"] or []]
        for run in self._read("runs")["items"] or []:
            self._run(run["status"])
        self._model(self._read("models/diamonds")["status"])
        for rollout in self._read("rollouts")["items"] or []:
            self._rollout(rollout["status"]["state"])

    def closed(self):
        """Says whether there was an alarm that is over since, and nothing new has come."""
        over = bool(self.alarms) and all("resolved" in a for a in self.alarms)
        if not over:
            self._healed = None
        elif self._healed is None:
            self._healed = time.monotonic()
        return over and time.monotonic() - self._healed > QUIET

    def _read(self, what):
        return ask(f"{self._api}/{what}")

    def _once(self, key, who, text):
        """Says something the first time that the key comes."""
        if key not in self._told:
            self._told.add(key)
            self._say(who, text)

    def _monitor(self, record):
        for event in record.get("status", {}).get("events") or []:
            self._once((event["time"], event["text"]), "monitor", event["text"])

    def _run(self, run):
        text = f"run {run['id']} is {run['state']}"
        if run["state"] == "pending":
            text += f", since {run['reason']}"
        elif run["state"] == "running":
            text += f": {run.get('link', '')}"
        self._once((run["id"], run["state"]), "trigger", text)
        if run["state"] in ("failed", "lost", "suppressed"):
            raise Failure(f"run {run['id']}: {run.get('error')}\n{run.get('logs', '')}")

    def _model(self, status):
        for version in status.get("versions") or []:
            text = f"version {version['name']} is {version['state']}"
            if version.get("reason"):
                text += f": {version['reason']}"
            self._once((version["name"], version["state"]), "registry", text)
        for alias, version in sorted((status.get("aliases") or {}).items()):
            self._once((alias, version), "registry", f"{alias} is version {version}")

    def _rollout(self, state):
        version = f"version {state['canary']['version']}"
        for entry in state["history"]:
            says = {"pending": f"is to be tried beside version {state['stable']['version']}",
                    "shadow": "gets copies of requests; its answers are thrown away",
                    "step": f"gets {entry['weight']:g} % of the requests",
                    "done": f"is {state.get('verdict')}"}.get(entry["to"])
            if says:
                # The figures of the guards follow after the first semicolon.
                self._once((state["id"], entry["time"], entry["to"]), "rollout",
                           f"{version} {says}: {entry['reason'].partition(';')[0]}")
        if state.get("verdict", "successful") != "successful":
            raise Failure(f"rollout {state['id']} is {state['verdict']}: {state['reason']}")
