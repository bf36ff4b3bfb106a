"""Reads a run back with MLflow's own client.

read_run.py URI RUN ARTIFACT OUT.json
"""

import json
import sys

import mlflow

uri, run_id, artifact, out = sys.argv[1:]
mlflow.set_tracking_uri(uri)
client = mlflow.MlflowClient()
run = client.get_run(run_id)
history = {
    key: [[m.step, m.timestamp, repr(m.value)] for m in client.get_metric_history(run_id, key)]
    for key in run.data.metrics
}
with open(out, "w") as f:
    json.dump(
        {
            "status": run.info.status,
            "start": run.info.start_time,
            "end": run.info.end_time,
            "name": run.info.run_name,
            "params": run.data.params,
            "tags": run.data.tags,
            "history": history,
            "artifact": mlflow.artifacts.load_text(f"runs:/{run_id}/{artifact}"),
        },
        f,
    )
