"""Back-office jobs over STOMP.

worker.py watch           looks at all temperatures, puts alarms into a queue, and stops machines that are too hot
worker.py work COUNT      takes so many messages from a queue, one after the other

Environment: BROKER_HOST, STOMP_PORT, BROKER_USER, BROKER_PASSWORD; QUEUE, LIMIT (degrees), ALARMS (until it ends).
"""

import json
import os
import queue
import sys

import stomp

HOST = os.environ.get("BROKER_HOST", "127.0.0.1")
PORT = int(os.environ.get("STOMP_PORT", "61613"))
USER = os.environ.get("BROKER_USER", "guest")
PASSWORD = os.environ.get("BROKER_PASSWORD", "guest")
QUEUE = os.environ.get("QUEUE", "alarms")
LIMIT = int(os.environ.get("LIMIT", "70"))
ALARMS = int(os.environ.get("ALARMS", "3"))
PATIENCE = 60


class Inbox(stomp.ConnectionListener):
    """What the broker sends: messages, and the receipts that were asked for."""

    def __init__(self):
        self.messages = queue.Queue()
        self.receipts = queue.Queue()

    def on_message(self, frame):
        self.messages.put(frame)

    def on_receipt(self, frame):
        self.receipts.put(frame.headers["receipt-id"])

    def on_error(self, frame):
        print(f"ERROR {frame.headers.get('message')}: {frame.body}", file=sys.stderr, flush=True)


def send(connection, inbox, destination, body):
    """Returns once the broker has taken it."""
    connection.send(destination, body, content_type="text/plain", headers={"persistent": "true"}, receipt=destination)
    inbox.receipts.get(timeout=PATIENCE)


def watch(connection, inbox):
    connection.subscribe("/topic/plant.*.temperature", id="1", ack="auto", headers={"receipt": "subscribed"})
    inbox.receipts.get(timeout=PATIENCE)
    print("watching", flush=True)
    alarms = 0
    while alarms < ALARMS:
        reading = json.loads(inbox.messages.get(timeout=PATIENCE).body)
        if reading["celsius"] <= LIMIT:
            continue
        alarms += 1
        alarm = f"{reading['device']} has {reading['celsius']} degrees"
        send(connection, inbox, f"/queue/{QUEUE}", alarm)
        print(f"alarm {alarm}", flush=True)
    send(connection, inbox, f"/topic/plant.{reading['device']}.commands", "stop")


def work(connection, inbox, count):
    connection.subscribe(f"/queue/{QUEUE}", id="1", ack="client-individual", headers={"prefetch-count": "1"})
    for _ in range(count):
        frame = inbox.messages.get(timeout=PATIENCE)
        print(f"worked on {frame.body}", flush=True)
        connection.ack(frame.headers["ack"], receipt="done")
        inbox.receipts.get(timeout=PATIENCE)


def main():
    connection = stomp.Connection12([(HOST, PORT)], vhost="/", heartbeats=(10_000, 10_000))
    inbox = Inbox()
    connection.set_listener("inbox", inbox)
    connection.connect(USER, PASSWORD, wait=True)
    if sys.argv[1] == "watch":
        watch(connection, inbox)
    else:
        work(connection, inbox, int(sys.argv[2]))
    connection.disconnect()


if __name__ == "__main__":
    main()
