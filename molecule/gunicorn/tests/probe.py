"""Asks the instances of all worker classes of a host at the same time; runs there, as root.

It prints as JSON what happened to each, for the tests to judge.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

RELEASE = "cccccccccccc"
FORWARDED = {"Host": "shop.example.com", "X-Forwarded-For": "6.6.6.6, 203.0.113.9", "X-Forwarded-Proto": "https"}
BODY = b"upload " * 500_000


def output(*command):
    """Return what a command prints."""
    return subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True).stdout.strip()


class Instance:
    """One instance, and what is asked of it."""

    def __init__(self, name):
        self.name = name
        self.unit = f"{name}@{RELEASE}.service"

    def connect(self, timeout=30):
        """Return a connection to the socket."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(timeout)
        connection.sock.connect(f"/run/{self.name}/{RELEASE}/app.sock")
        return connection

    def ask(self, path="/", method="GET", connection=None, timeout=30, **more):
        """Send a request and return status, body and whether the connection closes, or the error."""
        try:
            connection = connection or self.connect(timeout)
            connection.request(method, path, **more)
            response = connection.getresponse()
            return response.status, response.read().decode(), response.will_close
        except (OSError, http.client.HTTPException) as error:
            return 0, repr(error), True

    def at_once(self, paths):
        """Send requests at the same time; return their answers and the seconds that all took."""
        answers = [None] * len(paths)

        def run(number):
            answers[number] = self.ask(paths[number])

        threads = [threading.Thread(target=run, args=(number,)) for number in range(len(paths))]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers, time.monotonic() - began

    def show(self, name):
        """Return a property of the unit."""
        return output("systemctl", "show", "--property", name, "--value", self.unit)

    def workers(self):
        """Return the worker processes."""
        return output("pgrep", "-P", self.show("MainPID")).split()

    def wait(self, holds, seconds):
        """Ask again and again until something holds; return how long it took, or nothing, and what went wrong."""
        began = time.monotonic()
        failures = []
        while time.monotonic() - began < seconds:
            answer = self.ask()
            if answer[0] != 200:
                failures.append(answer)
            if holds():
                return time.monotonic() - began, failures
            time.sleep(0.1)
        return None, failures


def basics(instance):
    """See what the application is told, and what it answers."""
    found = {"seen": json.loads(instance.ask(headers=FORWARDED)[1]), "plain": json.loads(instance.ask()[1])}
    connection = instance.connect()
    found["head"] = [instance.ask(method="HEAD", connection=connection)]
    if not found["head"][0][2]:
        found["head"].append(instance.ask(connection=connection))
    found["upload"] = json.loads(instance.ask(method="POST", body=BODY)[1])["sha256"]
    parts = (BODY[start : start + 1_000_000] for start in range(0, len(BODY), 1_000_000))
    chunked = instance.ask(method="POST", body=parts, headers={"Transfer-Encoding": "chunked"}, encode_chunked=True)
    found["chunked"] = json.loads(chunked[1])["sha256"]
    found["fails"] = instance.ask("/fails")[0]
    return found


def streaming(instance):
    """Take an answer piece by piece; another client asks meanwhile."""
    connection = instance.connect()
    began = time.monotonic()
    connection.request("GET", "/streamed")
    response = connection.getresponse()
    first = response.read(2)
    after = time.monotonic() - began
    return {"first_after": after, "text": (first + response.read()).decode(), "whole_after": time.monotonic() - began}


def flip(instance):
    """Ask over one connection before and after another release is current."""
    current = f"/srv/{instance.name}/current"
    connection = instance.connect()
    answers = [instance.ask(connection=connection)]
    os.symlink("releases/dddddddddddd", f"{current}.new")
    os.rename(f"{current}.new", current)
    if not answers[0][2]:
        answers.append(instance.ask(connection=connection))
    os.symlink(f"releases/{RELEASE}", f"{current}.new")
    os.rename(f"{current}.new", current)
    return [[status, closes] for status, _body, closes in answers]


def many(instance):
    """Send so many requests that both workers are replaced; no answer may be missing."""
    before, wrong, sent = set(instance.workers()), [], 0
    end = time.monotonic() + 60
    while before & set(instance.workers()) and time.monotonic() < end:
        answers, _seconds = instance.at_once(["/"] * 10)
        sent += len(answers)
        wrong += [answer for answer in answers if answer[0] != 200]
    return {"sent": sent, "wrong": wrong, "left": len(before & set(instance.workers())), "now": len(instance.workers())}


