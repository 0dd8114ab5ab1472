"""Publishes records as they are given, with confluent-kafka: any bytes, headers and times.

Input (JSON): {"kafka": address, "compression": codec,
               "records": [{"topic", "key", "value": hex or null, "headers": {}, "time_ms"}]}
Output (JSON): {"offsets": [[partition, offset] or the name of an error, ...]}, in the order given
"""
import json
import sys

from confluent_kafka import KafkaException, Producer


def main():
    asked = json.load(sys.stdin)
    producer = Producer({"bootstrap.servers": asked["kafka"], "message.max.bytes": 32 << 20,
                         "compression.type": asked.get("compression", "none")})
    offsets = [None] * len(asked["records"])

    def delivered(index):
        def note(error, message):
            taken = error is None
            offsets[index] = [message.partition(), message.offset()] if taken else error.name()
        return note

    for index, record in enumerate(asked["records"]):
        value = record.get("value")
        times = {"timestamp": record["time_ms"]} if "time_ms" in record else {}
        try:
            producer.produce(record["topic"], None if value is None else bytes.fromhex(value),
                             key=record.get("key"), headers=record.get("headers", {}),
                             on_delivery=delivered(index), **times)
        except KafkaException as error:
            offsets[index] = error.args[0].name()
        # One by one: the order is part of what is tested.
        producer.flush(60)
    json.dump({"offsets": offsets}, sys.stdout)


main()
