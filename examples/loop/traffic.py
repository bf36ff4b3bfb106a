"""Asks the model for prices, and tells it the true ones afterwards."""

import collections
import http.client
import itertools
import json
import threading
import time

CLOSE = 0.15  # an estimate within 15 % of the price is a good one


class Traffic(threading.Thread):
    """Sends rows at a steady rate until stop: first those of one file, after change those of
    another."""

    def __init__(self, address, before, after, rate):
        super().__init__(daemon=True)
        self.address = address
        self.rate = rate
        self._rows = _endless(before)
        self._after = _endless(after)
        self._lock = threading.Lock()  # guards all below
        self._sent = self._failed = 0
        self._close = 0
        self._versions = collections.Counter()
        self._stopped = threading.Event()
        self._fault = ""

    def change(self):
        """From now on the rows are the other ones."""
        self._rows = self._after

    def stop(self):
        """Ends the traffic."""
        self._stopped.set()
        if self.is_alive():
            self.join()

    def take(self):
        """Returns a line about the requests since the last call, and the share of good answers."""
        with self._lock:
            sent, failed, close = self._sent, self._failed, self._close
            versions, fault = self._versions, self._fault
            self._sent = self._failed = self._close = 0
            self._versions, self._fault = collections.Counter(), ""
        answered = sent - failed
        good = close / answered if answered else 0
        text = f"{sent} requests, {good:.0%} of the prices within {CLOSE:.0%}; " + ", ".join(
            f"version {v} answered {n / max(answered, 1):.0%}"
            for v, n in sorted(versions.items()))
        if failed:
            text += f"; {failed} failed: {fault}"
        return text, good, failed

    def run(self):
        connection = http.client.HTTPConnection(self.address, timeout=10)
        due = time.monotonic()
        while not self._stopped.is_set():
            row = next(self._rows)
            try:
                version, close = self._one(connection, dict(row))
                fault = ""
            except (OSError, ValueError, http.client.HTTPException) as e:
                connection.close()  # the next request opens it anew
                version, close, fault = "", False, str(e)
            with self._lock:
                self._sent += 1
                self._close += close
                if fault:
                    self._failed += 1
                    self._fault = fault
                else:
                    self._versions[version] += 1
            # By the schedule, not by the answers; but a pause is not made up for in a burst.
            due = max(due + 1 / self.rate, time.monotonic() - 1)
            self._stopped.wait(max(0, due - time.monotonic()))

    def _one(self, connection, row):
        """Asks for the price of a row, then says what it was."""
        price = row.pop("price")
        headers, answer = _post(connection, "/predict/diamonds", row)
        close = abs(answer["price"] / price - 1) < CLOSE
        _post(connection, "/v2/feedback", {
            "id": headers["x-request-id"], "reward": float(close), "label": price})
        return headers["x-millrace-version"], close


def _post(connection, path, body):
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise ValueError(f"{path} answered {answer.status}: {text[:200].decode(errors='replace')}")
    return answer.headers, json.loads(text)


def _endless(path):
    """Yields the rows of a file again and again."""
    with open(path) as lines:
        return itertools.cycle([json.loads(line) for line in lines])
