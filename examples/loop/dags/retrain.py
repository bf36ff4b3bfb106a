"""The pipeline that millrace starts: it trains the price model anew on captured requests."""

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

# What millrace sends is the conf of the run. It goes through the environment, never into the
# shell's text. TRAIN_PYTHON and TRAIN_SCRIPT are of Airflow's own environment.
ENV = {name.upper(): "{{ dag_run.conf['%s'] }}" % name
       for name in ("millrace_run", "samples", "evidence")}

with DAG("retrain_diamonds", schedule=None, is_paused_upon_creation=False, max_active_runs=1):
    BashOperator(
        task_id="train", env=ENV, append_env=True,
        bash_command='"$TRAIN_PYTHON" "$TRAIN_SCRIPT" again --run "$MILLRACE_RUN" '
                     '--samples "$SAMPLES" --evidence "$EVIDENCE"')
