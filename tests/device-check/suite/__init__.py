"""Programs on this machine's driver, side by side with the same programs through the proxy.

machine.py finds what is here, sides.py starts the proxy and makes the two environments, cases.py runs a
program on both sides and compares, parts.py says which programs, report.py writes it down.
"""
