"""One authority per test run, and the certificate for loopback that it signs."""

import ssl
from pathlib import Path

import trustme

HOST = "127.0.0.1"


class Certificates:
    """Files below a folder.

    Attributes:
        authority: Whom clients must trust: the value of AWS_CA_BUNDLE.
        certificate: The chain that servers on loopback show.
        key: Its private key.
    """

    def __init__(self, folder: Path) -> None:
        self.authority = folder / "authority.pem"
        self.certificate = folder / "certificate.pem"
        self.key = folder / "key.pem"
        authority = trustme.CA()
        issued = authority.issue_cert(HOST, "localhost")
        authority.cert_pem.write_to_path(self.authority)
        issued.private_key_pem.write_to_path(self.key)
        for number, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(self.certificate, append=number > 0)

    def serving(self) -> ssl.SSLContext:
        """What a server wraps its sockets with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def trusting(self) -> ssl.SSLContext:
        """What a client without boto3 wraps its sockets with."""
        return ssl.create_default_context(cafile=self.authority)
