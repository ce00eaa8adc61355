"""A machine in a plant: publishes its temperature over MQTT until it is told to stop.

Environment: BROKER_HOST, MQTT_PORT, BROKER_USER, BROKER_PASSWORD; DEVICE, READINGS (how many), INTERVAL (seconds).
"""

import json
import os
import queue
import threading

import paho.mqtt.client as mqtt

HOST = os.environ.get("BROKER_HOST", "127.0.0.1")
PORT = int(os.environ.get("MQTT_PORT", "1883"))
USER = os.environ.get("BROKER_USER", "guest")
PASSWORD = os.environ.get("BROKER_PASSWORD", "guest")
DEVICE = os.environ.get("DEVICE", "press-1")
READINGS = int(os.environ.get("READINGS", "20"))
INTERVAL = float(os.environ.get("INTERVAL", "1"))

TEMPERATURE = f"plant/{DEVICE}/temperature"
COMMANDS = f"plant/{DEVICE}/commands"

commands = queue.SimpleQueue()
subscribed = threading.Event()


def on_connect(client, userdata, flags, reason, properties):
    if reason.is_failure:
        raise SystemExit(f"refused: {reason}")
    client.subscribe(COMMANDS, qos=1)


def on_message(client, userdata, message):
    commands.put(message.payload.decode())


def told_to_stop(seconds):
    """Wait for a command for so long. Whether it is the one to stop."""
    try:
        command = commands.get(timeout=seconds)
    except queue.Empty:
        return False
    print(f"command {command}", flush=True)
    return command == "stop"


def main():
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=DEVICE)
    client.username_pw_set(USER, PASSWORD)
    client.on_connect = on_connect
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = on_message
    client.connect(HOST, PORT, keepalive=30)
    client.loop_start()
    if not subscribed.wait(30):
        raise SystemExit(f"{HOST}:{PORT}: no answer to SUBSCRIBE")
    stopped = False
    for number in range(READINGS):
        reading = {"device": DEVICE, "reading": number, "celsius": 60 + number}
        client.publish(TEMPERATURE, json.dumps(reading), qos=1).wait_for_publish(30)
        print(f"acknowledged {number}", flush=True)
        stopped = told_to_stop(INTERVAL)
        if stopped:
            break
    stopped = stopped or told_to_stop(30)
    client.disconnect()
    client.loop_stop()
    print("stopped" if stopped else "nobody told me to stop", flush=True)


if __name__ == "__main__":
    main()
