"""The tunnel: resumable, multiplexed, ordered byte streams between an anchor and a rider. No I/O, no clock.

It is made to lose the connection under it. Study it bottom up: `frames` (what stands on the wire), `outbox` (what
is sent and not yet acknowledged), `stream` (windows), `connection` (both ends' law), `events` (what it tells).

Standard library only, and little of that: it runs inside every sandbox.
"""
