"""Publishes a text stream that the project has never seen, with confluent-kafka.

Input (JSON): {"kafka": address, "seed": n, "prefix": ids begin with it,
               "counts": {class: events}, "held_back": texts per class that are not published}
Output (JSON): {"acknowledged": records, "labels_inside": n, "labels_late": n,
                "held_back": [{"text": ..., "label": ...}]}

The sentences are filled-in templates with slips of the pen, words of other subjects and remarks
that say nothing, so that no single word decides.
"""
import json
import random
import sys
import time

from confluent_kafka import Producer

SUBJECTS = {
    "sports": {
        "who": "striker goalkeeper coach sprinter referee captain midfielder swimmer rower boxer".split(),
        "did": "scored missed dribbled sprinted tackled equalised qualified substituted defended volleyed".split(),
        "what": "penalty league stadium trophy match championship relay overtime scoreboard medal tournament team".split(),
    },
    "cooking": {
        "who": "chef baker grandmother cook pastry-maker caterer sommelier butcher waiter apprentice".split(),
        "did": "simmered whisked baked seasoned chopped braised kneaded marinated grilled reduced".split(),
        "what": "sauce risotto saffron casserole dough broth garlic soup pancake spices oven marinade".split(),
    },
    "astronomy": {
        "who": "astronomer observatory telescope satellite probe cosmologist spectrograph stargazer mission rover".split(),
        "did": "observed orbited detected measured eclipsed photographed resolved discovered transited charted".split(),
        "what": "galaxy nebula supernova comet asteroid quasar exoplanet redshift constellation corona crater moon".split(),
    },
    "finance": {
        "who": "investor broker bank treasurer analyst shareholder regulator lender auditor fund".split(),
        "did": "hedged invested borrowed dividended refinanced traded audited securitised underwrote divested".split(),
        "what": "bond equity mortgage portfolio inflation dividend currency futures balance-sheet yield loan market".split(),
    },
    "gardening": {
        "who": "gardener nursery botanist landscaper neighbour allotment florist seedsman orchardist horticulturist".split(),
        "did": "pruned planted mulched watered weeded grafted sowed harvested composted repotted".split(),
        "what": "roses tomatoes hedge seedlings lawn compost tulips greenhouse soil bulbs orchard trellis".split(),
    },
    "sailing": {
        "who": "skipper helmsman crew navigator bosun yachtsman sailmaker harbourmaster deckhand regatta".split(),
        "did": "tacked jibed reefed anchored moored hoisted navigated capsized steered luffed".split(),
        "what": "mainsail spinnaker keel rudder halyard jib boom mast winch tiller sloop leeward".split(),
    },
}
TEMPLATES = [
    "Yesterday the {who} {did} the {what}, and nobody had expected that of the {what2}.",
    "{remark} A {who} who once {did} near the {what} told us about the {what2}.",
    "What a {what}! The {who} simply {did} and then {did2} again. {remark}",
    "The {who} and the {who2} argued about the {what} until one of them {did}.",
    "{remark} It was the third {what} this week that the {who} {did}, beside the {what2}.",
    "If the {what} fails, the {who} said, we shall have {did} for nothing. {remark}",
    "Notes: {what}, {what2}; {who} {did}; {remark}",
]
REMARKS = [
    "It rained.", "Everyone was tired.", "The letter came late.", "Nobody knew why.",
    "We talked about it over coffee.", "That was in March.", "The photograph is blurred.",
    "More about that tomorrow.", "The train was full.", "He laughed, she did not.",
    "There is a longer version.", "Opinions differ.",
]


def sentence(subject, chance):
    """One text of a subject; a word in eight is of another one."""
    def word(kind):
        of = subject if chance.random() > 0.125 else chance.choice(list(SUBJECTS))
        return slip(chance.choice(SUBJECTS[of][kind]), chance)

    def slip(text, chance):
        if len(text) < 4 or chance.random() > 0.05:
            return text
        at = chance.randrange(1, len(text) - 1)
        return text[:at] + text[at + 1] + text[at] + text[at + 2:]

    return " ".join(
        chance.choice(TEMPLATES).format(
            who=word("who"), who2=word("who"), did=word("did"), did2=word("did"),
            what=word("what"), what2=word("what"), remark=chance.choice(REMARKS))
        for _ in range(chance.randint(1, 3)))


def main():
    asked = json.load(sys.stdin)
    chance = random.Random(asked["seed"])
    texts = [label for label, n in asked["counts"].items() for _ in range(n)]
    chance.shuffle(texts)
    acknowledged, failed = 0, []

    def delivered(error, _message):
        nonlocal acknowledged
        if error is None:
            acknowledged += 1
        else:
            failed.append(str(error))

    producer = Producer({"bootstrap.servers": asked["kafka"], "enable.idempotence": True,
                         "compression.type": "lz4", "linger.ms": 5})
    inside, late = 0, []
    for number, label in enumerate(texts):
        event = {"id": f"{asked['prefix']}-{number}", "domain": "notes",
                 "groups": {"length": "odd" if number % 2 else "even"},
                 "parts": [{"text": sentence(label, chance)}]}
        if number % 2:
            event["label"] = label
            inside += 1
        else:
            late.append({"id": event["id"], "label": label})
        producer.produce("tidegate.events", json.dumps(event), key=event["id"],
                         headers={"content-type": "application/json"}, on_delivery=delivered)
        producer.poll(0)
    producer.flush(60)
    time.sleep(0.2)
    for label in late:
        producer.produce("tidegate.labels", json.dumps(label), key=label["id"],
                         on_delivery=delivered)
        producer.poll(0)
    producer.flush(60)
    if failed:
        sys.exit(f"{len(failed)} records were not taken, the first: {failed[0]}")
    held_back = [{"text": sentence(label, chance), "label": label}
                 for label in asked["counts"] for _ in range(asked["held_back"])]
    json.dump({"acknowledged": acknowledged, "labels_inside": inside, "labels_late": len(late),
               "held_back": held_back}, sys.stdout)


main()
