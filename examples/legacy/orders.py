"""An order service over AMQP 0-9-1.

orders.py place COUNT     publishes orders, each confirmed by the broker before the next
orders.py work COUNT      takes so many orders, and acknowledges each
orders.py prices          answers requests for prices until it is killed
orders.py quote ITEM      asks for a price

Environment: BROKER_HOST, AMQP_PORT, BROKER_USER, BROKER_PASSWORD; QUEUE.
"""

import os
import sys
import uuid

import pika

HOST = os.environ.get("BROKER_HOST", "127.0.0.1")
PORT = int(os.environ.get("AMQP_PORT", "5672"))
USER = os.environ.get("BROKER_USER", "guest")
PASSWORD = os.environ.get("BROKER_PASSWORD", "guest")
QUEUE = os.environ.get("QUEUE", "orders")
PATIENCE = 60

PRICES = {"bolt": "0.20", "nut": "0.10"}
PERSISTENT = pika.BasicProperties(content_type="text/plain", delivery_mode=2)


def place(channel, count):
    channel.queue_declare(QUEUE, durable=True)
    channel.confirm_delivery()
    for number in range(count):
        channel.basic_publish("", QUEUE, f"order {number}", PERSISTENT, mandatory=True)
        print(f"confirmed {number}", flush=True)


def work(channel, count):
    channel.queue_declare(QUEUE, durable=True)
    channel.basic_qos(prefetch_count=10)
    for method, _, body in channel.consume(QUEUE, inactivity_timeout=PATIENCE):
        if method is None:
            raise SystemExit(f"no order in {PATIENCE} s")
        print(f"worked on {body.decode()}", flush=True)
        channel.basic_ack(method.delivery_tag)
        count -= 1
        if not count:
            break
    channel.cancel()


def prices(channel):
    def answer(channel, method, properties, body):
        price = PRICES.get(body.decode(), "unknown")
        reply = pika.BasicProperties(correlation_id=properties.correlation_id)
        channel.basic_publish("", properties.reply_to, price, reply)
        channel.basic_ack(method.delivery_tag)

    channel.queue_declare(QUEUE, durable=True)
    channel.basic_consume(QUEUE, answer)
    print("ready", flush=True)
    channel.start_consuming()


def quote(channel, item):
    replies = channel.queue_declare("", exclusive=True).method.queue
    request = pika.BasicProperties(reply_to=replies, correlation_id=str(uuid.uuid4()))
    channel.basic_publish("", QUEUE, item, request)
    for method, properties, body in channel.consume(replies, auto_ack=True, inactivity_timeout=PATIENCE):
        if method is None:
            raise SystemExit(f"no answer in {PATIENCE} s")
        if properties.correlation_id == request.correlation_id:
            print(f"{item} costs {body.decode()}", flush=True)
            break
    channel.cancel()


def main():
    command, *arguments = sys.argv[1:]
    credentials = pika.PlainCredentials(USER, PASSWORD)
    connection = pika.BlockingConnection(pika.ConnectionParameters(HOST, PORT, credentials=credentials))
    channel = connection.channel()
    if command == "place":
        place(channel, int(arguments[0]))
    elif command == "work":
        work(channel, int(arguments[0]))
    elif command == "prices":
        prices(channel)
    else:
        quote(channel, arguments[0])
    connection.close()


if __name__ == "__main__":
    main()
