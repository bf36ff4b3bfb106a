"""Pipelines that the tests start: one that may fail, one that hangs, one that is paused."""

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

# Values go through the environment, never into the shell's text.
ENV = {"ENDPOINT": "{{ dag_run.conf['endpoint'] }}", "RUN": "{{ dag_run.conf['millrace_run'] }}"}

for name, command, paused in [
    ("train", 'echo "run $RUN"; test "$ENDPOINT" = fraud', False),
    ("hang", 'echo $$ >"$AIRFLOW_HOME/hang.pid"; exec sleep 1000', False),
    ("paused", "true", True),
]:
    with DAG(name, schedule=None, is_paused_upon_creation=paused):
        BashOperator(task_id="fit", bash_command=command, env=ENV, append_env=True)
