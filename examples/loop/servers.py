"""Installs and runs the programs of the example: MLflow, Airflow and millrace."""

import hashlib
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

START = 180  # seconds that a server may take on a busy machine
STOP = 20  # seconds after which a program that does not end is killed


class Failure(Exception):
    """What went wrong, for people."""


class Programs:
    """All that was started. What they print is in files of a folder."""

    def __init__(self, folder):
        self.folder = folder
        self._lock = threading.Lock()  # guards the rest
        self._running = []
        self._stopped = False

    def start(self, name, command, env):
        """Starts a program that runs until stop."""
        with self._lock:
            if self._stopped:
                raise Failure("it was stopped")
            program = Program(name, command, env, self.folder)
            self._running.append(program)
        return program

    def run(self, name, command, env):
        """Runs a program to its end. Returns the last line that it printed."""
        program = self.start(name, command, env)
        code = program.process.wait()
        with self._lock:
            self._running.remove(program)
        if code:
            raise Failure(f"{name} has failed:\n{program.said()}")
        return program.said().rstrip().rpartition("\n")[2]

    def check(self):
        """Raises Failure if one has ended."""
        with self._lock:
            for program in self._running:
                program.check()

    def stop(self):
        """Ends all, the last one first, with their children."""
        with self._lock:
            self._stopped = True
            for program in reversed(self._running):
                program.signal(signal.SIGTERM)
            for program in reversed(self._running):
                program.end()
            self._running.clear()


class Program:
    """A program in a session of its own: Ctrl-C is for us, who end it in good order."""

    def __init__(self, name, command, env, folder):
        self.name = name
        self.log = folder / f"{name}.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command], env=env, cwd=folder, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True)

    def said(self):
        """Returns the end of what it has printed."""
        return self.log.read_text(errors="replace")[-3000:]

    def check(self):
        """Raises Failure if the program has ended."""
        if self.process.poll() is not None:
            raise Failure(f"{self.name} has ended:\n{self.said()}")

    def ready(self, url, good=lambda answer: True):
        """Waits until an address answers, and with what is wanted."""
        end = time.monotonic() + START
        while time.monotonic() < end:
            self.check()
            try:
                if good(ask(url)):
                    return
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.2)
        raise Failure(f"{self.name} was not ready within {START} s; see {self.log}")

    def signal(self, number):
        """Signals the program and its children."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def end(self):
        """Waits until the program has ended, and kills what is left of it."""
        try:
            self.process.wait(STOP)
        except subprocess.TimeoutExpired:
            pass
        self.signal(signal.SIGKILL)
        self.process.wait()


def ask(url):
    """Returns the JSON that an address answers, or None where it is none."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read()
    try:
        return json.loads(text)
    except ValueError:
        return None


def free_address():
    """Returns an address of the loopback interface whose port the system had free."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{s.getsockname()[1]}"


def install(programs, folder, requirements):
    """Makes a virtual environment with what a file lists. Returns its Python.

    It is kept, and made anew when the file or the Python changes.
    """
    python, done = folder / "bin" / "python", folder / "installed"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest() + sys.version
    if done.exists() and done.read_text() == wanted:
        return python
    # Without compiled files every start would compile for half a minute.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    programs.run(f"venv-{folder.name}", [sys.executable, "-m", "venv", "--clear", folder], env)
    programs.run(f"pip-{folder.name}", [
        python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
        "--compile", "-r", requirements], env)
    done.write_text(wanted)
    return python


def environment(python, **more):
    """Returns the environment for programs of a virtual environment."""
    return {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}",
            "MLFLOW_DISABLE_TELEMETRY": "true", **more}


def start_mlflow(programs, python, address):
    """Starts MLflow with SQLite."""
    folder = programs.folder
    server = programs.start("mlflow", [
        python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port",
        address.rpartition(":")[2], "--workers", "1", "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db", "--serve-artifacts", "--artifacts-destination",
        folder / "artifacts"], environment(python, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"))
    server.ready(f"http://{address}/health")


AIRFLOW_USER = "millrace"


def start_airflow(programs, python, dags, more):
    """Starts Airflow with SQLite, one worker and one user. Returns its URL and the password."""
    address, folder, password = free_address(), programs.folder, secrets.token_urlsafe(12)
    url = f"http://{address}"
    passwords = folder / "airflow-passwords.json"
    passwords.touch(0o600)
    passwords.write_text(json.dumps({AIRFLOW_USER: password}))
    settings = {
        "CORE__DAGS_FOLDER": dags, "CORE__LOAD_EXAMPLES": False,
        "CORE__EXECUTOR": "LocalExecutor", "CORE__PARALLELISM": 1,
        "CORE__SIMPLE_AUTH_MANAGER_USERS": f"{AIRFLOW_USER}:admin",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": passwords,
        "CORE__FERNET_KEY": "A" * 43 + "=",  # it encrypts connections, of which there are none
        "CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder}/airflow.db",
        "API__HOST": "127.0.0.1", "API__PORT": address.rpartition(":")[2], "API__WORKERS": 1,
        "API__BASE_URL": url, "API__SECRET_KEY": secrets.token_urlsafe(32),
        "API_AUTH__JWT_SECRET": secrets.token_urlsafe(64),
    }
    env = environment(python, AIRFLOW_HOME=str(folder / "airflow"), **more,
                      **{f"AIRFLOW__{key}": str(value) for key, value in settings.items()})
    airflow = python.parent / "airflow"
    programs.run("airflow-db", [airflow, "db", "migrate"], env)
    # Reads the DAGs once, so that no process has to run that reads them again and again.
    programs.run("airflow-dags", [airflow, "dags", "reserialize"], env)
    api = programs.start("airflow-api-server", [airflow, "api-server"], env)
    api.ready(f"{url}/api/v2/version")
    api.ready(f"{url}/execution/health")  # the first call of it takes long
    scheduler = programs.start("airflow-scheduler", [airflow, "scheduler", "--skip-serve-logs"],
                               env)
    scheduler.ready(f"{url}/api/v2/monitor/health",
                    lambda health: health["scheduler"]["status"] == "healthy")
    return url, password


def start_millrace(programs, binary, settings, env):
    """Starts millrace with a settings file. Returns the program."""
    return programs.start("millrace", [binary, "serve", "-c", settings], {**os.environ, **env})
