"""Shows the loop that heals a model, with a real MLflow and a real Airflow.

    python3 examples/loop/loop.py [--keep]

It needs bin/millrace, which `make loop` builds first. All runs on the loopback interface and
ends with this program.
"""

import argparse
import concurrent.futures
import fcntl
import http.client
import json
import os
import pathlib
import shutil
import signal
import string
import subprocess
import sys
import time

import follow
import servers
import traffic
from servers import Failure

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MILLRACE = ROOT / "bin" / "millrace"

RATE = 100  # requests a second
CALM = 60  # seconds before the traffic changes
LIMIT = 420  # seconds after that in which the loop has to close


def together(programs, *jobs):
    """Runs jobs at once and returns what each returns. When one fails all programs end."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        try:
            futures = [pool.submit(job) for job in jobs]
            concurrent.futures.wait(futures, return_when="FIRST_EXCEPTION")
            for future in futures:
                if future.done():
                    future.result()
            return [future.result() for future in futures]
        except BaseException:
            programs.stop()
            raise


class Loop:
    """The programs of the example, and what is done with them."""

    def __init__(self, programs, cache):
        self.programs = programs
        self.folder = programs.folder
        self.cache = cache
        self.began = time.monotonic()

    def say(self, who, text):
        """Prints a line with the time since the start."""
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        print(f"{minutes:02}:{seconds:02}  {who:9} {text}", flush=True)

    def prepare(self):
        """Installs and starts MLflow and Airflow, and trains the first version."""
        self.say("install", f"MLflow and Airflow into {self.cache}; the first time takes minutes")
        python, airflow_python = together(self.programs, *(
            lambda name=name: servers.install(self.programs, self.cache / name,
                                              HERE / f"requirements-{name}.txt")
            for name in ("mlflow", "airflow")))
        self.say("install", "done")
        address = servers.free_address()
        self.mlflow = f"http://{address}"
        env = servers.environment(python, MLFLOW_TRACKING_URI=self.mlflow)

        def mlflow():
            servers.start_mlflow(self.programs, python, address)
            self.say("mlflow", self.mlflow)
            done = json.loads(self.programs.run(
                "train", [python, HERE / "train.py", "first", "--traffic", self.folder], env))
            self.say("mlflow", "version {version} is the {alias}: trained on {rows} stones below "
                     "one carat, {within_15_percent:.0%} of unseen ones within 15 %".format(**done))

        def airflow():
            return servers.start_airflow(self.programs, airflow_python, HERE / "dags", {
                "TRAIN_PYTHON": str(python), "TRAIN_SCRIPT": str(HERE / "train.py"),
                "MLFLOW_TRACKING_URI": self.mlflow})

        _, (self.airflow, self.password) = together(self.programs, mlflow, airflow)
        self.say("airflow", f"{self.airflow}  (user {servers.AIRFLOW_USER}, password "
                 f"{self.password})")

    def serve(self):
        """Starts millrace on what is registered."""
        self.http, self.admin = servers.free_address(), servers.free_address()
        settings = self.folder / "millrace.yaml"
        settings.write_text(string.Template((HERE / "millrace.yaml").read_text()).substitute(
            http=self.http, admin=self.admin, mlflow=self.mlflow, airflow=self.airflow))
        server = servers.start_millrace(self.programs, MILLRACE, settings,
                                        {"AIRFLOW_PASSWORD": self.password})
        server.ready(f"http://{self.http}/v2/models/diamonds/ready")
        self.say("millrace", f"http://{self.http}/docs; in another terminal:")
        self.say("", f"{MILLRACE} get loop diamonds --admin http://{self.admin}")

    def run(self):
        """Sends traffic, changes it, and follows the loop until it is closed."""
        events = follow.Follower(f"http://{self.admin}/api/v1", self.say)
        asker = traffic.Traffic(self.http, self.folder / "small.jsonl",
                                self.folder / "large.jsonl", RATE)
        asker.start()
        try:
            self.say("traffic", f"{RATE} requests a second begin: stones below one carat")
            self.follow(events, asker, CALM, lambda: bool(events.alarms))
            if events.alarms:
                raise Failure("there was an alarm before anything had changed")
            asker.change()
            self.say("traffic", "CHANGE: from now on people ask for stones from one carat up")
            self.follow(events, asker, LIMIT, events.closed)
            if not events.closed():
                raise Failure(f"the loop has not closed within {LIMIT} s")
            self.say("loop", "CLOSED")
        finally:
            asker.stop()

    def follow(self, events, asker, seconds, done):
        """Tells of events and traffic until something is done, or the time is over."""
        end = time.monotonic() + seconds
        told = time.monotonic()
        while time.monotonic() < end and not done():
            time.sleep(0.5)
            self.programs.check()
            try:
                events.look()
            except (OSError, http.client.HTTPException):
                pass  # the machine is busy; the next look tells as much
            if time.monotonic() - told >= 10:
                told = time.monotonic()
                self.say("traffic", asker.take()[0])

    def summary(self):
        """Prints where what has happened can be read."""
        print()
        subprocess.run([MILLRACE, "get", "loop", "diamonds", "--admin", f"http://{self.admin}"],
                       check=True)
        print(f"\nWhat the programs have printed is in {self.folder}.")


def keep():
    """Waits for Ctrl-C."""
    print("All of it goes on running until Ctrl-C.", flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        print()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true",
                        help="leave everything running at the end, to look around")
    args = parser.parse_args()
    if sys.version_info < (3, 11):
        sys.exit("Python 3.11 or later is needed, for MLflow and Airflow as they are pinned")
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
        signal.signal(number, signal.default_int_handler)
    cache = pathlib.Path(os.environ.get("MILLRACE_CACHE") or ROOT / ".cache").resolve() / "loop"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"another loop runs in {cache}")
        folder = cache / "run"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        programs = servers.Programs(folder)
        loop = Loop(programs, cache)
        try:
            loop.prepare()
            loop.serve()
            loop.run()
            loop.summary()
            if args.keep:
                keep()
        except Failure as e:
            loop.say("FAILED", f"{e}\nWhat the programs have printed is in {folder}.")
            sys.exit(1)
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
                signal.signal(number, signal.SIG_IGN)  # what was started is ended in any case
            loop.say("loop", "ending what was started")
            programs.stop()


if __name__ == "__main__":
    main()
