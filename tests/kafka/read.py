#!/usr/bin/env python3
"""Reads a topic from its beginning to where it ends now, with a client that is not ours.

    read.py BOOTSTRAP TOPIC [--messages] [KEY=VALUE ...]

Prints the log as lines (docs/audit.md): an event as it is, a block of calls as {"calls": base64}, a note with an
empty line after it. With --messages, a JSON object for each message instead: partition, offset, timestamp and its
type, key, and the value as its line. KEY=VALUE are settings of librdkafka, such as security.protocol=SASL_SSL.
"""

import base64
import json
import sys

from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, Consumer, TopicPartition

TYPES = {TIMESTAMP_CREATE_TIME: "CreateTime", TIMESTAMP_LOG_APPEND_TIME: "LogAppendTime"}
PATIENCE = 60


def messages(bootstrap, topic, settings):
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "vgpu-audit-reader",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            **settings,
        }
    )
    found = consumer.list_topics(topic, PATIENCE).topics[topic]
    if found.error is not None:
        sys.exit(f"read.py: {topic}: {found.error}")
    for number in sorted(found.partitions):
        first, end = consumer.get_watermark_offsets(TopicPartition(topic, number), PATIENCE)
        consumer.assign([TopicPartition(topic, number, first)])
        while first < end:
            message = consumer.poll(PATIENCE)
            if message is None:
                sys.exit(f"read.py: {topic}: partition {number} ends at {end} and gives nothing after {first}")
            if message.error() is not None:
                sys.exit(f"read.py: {topic}: {message.error()}")
            first = message.offset() + 1
            yield message
    consumer.close()


def as_line(value):
    if value.startswith(b"VGPUCALL"):
        return json.dumps({"calls": base64.b64encode(value).decode()}, separators=(",", ":"))
    return value.decode()


def as_message(message):
    kind, milliseconds = message.timestamp()
    return json.dumps(
        {
            "partition": message.partition(),
            "offset": message.offset(),
            "type": TYPES.get(kind, "none"),
            "time": milliseconds,
            "key": message.key().decode(),
            "line": as_line(message.value()),
        }
    )


def main(arguments):
    whole = "--messages" in arguments
    rest = [word for word in arguments if word != "--messages"]
    if len(rest) < 2:
        sys.exit(__doc__)
    settings = dict(word.split("=", 1) for word in rest[2:])
    for message in messages(rest[0], rest[1], settings):
        print(as_message(message) if whole else as_line(message.value()))


main(sys.argv[1:])
