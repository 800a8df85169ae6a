#!/usr/bin/env python3
"""A second verifier of the audit log, written from docs/audit.md alone, with nothing but Python itself.

    verify.py KEY FILE      FILE as `vgpuctl audit export` writes it, from leaf 0 on

Prints what holds, or the first thing that does not and exits with 1. It shares no code with the project: that
both agree is what it is for.
"""

import base64
import hashlib
import json
import struct
import sys

# Ed25519, by RFC 8032: points on -x^2 + y^2 = 1 + d x^2 y^2, in plain coordinates. Slow and enough.
P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT = pow(2, (P - 1) // 4, P)


def point(data):
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT % P
    if y >= P or (x * x - square) % P or (x == 0 and sign):
        raise ValueError("no point of the curve")
    return (P - x if x & 1 != sign else x, y)


def add(a, b):
    (x1, y1), (x2, y2) = a, b
    k = D * x1 * x2 * y1 * y2 % P
    return (
        (x1 * y2 + x2 * y1) * pow(1 + k, -1, P) % P,
        (y1 * y2 + x1 * x2) * pow(1 - k, -1, P) % P,
    )


def times(n, a):
    result = (0, 1)
    while n:
        if n & 1:
            result = add(result, a)
        a = add(a, a)
        n >>= 1
    return result


BASE = point((4 * pow(5, -1, P) % P).to_bytes(32, "little"))


def is_signature(key, text, signature):
    if len(signature) != 64:
        return False
    s = int.from_bytes(signature[32:], "little")
    h = hashlib.sha512(signature[:32] + key + text).digest()
    h = int.from_bytes(h, "little") % ORDER
    try:
        return s < ORDER and times(s, BASE) == add(point(signature[:32]), times(h, point(key)))
    except ValueError:
        return False


class Wrong(Exception):
    pass


def need(condition, what):
    if not condition:
        raise Wrong(what)


def leaf_hash(data):
    return hashlib.sha256(b"\0" + data).digest()


def root(leaves):
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << ((len(leaves) - 1).bit_length() - 1)
    return hashlib.sha256(b"\1" + root(leaves[:k]) + root(leaves[k:])).digest()


def parse_key(text):
    name, key_id, rest = text.strip().split("+", 2)
    key = base64.b64decode(rest, validate=True)
    need(len(key) == 33 and key[0] == 1, "the key is not one of Ed25519")
    expected = hashlib.sha256(name.encode() + b"\n" + key).digest()[:4]
    need(bytes.fromhex(key_id) == expected, "the key's id is not its own")
    return name, expected, key[1:]


EVENT_KEYS = ["v", "log", "leaf", "zone", "seq", "count", "prev", "time", "mono_us", "source", "event", "data"]


def parse_event(line):
    event = json.loads(line)
    keys = [key for key in EVENT_KEYS if key != "source" or key in event]
    need(list(event) == keys and event["v"] == 1, "an event has other keys than it should")
    need(event["count"] == 1 or event["event"] == "gap", "an event counts more than itself")
    spelled = json.dumps(event, separators=(",", ":"), ensure_ascii=False)
    need(spelled.encode() == line, "an event is not written the one way it may be")
    next_key = event["data"]["key"] if event["event"] == "key_rotated" else None
    gap = (event["count"], event["data"]["uncertain"]) if event["event"] == "gap" else None
    place = event["log"], event["leaf"], event["zone"], event["seq"], event["count"], bytes.fromhex(event["prev"])
    return place, next_key, gap, None


def parse_calls(data):
    need(len(data) >= 208 and data[:8] == b"VGPUCALL", "calls have no head")
    version, zone_len, records, leaf, seq, log, prev = struct.unpack_from("<HHIQQ16s32s", data, 8)
    names, names_len, _worker, zero = struct.unpack_from("<IIII", data, 96)
    need(version == 1 and 1 <= records <= 4096 and zero == 0, "the head of calls is wrong")
    need(zone_len <= 64 and not any(data[112 + zone_len : 176]), "the zone of calls is wrong")
    zone = data[112 : 112 + zone_len].decode("ascii")
    at, kinds, seen = 208, [], set()
    for _ in range(names):
        kind, length = struct.unpack_from("<BH", data, at)
        name = data[at + 3 : at + 3 + length]
        need(len(name) == length and kind in (1, 2) and (kind, name) not in seen, "a name of calls is wrong")
        seen.add((kind, name))
        kinds.append(kind)
        at += 3 + length
    need(at == 208 + names_len and len(data) == at + 48 * records, "calls have another length than they say")
    client, first = struct.unpack_from("<QQ", data, 192)
    calls = 0
    for number in range(records):
        size, kernel, image, flags = struct.unpack_from("<16xQ18xHHxB", data, at + 48 * number)
        calls += size if flags & 2 else 1
        for index, kind in ((kernel, 1), (image, 2)):
            need(index == 65535 or (index < names and kinds[index] == kind), "a call names what is not there")
    return (log.hex(), leaf, zone, seq, records, prev), None, None, ((data[176:192], client), first, calls)


def signed_by(note, key):
    text, lines = note.rsplit("\n\n", 1)
    text += "\n"
    name, key_id, public = key
    for line in lines.splitlines():
        need(line.startswith("\u2014 "), "a note has a line that is no signature")
        signer, encoded = line[2:].split(" ")
        signature = base64.b64decode(encoded, validate=True)
        if signer == name and signature[:4] == key_id:
            need(is_signature(public, text.encode(), signature[4:]), "a signature is forged")
            return text.split("\n")
    raise Wrong("a checkpoint is not signed by the key in force")


def verify(key, lines):
    log, leaves, zones, rotations, notes = None, [], {}, {}, []
    clients, absent, told = {}, {}, {}
    for line in lines:
        if line.startswith(b'{"v":'):
            data = line
            block = parse_event(line)
        else:
            wrapped = json.loads(line)
            if "checkpoint" in wrapped:
                notes.append(wrapped["checkpoint"])
                continue
            if "chain" in wrapped:
                need(wrapped["chain"]["tree"]["size"] == 0, "this verifier begins at leaf 0")
                continue
            data = base64.b64decode(wrapped["calls"], validate=True)
            block = parse_calls(data)
        (block_log, leaf, zone, seq, count, prev), next_key, gap, calls = block
        log = log or block_log
        need(block_log == log, f"leaf {leaf} belongs to another log")
        need(leaf == len(leaves), f"leaf {len(leaves)} is not where it should be: leaf {leaf} is")
        expected = zones.get(zone, (0, bytes(32)))
        need((seq, prev) == expected, f"leaf {leaf} does not follow the block before it in its zone")
        leaves.append(leaf_hash(data))
        zones[zone] = (seq + count, leaves[-1])
        if next_key:
            rotations[leaf] = next_key
        if gap:
            told[zone] = told.get(zone, 0) + (float("inf") if gap[1] else gap[0])
        if calls:
            client, first, calls = calls
            expected = clients.get((zone, client), 0)
            absent[zone] = absent.get(zone, 0) + max(0, first - expected)
            clients[zone, client] = max(expected, first + calls)
    for zone, missing in absent.items():
        need(missing <= told.get(zone, 0), f"calls of zone {zone} are missing, and no gap tells of so many")
    size_before, signed = 0, 0
    for note in notes:
        origin, size, encoded = signed_by(note, key)[:3]
        size = int(size)
        need(origin == key[0] and size >= size_before, "a checkpoint is out of turn or of another log")
        need(size <= len(leaves), f"{size} leaves were signed and {len(leaves)} are there")
        need(base64.b64decode(encoded) == root(leaves[:size]), f"the first {size} leaves are not those that were signed")
        for leaf in [leaf for leaf in rotations if leaf < size]:
            key = parse_key(rotations.pop(leaf))
            signed_by(note, key)
        size_before = signed = size
    return len(leaves), signed


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[2], "rb") as file:
        lines = file.read().splitlines()
    try:
        count, signed = verify(parse_key(sys.argv[1]), lines)
    except (Wrong, ValueError, KeyError, TypeError, IndexError, struct.error) as error:
        print(f"does not hold: {error}")
        sys.exit(1)
    print(f"holds: {count} leaves, {signed} of them signed")


main()