def killed(instance):
    """Kill a worker, and then the master."""
    before, master = instance.workers(), instance.show("MainPID")
    os.kill(int(before[0]), signal.SIGKILL)
    worker, _failures = instance.wait(
        lambda: before[0] not in (now := instance.workers()) and len(now) == len(before), 20
    )
    same = instance.show("MainPID") == master
    os.kill(int(master), signal.SIGKILL)
    back, _failures = instance.wait(
        lambda: instance.show("MainPID") not in ("0", master) and instance.ask()[0] == 200, 60
    )
    pause = instance.show("RestartUSec")
    return {"worker_after": worker, "same_master": same, "master_after": back, "pause": pause}


def stuck(instance):
    """Let one request wait for ever, while others are answered."""
    instance.wait(lambda: instance.ask()[0] == 200 and len(instance.workers()) == 2, 60)
    before = instance.workers()
    answer = []
    thread = threading.Thread(target=lambda: answer.append(instance.ask("/stuck", timeout=60)))
    began = time.monotonic()
    thread.start()
    time.sleep(0.3)
    slow = []
    others = threading.Thread(target=lambda: slow.extend(instance.at_once(["/slow"] * 3)[0]))
    # So that the last of them is under way when the worker is given up.
    threading.Timer(3, others.start).start()
    after, failures = instance.wait(
        lambda: len(now := instance.workers()) == 2 and len(set(now) & set(before)) == 1, 40
    )
    thread.join()
    time.sleep(max(0.0, began + 3.5 - time.monotonic()))
    others.join()
    return {"replaced_after": after, "status": answer[0][0], "failures": failures, "slow": [each[0] for each in slow]}


def stop(instance):
    """Stop the instance while requests wait, and connections are kept."""
    instance.wait(lambda: instance.ask()[0] == 200, 60)
    kept = [instance.connect() for _number in range(4)]
    for connection in kept:
        instance.ask(connection=connection)
    answers = []
    # One worker of Tornado may have taken all of them, and gives no sign of life until they are answered.
    paths = ["/short"] * (12 if instance.name == "tornado" else 24)
    asking = threading.Thread(target=lambda: answers.extend(instance.at_once(paths)[0]))
    asking.start()
    time.sleep(0.3)
    began = time.monotonic()
    subprocess.run(["systemctl", "stop", instance.unit], check=True)
    seconds = time.monotonic() - began
    asking.join()
    return {
        "seconds": seconds,
        "wrong": [answer for answer in answers if answer[0] != 200],
        "answers": len(answers),
        "result": instance.show("Result"),
    }


def preloaded(instance):
    """Tell which process has imported the application."""
    return {"imported_by": json.loads(instance.ask()[1])["imported_by"], "master": int(instance.show("MainPID"))}


def probe(name, into):
    """Do everything with one instance."""
    instance = Instance(name)
    into[name] = found = {}
    began = time.monotonic()
    instance.wait(lambda: instance.ask()[0] == 200, 60)
    for step in (basics, preloaded, streaming, side_by_side, flip, many, killed, stuck, stop):
        try:
            found[step.__name__] = step(instance)
        except Exception as error:  # noqa: BLE001 -- the other steps are to be made all the same
            found[step.__name__] = {"error": repr(error)}
        found.setdefault("times", {})[step.__name__] = round(time.monotonic() - began, 1)


def side_by_side(instance):
    """Send as many slow requests at once as no two workers could answer one by one in this time."""
    answers, seconds = instance.at_once(["/short"] * 12)
    return {"seconds": seconds, "statuses": [answer[0] for answer in answers]}


def exits(into):
    """Start an instance whose application ends the process while it is imported."""
    instance = Instance("exits")
    subprocess.run(["systemctl", "start", instance.unit], check=False)
    time.sleep(10)
    into["exits"] = {"restarts": int(instance.show("NRestarts"))}
    subprocess.run(["systemctl", "stop", instance.unit], check=True)


def main():
    """Do everything with all instances at once."""
    found = {}
    threads = [threading.Thread(target=probe, args=(name, found)) for name in sys.argv[1:]]
    threads.append(threading.Thread(target=exits, args=(found,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(found))


main()
