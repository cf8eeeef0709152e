"""Servers that only tests start: S3 as others build it, and one that answers as it is told.

moto.py           moto's S3: right about conditional writes, believes every signature
swift.py          OpenStack Swift's S3: checks signatures, digests and expiry, keeps its data
swift_rings.py    what Swift's processes must know of each other, made in a process of its own
certificates.py   the authority that their certificates over TLS come from
scripted.py       answers what a test says, and counts requests and connections
"""
